"""Checkpoints of a run: folders, written beside, hashed, flushed to disk and renamed; never a pickle.

checkpoints/step-0000500/ holds model.safetensors, ema.safetensors, optimizer.safetensors, state.json, config.json
(the model's) and manifest.json with every other file's size and sha256.
"""

import os
import shutil
import warnings
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from latte.files import read_json, write_json
from latte.weights.folder import MANIFEST, damage, write_manifest
from latte.weights.tensors import write_tensors

ASIDE = "damaged-"  # before the name of a checkpoint that is not what was written


def flush(path: Path) -> None:
    """Make sure that a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(
    run: Path, step: int, tables: dict[str, dict[str, Tensor]], notes: dict[str, dict], keep: int, keep_every: int = 0
) -> Path:
    """Write tables (name -> tensors) and notes (name -> JSON) as the checkpoint of `step`.

    The last `keep` stay, and those of every keep_every-th step. OSError or SafetensorError: it could not be written,
    and everything is as it was.
    """
    folder = run / "checkpoints"
    final, draft = folder / f"step-{step:07d}", folder / f".draft-{step:07d}"
    clear(folder)
    try:
        draft.mkdir(parents=True)
        for name, tensors in tables.items():
            write_tensors(draft / f"{name}.safetensors", tensors)
        for name, values in notes.items():
            write_json(draft / f"{name}.json", values)
        write_manifest(draft, sorted(path.name for path in draft.iterdir()))
        for path in [*draft.iterdir(), draft]:
            flush(path)
        os.replace(draft, final)
    except BaseException:
        clear(folder)
        raise
    flush(folder)
    for old in found(run)[:-keep]:
        if not keep_every or step_of(old) % keep_every:
            os.replace(old, folder / f".old-{old.name}")  # never half a checkpoint under a checkpoint's name
    clear(folder)
    return final


def clear(folder: Path) -> None:
    """Remove what is no checkpoint yet, or no longer one."""
    for name in (".draft-*", ".old-*"):
        for path in folder.glob(name):
            shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, sound or not."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted((path for path in folders if path.name.removeprefix("step-").isdecimal()), key=step_of)


def latest(run: Path) -> Path | None:
    """The newest sound checkpoint; None: there never was one.

    A damaged one is set aside, with a warning, and the one before it taken. ValueError: only damaged ones are left.
    """
    for folder in reversed(found(run)):
        wrong = damage(folder) if (folder / MANIFEST).is_file() else f"{MANIFEST} is missing"
        if wrong is None:
            return folder
        aside = folder.with_name(f"{ASIDE}{folder.name}")
        warnings.warn(f"{folder}: {wrong}; set aside as {aside.name}, taking the checkpoint before it", stacklevel=2)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
    if hurt := sorted((run / "checkpoints").glob(f"{ASIDE}*")):
        raise ValueError(f"{run} has damaged checkpoints alone ({hurt[-1].name}): restore one, or give another folder")
    return None


def read(folder: Path, name: str) -> dict[str, Tensor]:
    """One table of a checkpoint."""
    return load_file(folder / f"{name}.safetensors")


def read_state(folder: Path) -> dict:
    """A checkpoint's state.json."""
    return read_json(folder / "state.json")
