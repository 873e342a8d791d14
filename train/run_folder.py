"""What a run folder holds besides checkpoints, and what happens to anything else in the same place."""

import os
import warnings
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from latte.files import set_aside
from latte.train.base_config import TrainConfig
from latte.train.changes import CHANGES_FILE
from latte.train.data.kept_latents import KEPT_LATENTS, KEPT_TOGETHER
from latte.train.metrics import METRICS_FILE
from latte.train.resolve import resolve
from latte.train.snapshots import AVERAGES
from latte.train.trackers import TENSORBOARD, TRACKED_FILE
from latte.train.watch import SAMPLES
from latte.weights.find_models import CHECKPOINTS, COMPANIONS, FINAL

SETTINGS_FILE = "config.yaml"
FAILED_VIDEOS = "failed.txt"  # lists the videos that could not be read, and why
LOGS = (".err", ".log", ".out", ".txt")
# what a run writes besides its checkpoints. The settings are last, because the first process writes them first: a
# process that looks meanwhile and sees one of the others then also sees the settings
OUTPUTS = (
    *(FINAL, METRICS_FILE, *COMPANIONS, SAMPLES, AVERAGES, TENSORBOARD, TRACKED_FILE, FAILED_VIDEOS, CHANGES_FILE),
    *(KEPT_LATENTS, KEPT_TOGETHER, SETTINGS_FILE),
)


def set_misplaced_aside(folder: Path) -> None:
    """Rename, with a warning, anything that a run would not write there, such as a folder in a file's place."""
    for path in (folder / name for name in OUTPUTS if name != SAMPLES):  # a run continues without samples
        is_right = path.is_file if path.suffix else path.is_dir
        if os.path.lexists(path) and not (is_right() and os.access(path, os.R_OK)):
            what = "cannot be read" if is_right() else f"is not a {'file' if path.suffix else 'folder'}"
            warnings.warn(f"{path} {what}; renamed to {set_aside(path).name}", stacklevel=2)


def check_unused(folder: Path, config: TrainConfig, asked: Collection[str] = ()) -> None:
    """Check that a run folder without checkpoints holds nothing that training would overwrite.

    Files of an earlier start with the same settings that stopped before its first checkpoint are fine, and so are
    logs, which a shell may write there.

    Raises:
        ValueError: It holds something else.
    """
    # before its settings are looked for, since the first process may write them meanwhile
    foreign = sorted(name for name in os.listdir(folder) if is_foreign(name)) if folder.is_dir() else []
    present = [name for name in OUTPUTS if os.path.lexists(folder / name)]
    try:
        before = asdict(resolve(str(folder / SETTINGS_FILE), [])) if SETTINGS_FILE in present else {}
    except ValueError:
        before = {}
    fixed = asdict(config).keys() - config.resumable() - (config.tunable() & {*asked})
    other = [name for name in sorted(fixed) if before.get(name) != getattr(config, name)]
    if before and other and FINAL not in present:
        said = f"{folder} holds a run with different settings ({', '.join(other)}) but no checkpoint"
        raise ValueError(f"{said}: repeat its settings, choose another folder, or delete it")
    if present and (FINAL in present or other):
        raise ValueError(f"{folder} holds {present[0]} but no checkpoint: choose another folder, or delete it")
    if foreign and not before:
        raise ValueError(f"{folder} is not a run: it holds {foreign[0]}; choose another folder for --run")


def is_foreign(name: str) -> bool:
    """Whether a name in a folder is neither hidden, nor an output of a run, nor a log."""
    return name[0] != "." and name not in (*OUTPUTS, CHECKPOINTS) and Path(name).suffix not in LOGS
