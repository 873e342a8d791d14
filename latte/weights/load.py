"""A Latte out of whatever it comes in, and into a folder of ours: config.json beside model.safetensors."""

import math
import os
import warnings
from pathlib import Path

import torch

from latte.files import read_json
from latte.models.latte import Latte, LatteConfig
from latte.weights.convert_latte import original_config, original_state, unwrap
from latte.weights.folder import CONFIG, WEIGHTS, digest_folder, read_config, save_folder
from latte.weights.tensors import CheckpointError, load_strictly, prefix_errors, read_tensors

BUNDLED = Path(__file__).parent.parent / "assets"
OTHERS = {  # what a folder is whose config.json has such a key
    "block_out_channels": "a VAE, which belongs to a Latte: name that one, and the VAE as vae, or --vae",
    "caption_channels": "a part of a text-to-video model: name the folder above it",
    "d_model": "a part of a text-to-video model: name the folder above it",
    "widths": "a network of features, which makes no videos",
}
STEPS_FILE = "trained.json"  # in a run's final/: the number of steps that it is of


def find_model(name: str | Path) -> Path:
    """What ships, by name ("shapes", "shapes/vae"), or else a path; of a run's folder, what it trained.

    A path that has the name of what ships is "./shapes", and a warning says so. CheckpointError: there is nothing; it
    names the models that ship.
    """
    path = Path(name)
    folders = {config.parent for config in BUNDLED.rglob(CONFIG)}
    folders |= {folder.parent for folder in folders if is_text_pipeline(folder.parent)}
    shipped = {str(folder.relative_to(BUNDLED)): folder for folder in folders}
    if str(name) in shipped:
        if path.exists():
            warnings.warn(f"{name} is taken for the model that ships; the path here is ./{name}", stacklevel=2)
        return shipped[str(name)]
    if not path.exists():
        models = ", ".join(sorted(known for known, folder in shipped.items() if folder.parent == BUNDLED)) or "none"
        raise CheckpointError(f"no model at {name}; give a path, or one that ships: {models}")
    trained = [path / "final", *path.glob("checkpoints/step-*")]
    inside = [folder for folder in trained if (folder / CONFIG).is_file() or is_text_pipeline(folder)]
    return max(inside, key=steps_done) if inside and not (path / CONFIG).exists() else path


def steps_done(folder: Path) -> float:
    """Of a run's final/, which may be older than its checkpoints where it went on since, or of one of these."""
    if folder.name == "final":
        record = folder / STEPS_FILE
        return read_json(record).get("steps", math.inf) if record.is_file() else math.inf
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def is_text_pipeline(path: Path) -> bool:
    """Whether it is the folder of a text-to-video model, or a checkpoint of one, and not a class-conditional one."""
    if (path / "transformer" / CONFIG).is_file():
        return True
    return is_checkpoint(path) and not read_json(path / CONFIG).keys().isdisjoint(("text_encoder", "caption_channels"))


def is_checkpoint(path: Path) -> bool:
    """Whether it is a checkpoint of a training, which has the run's folder around it."""
    return (path / "state.json").is_file() and (path / CONFIG).is_file()


def model_root(path: Path) -> Path:
    """The folder of what a model's weights need, such as its VAE: the model's own; of a run's checkpoint, the run's."""
    folder = Path(os.path.abspath(path)).parent  # checkpoints/ may be a link: what counts is where it was linked to
    return folder.parent if is_checkpoint(path) and folder.name == "checkpoints" else path


def own_vae(path: Path) -> Path | None:
    """The folder of the VAE that a model comes with; None: with none.

    CheckpointError: where a checkpoint's should be is another one than it learned with.
    """
    vae = model_root(path) / "vae"
    if not vae.is_dir():
        return None
    if is_checkpoint(path) and read_json(path / "state.json").get("data", {}).get("vae") != digest_folder(vae):
        raise CheckpointError(f"{vae} is not the VAE that {path} learned with: put that one there, or name it (--vae)")
    return vae


def weights_file(path: str | Path, weights: str = "ema") -> Path:
    """The file that load_model takes the weights from. CheckpointError: there is no such model."""
    path = find_model(path)
    if not path.is_dir():
        return path
    ema = path / "ema.safetensors"
    return ema if weights == "ema" and ema.is_file() else path / WEIGHTS


def load_model(path: str | Path, num_heads: int | None = None, weights: str = "ema") -> Latte:
    """A Latte in evaluation mode, called as model(x, t, y), from any of:

    a model that ships, by name; a folder of ours; a training run's folder, or a checkpoint in it; the original's .pt
    or .safetensors file, wrapped in {"ema", "model"} or bare. `weights`: "ema" or "model", where both are stored.
    `num_heads`: for original weights of an unpublished width. CheckpointError says what is missing, damaged or does
    not fit.
    """
    if weights not in ("ema", "model"):
        raise ValueError(f"weights is {weights!r}, not 'ema' or 'model'")
    path, file = find_model(path), weights_file(path, weights)
    if path.is_dir():
        check_kind(path)
        config, state = read_config(path, LatteConfig.from_dict), read_tensors(file)
        if num_heads not in (None, config.num_heads):
            raise CheckpointError(f"{path} has {config.num_heads} heads, not {num_heads}")
    else:
        with prefix_errors(file):
            state = unwrap(read_tensors(file), weights)
            config = original_config(state, num_heads)
            state = original_state(state, config.num_heads)
    with torch.device("meta"):
        model = Latte(config)
    load_strictly(model, state, file)
    return model.eval()


def check_kind(path: Path) -> None:
    """CheckpointError: the folder is of something else than a Latte, with what to do."""
    with prefix_errors(path / CONFIG):
        values = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    if is_text_pipeline(path):
        raise CheckpointError(f"{path} is a text-to-video model: LattePipeline.from_pretrained reads it")
    if what := next((what for key, what in OTHERS.items() if key in values), None):
        raise CheckpointError(f"{path} is {what}")


def save_model(model: Latte, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder that load_model reads, its weights in `dtype`; errors: see save_folder."""
    return save_folder(model, folder, dtype)
