"""A model's folder: config.json, model.safetensors and manifest.json, which says what was written."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte.files import read_json, write_json
from latte.weights.tensors import CheckpointError, cast, digest, prefix_errors, write_tensors

MANIFEST, CONFIG, WEIGHTS = "manifest.json", "config.json", "model.safetensors"


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that somebody might take its weights from; drafts, which are hidden, are not."""
    kinds = (".safetensors", ".bin", ".pt")
    return sorted(path for path in folder.iterdir() if path.suffix in kinds and not path.name.startswith("."))


def digest_folder(folder: Path) -> str:
    """sha256 over the weight files of a folder and its config.json."""
    parts = [digest(path) for path in [*weight_files(folder), folder / CONFIG]]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def read_config(folder: Path, make: Callable[[dict], Any]) -> Any:
    """What `make` makes of a folder's config.json, after what the folder's manifest says was verified.

    CheckpointError: there is none, it makes nothing, or a file is not what was written.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json: not a model folder")
    if (wrong := damage(folder)) is not None:
        raise CheckpointError(f"{folder}: {wrong}: write it again (or, if the change is meant, delete {MANIFEST})")
    with prefix_errors(path):
        return make(read_json(path))


def save_folder(module: nn.Module, folder: str | Path, dtype: torch.dtype | None = torch.float32) -> Path:
    """Write module.config and module's weights: config.json, model.safetensors and their manifest.

    The weights in `dtype`; None: each in its own. Over a folder that it wrote before, too. Stopped on the way, it
    leaves one that is not read, and can be written again. CheckpointError, before anything is changed: the folder
    holds something else, or a weight does not fit.
    """
    folder = Path(folder)
    check_target(folder)
    state = cast(module.state_dict(), dtype)
    invalidate(folder)
    write_tensors(folder / WEIGHTS, state)
    for path in weight_files(folder):
        if path.name != WEIGHTS:
            path.unlink()
    write_json(folder / CONFIG, asdict(module.config))
    write_manifest(folder, [CONFIG, WEIGHTS])
    return folder


def invalidate(folder: Path) -> None:
    """Make a folder ours, and nothing in it to be read, until it is written."""
    write_manifest(folder, [])
    (folder / CONFIG).unlink(missing_ok=True)


def check_target(folder: Path) -> None:
    """CheckpointError: the folder holds something that save_folder did not write, and would mix with or destroy."""
    if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
        return
    try:
        ours = listed(folder).keys() <= {CONFIG, WEIGHTS}
    except (ValueError, OSError):
        ours = False
    if not ours:
        raise CheckpointError(f"{folder} is not empty and not a model folder written here: choose a new one")


def write_manifest(folder: Path, names: list[str]) -> None:
    """Sizes and sha256 of these files of a folder, as manifest.json in it."""
    about = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)} for name in names}
    write_json(folder / MANIFEST, about)


def listed(folder: Path) -> dict[str, dict]:
    """What manifest.json says: file name -> its "bytes" and "sha256". ValueError: it is not such a table."""
    files = read_json(folder / MANIFEST)
    for name, about in files.items():
        plain = name.isprintable() and Path(name).name == name
        if not plain or not isinstance(about, dict) or about.keys() != {"bytes", "sha256"}:
            raise ValueError(f"{folder / MANIFEST} is not a table of files")
    return files


def damage(folder: Path) -> str | None:
    """What differs from the folder's manifest, weights that it does not list included; None: nothing, or no manifest.

    What is no weight file (class names, a VAE's folder, notes) may stand beside without being listed.
    """
    if not (folder / MANIFEST).exists():
        return None
    try:
        files = listed(folder)
    except ValueError:
        return f"{MANIFEST} cannot be read"
    for name, about in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != about["bytes"]:
            return f"{name} is missing or cut"
        if digest(path) != about["sha256"]:
            return f"{name} is not what was written"
    strangers = [path.name for path in weight_files(folder) if path.name not in files]
    return f"{strangers[0]} is not one of its files" if strangers else None
