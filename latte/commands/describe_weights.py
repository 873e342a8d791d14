"""What a model's folder or a file of weights holds, for `latte info PATH`."""

import math
from collections.abc import Iterator
from pathlib import Path

from latte.arguments import in_units
from latte.eval.tensor_files import holds_video_tensors, stored_shapes
from latte.files import read_json, refuse_pointer
from latte.weights.find_models import PARTS, WEAKER, is_checkpoint
from latte.weights.manifest import CONFIG, weight_files
from latte.weights.manifest import WEIGHTS as MODEL
from latte.weights.scaled_weights import WEIGHT_SCALES
from latte.weights.shared_parts import shared_parts
from latte.weights.state_files import state_files
from latte.weights.tensors import CheckpointError, nature, nested_tables
from latte.weights.torch_files import read_torch_file

Lines = Iterator[tuple[str, object]]
WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
NETWORKS = {  # by a key in config.json; all others are a Latte
    "block_out_channels": "a VAE",
    "widths": "a feature network",
    "text_encoder": "a text-to-video model",
    "caption_channels": "a text-to-video transformer",
}


def about_pipeline(path: Path) -> Lines:
    """The parts of a text-to-video model."""
    for part in (path / name for name in (*PARTS, WEAKER) if (path / name).is_dir()):
        files = state_files(part) if (part / CONFIG).is_file() and part.name != "scheduler" else []
        yield part.name, f"{in_units(parameters(files))} parameters" if files else "no weights"
    yield from about_shared(path)


def about_model(path: Path) -> Lines:
    """Its shape, and what lies beside it."""
    config = read_json(path / CONFIG)
    kind = next((what for name, what in NETWORKS.items() if name in config), "a Latte")
    files = [path / MODEL] if is_checkpoint(path) else weight_files(path)
    yield "network", f"{kind} of {in_units(parameters(files))} parameters"
    shown = {name: value for name, value in config.items() if not name.startswith("_") and not isinstance(value, dict)}
    yield "shape", ", ".join(f"{name}={value}" for name, value in shown.items())
    if (path / WEAKER / CONFIG).is_file():
        count = in_units(parameters(weight_files(path / WEAKER)))
        yield WEAKER, f"{count} parameters, which autoguidance leads away from"
    folders = sorted(entry.name for entry in path.iterdir() if entry.name[0] != "." and entry.is_dir())
    yield "beside it", ", ".join(folders)
    yield from about_shared(path)


def about_shared(path: Path) -> Lines:
    """The parts that a model takes from bundled models."""
    for part, folder in shared_parts(path).items():
        if not (path / part).is_dir():
            yield part, f"that of {folder.parent.name}"


def about_weights(path: Path) -> Lines:
    """The tables of tensors in a file."""
    for name, table in tables_in(path).items():
        if table:
            first = next(iter(table))
            count = sum(map(math.prod, table.values()))
            yield name, f"{len(table)}, {in_units(count)} numbers; the first is {first} {table[first]}"


def tables_in(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of the tensors in a file of weights, by table. Raises CheckpointError if it is damaged."""
    refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return {"tensors": stored_shapes(path)}
        content = read_torch_file(path, values=False)
        shapes = lambda table: {name: tuple(z.shape) for name, z in table.items() if hasattr(z, "shape")}
        found = nested_tables(content) if isinstance(content, dict) else ()
        return {".".join(map(str, names)) or "tensors": shapes(table) for names, table in found}
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can raise almost anything
        raise CheckpointError(f"{path} {nature(path)}") from error


def parameters(files: list[Path]) -> int:
    """The number of values in some files of weights, without the scales of 8-bit weights."""
    shapes = ((name, shape) for file in files for table in tables_in(file).values() for name, shape in table.items())
    return sum(math.prod(shape) for name, shape in shapes if str(name).rpartition(".")[2] not in WEIGHT_SCALES)


def is_weights(path: Path) -> bool:
    """Whether a file holds weights, and not videos or features."""
    return path.is_file() and path.suffix.lower() in WEIGHTS and not holds_video_tensors(path)
