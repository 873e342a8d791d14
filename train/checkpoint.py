"""Checkpoints of a run: folders, written beside, hashed, flushed to disk and renamed; never a pickle.

checkpoints/step-0000500/ holds model.safetensors, ema.safetensors, optimizer.safetensors, state.json, config.json
(the model's) and manifest.json with every other file's size and sha256.
"""

import os
import shutil
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from latte.files import read_json, write_json
from latte.folder import MANIFEST, damage, write_manifest
from latte.tensors import write_tensors


def flush(path: Path) -> None:
    """Make sure that a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(run: Path, step: int, tables: dict[str, dict[str, Tensor]], notes: dict[str, dict], keep: int) -> Path:
    """Write tables (name -> tensors) and notes (name -> JSON) as the checkpoint of `step`; the last `keep` stay."""
    folder = run / "checkpoints"
    final, draft = folder / f"step-{step:07d}", folder / f".draft-{step:07d}"
    for old in folder.glob(".draft-*"):
        shutil.rmtree(old)
    draft.mkdir(parents=True)
    for name, tensors in tables.items():
        write_tensors(draft / f"{name}.safetensors", tensors)
    for name, values in notes.items():
        write_json(draft / f"{name}.json", values)
    write_manifest(draft, sorted(path.name for path in draft.iterdir()))
    for path in [*draft.iterdir(), draft]:
        flush(path)
    if final.exists():
        shutil.rmtree(final)
    os.replace(draft, final)
    flush(folder)
    for old in found(run)[:-keep]:
        shutil.rmtree(old)
    return final


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, sound or not."""
    return sorted((run / "checkpoints").glob("step-*"))


def latest(run: Path) -> Path | None:
    """The newest sound checkpoint; a damaged one is set aside, with a warning, and the one before it taken."""
    for folder in reversed(found(run)):
        wrong = damage(folder) if (folder / MANIFEST).is_file() else f"{MANIFEST} is missing"
        if wrong is None:
            return folder
        aside = folder.with_name(f"damaged-{folder.name}")
        warnings.warn(f"{folder}: {wrong}; set aside as {aside.name}, taking the checkpoint before it", stacklevel=2)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as a flat table of tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of optimizer_tensors."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read(folder: Path, name: str) -> dict[str, Tensor]:
    """One table of a checkpoint."""
    return load_file(folder / f"{name}.safetensors")


def read_state(folder: Path) -> dict:
    """A checkpoint's state.json."""
    return read_json(folder / "state.json")
