"""Checkpoints of a run, written so that a crash at any moment leaves only complete ones.

checkpoints/step-0000500/ holds model.safetensors, ema.safetensors, optimizer.safetensors, state.json, config.json (of
the network), and manifest.json with the size and the SHA-256 of every other file. With average_every it also holds the
two averages that snapshots are taken from; head.safetensors holds what learns with the network but is not averaged. A
checkpoint is written as a draft (latte.drafts), flushed to disk, and renamed. There are no pickles.
"""

import os
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from latte.drafts import HIDDEN, discard, flush, flush_entries, remove
from latte.files import DAMAGED, read_json, replacing_folder, set_aside, utf8_path, write_json
from latte.weights.manifest import MANIFEST, damage, read_manifest, write_manifest
from latte.weights.tensors import write_tensors

NEEDED = {"model.safetensors", "ema.safetensors", "state.json"}  # what a manifest must list


def save(
    run: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    records: dict[str, dict[str, Any]],
    keep: int,
    keep_every: int = 0,
) -> Path:
    """Write a checkpoint, then delete old ones.

    Args:
        run: The run folder.
        step: How many steps are done.
        tensors: The tensors of each .safetensors file, by the file's name.
        records: The values of each .json file, by the file's name.
        keep: How many of the newest checkpoints to keep.
        keep_every: Also keep the checkpoints at multiples of this step; 0: none.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: The disk is full, for instance. The earlier checkpoints are then unchanged.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{step:07d}"
    remove_leftovers(folder)
    if os.path.lexists(final):  # something else of that name
        set_aside(final)
    with replacing_folder(final) as draft:
        for name, values in tensors.items():
            write_tensors(draft / f"{name}.safetensors", values)
        for name, values in records.items():
            write_json(draft / f"{name}.json", values)
        write_manifest(draft, sorted(path.name for path in draft.iterdir()))
        flush(draft)
    flush_entries(folder)
    for old in list_checkpoints(run)[:-keep]:
        if not keep_every or step_of(old) % keep_every:
            discard(old)
    return final


def remove_leftovers(folder: Path) -> None:
    """Remove partly written and partly deleted checkpoints; the run's lock keeps other writers out."""
    for path in folder.glob(".*"):
        if HIDDEN.fullmatch(path.name) or path.name.startswith((".draft-", ".old-")):  # the latter from version 0.1.0
            remove(path)


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first. They may be damaged.

    Raises:
        OSError: The checkpoints folder cannot be read. It must not be mistaken for an empty one.
        ValueError: It is not a folder: a link to a disk that is not mounted, for instance.
    """
    folder = run / "checkpoints"
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        kind = f"a link to {os.readlink(folder)}, which is not a folder" if folder.is_symlink() else "not a folder"
        raise ValueError(f"{folder} is {kind}: put the checkpoints back, or delete it to start again")
    names = (name for name in os.listdir(folder) if name.startswith("step-"))
    return sorted((folder / name for name in names if name.removeprefix("step-").isdecimal()), key=step_of)


def latest(run: Path) -> Path | None:
    """Find the newest checkpoint that is not damaged. Newer, damaged ones are renamed, with a warning.

    Returns:
        Its folder, or None if the run has no checkpoint.

    Raises:
        OSError, ValueError: All checkpoints are damaged or unreadable, or their folder is unreadable.
    """
    unreadable = ""
    oldest_first = list_checkpoints(run)
    for folder in reversed(oldest_first):
        rest = "" if folder == oldest_first[0] else "; trying the one before it"
        try:
            reason = whats_wrong(folder)
        except OSError as error:  # perhaps only for a while: it stays where it is
            unreadable = f"{folder} cannot be read: {error.strerror}"
            warnings.warn(f"{unreadable}{rest}", stacklevel=2)
            continue
        if reason is None:
            return folder
        warnings.warn(f"{folder}: {reason}; renamed to {DAMAGED}{folder.name}{rest}", stacklevel=2)
        set_aside(folder)
    if unreadable:
        raise ValueError(f"{unreadable}, and there is no earlier one: make it readable, or choose another folder")
    if damaged := sorted((run / "checkpoints").glob(f"{DAMAGED}step-*")):
        which = "all checkpoints are damaged" if len(damaged) > 1 else "the only checkpoint is damaged"
        raise ValueError(f"{run}: {which} ({damaged[-1].name}): restore one, or choose another folder")
    return None


def whats_wrong(folder: Path) -> str | None:
    """Say why a checkpoint cannot be used; None if it can. Raises OSError if it cannot be read."""
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is missing"
    if (reason := damage(folder)) is not None:
        return reason
    missing = sorted(NEEDED - read_manifest(folder).keys())
    return f"{MANIFEST} does not list {missing[0]}" if missing else None


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Read a .safetensors file of a checkpoint."""
    with utf8_path(folder / f"{name}.safetensors") as readable:
        return load_file(readable)


def read_state(folder: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint."""
    return read_json(folder / "state.json")
