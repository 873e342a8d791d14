"""The model folders that this project writes: config.json, model.safetensors, and a manifest of both."""

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from latte.drafts import own_folder
from latte.files import CheckpointError, prefix_errors, read_json, refuse_pointer, replacing_folder, write_json
from latte.weights.eight_bits import stored_in_eight_bits
from latte.weights.manifest import CONFIG, MANIFEST, WEIGHTS, damage, read_manifest, weight_files, write_manifest
from latte.weights.tensors import cast, write_tensors

Network = TypeVar("Network", bound=nn.Module)


def weights_name(variant: str | None) -> str:
    """The name of the weight file, with or without a variant such as "fp16". Raises ValueError if it is not a word."""
    if variant is not None and not re.fullmatch(r"\w[\w-]*", variant):
        raise ValueError(f"variant is {variant!r}; it must be a word for a file's name, such as fp16")
    return WEIGHTS if variant is None else WEIGHTS.replace(".", f".{variant}.")


def is_ours(name: str) -> bool:
    """Whether this is a file name that write_network uses."""
    return name == CONFIG or re.fullmatch(weights_name(None).replace(".", r"(\.\w[\w-]*)?\.", 1), name) is not None


def read_config(folder: Path, make: Callable[[dict], Any]) -> Any:
    """Read the config.json of a model folder, after verifying the files that the folder's manifest lists.

    Args:
        folder: A model folder. One without a manifest is not verified.
        make: Turns the table in config.json into a configuration; it raises ValueError for a table that it rejects.

    Returns:
        What `make` returns.

    Raises:
        CheckpointError: There is no config.json, `make` rejects it, or a file differs from the manifest.
    """
    path = folder / CONFIG
    files = weight_files(folder) if folder.is_dir() else []
    if not path.is_file():  # such as a folder that accelerate or DeepSpeed saved
        advice = f": give a file in it, {files[0].name}" if files else ""
        if any(re.search(r"-\d+-of-\d+\.", file.name) for file in files):
            advice = ", and its weights are in shards: merge them into one file, and give that"
        if folder.is_dir() and any(folder.glob("*.distcp")):
            advice = ": merge it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and give that file"
        raise CheckpointError(f"{folder} holds no config.json, so it is not a model folder{advice}")
    for file in files:
        refuse_pointer(file)
    if (wrong := damage(folder)) is not None:
        raise CheckpointError(f"{folder}: {wrong}; write the folder again, or delete {MANIFEST} to accept it")
    with prefix_errors(path):
        return make(read_json(path))


def make_network(network: Callable[[Any], Network], config: Any, state: dict[str, Tensor], path: Path) -> Network:
    """Make a network without values, on the meta device.

    Args:
        network: Makes it from its configuration.
        config: The configuration, which may ask for a network that takes long to make.
        state: The weights that it will get.
        path: Where they come from, for messages.

    Raises:
        CheckpointError: There are too few weights for the configuration.
    """
    if len(state) < config.least_tensors:
        raise CheckpointError(f"{path}: {len(state)} tensors are too few for {config.least_tensors} blocks")
    with torch.device("meta"):
        return network(config)


def save_folder(module: nn.Module, folder: str | Path, dtype: torch.dtype | None = torch.float32) -> Path:
    """Write `module.config` and the weights of `module` as a model folder.

    An existing model folder is replaced, but everything else in it is kept. If writing is interrupted, the folder stays
    unchanged. The targets of links in it are never changed.

    Args:
        module: A network with a dataclass `config`.
        folder: Where to write; it must be new, empty, or a model folder written here.
        dtype: The type to convert the weights to; None keeps their own types.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder holds something else, or a weight overflows `dtype`. Nothing was changed.
        OSError: The folder cannot be written. Nothing was changed.
    """
    folder = Path(folder)
    check_replaceable(folder)
    with replacing_folder(folder, keep=True) as draft:
        write_network(module, draft, dtype)
    return folder


def write_network(module: nn.Module, draft: Path, dtype: torch.dtype | None, variant: str | None = None) -> None:
    """Write the config.json, weights and manifest of a network into the draft of a folder, or a subfolder of it.

    With dtype=torch.int8, latte.weights.eight_bits stores them.
    """
    own, weights = module.state_dict(), weights_name(variant)
    state = stored_in_eight_bits(own) if dtype == torch.int8 else cast(own, dtype)
    earlier = [path.name for path in own_folder(draft).iterdir() if is_ours(path.name)]
    for name in (*earlier, MANIFEST):
        (draft / name).unlink(missing_ok=True)  # weights of another variant, for instance
    write_tensors(draft / weights, state)
    write_json(draft / CONFIG, asdict(module.config))
    write_manifest(draft, [CONFIG, weights])


def check_replaceable(folder: Path) -> None:
    """Raise CheckpointError if the folder is neither empty nor written by save_folder, or if it holds other weights.

    Other weights would not be removed, and would count as damage beside the new ones.
    """
    if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
        return
    try:
        listed = read_manifest(folder)
        ours = all(map(is_ours, listed))
    except (ValueError, OSError):
        ours = False
    if not ours:
        raise CheckpointError(f"{folder} is not empty and not a model folder written here; choose a new folder")
    if others := [path.name for path in weight_files(folder) if path.name not in listed]:
        raise CheckpointError(f"{folder} holds other weights too, {others[0]}: move them away, or choose a new folder")


def refuse_leftovers(folder: Path, given: dict[str, bool]) -> None:
    """Raise CheckpointError if the folder holds a file or subfolder that would be taken for a part of another model.

    Args:
        folder: Where a model is to be written.
        given: Names in the folder, and whether the model to be written has such a part.
    """
    for name, is_given in given.items():
        if not is_given and (folder / name).exists():
            raise CheckpointError(f"{folder} holds {name}, which this model does not have; choose a new folder")
