"""Sets of videos for evaluation: lossless files, made by any number of processes that share only a folder.

Video i depends only on the set's record and on i, and the work is cut into fixed units of batch_size videos. So it does
not matter how many processes there are, which one makes a unit, or whether one is killed: the files are the same, byte
for byte. The missing files are the work that is left.

A process claims a unit by locking a byte of a file. The operating system releases the lock when the process dies. A
process that finds no free unit waits for the others to finish theirs, and takes over a unit whose owner dies. So every
process returns when the set is complete.
"""

import fcntl
import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from latte import __version__
from latte.arguments import MOST_AT_ONCE, MOST_VIDEOS, check_count
from latte.class_conditioning import ORIGINAL_SCHEDULER
from latte.device import device_name, one_thread
from latte.drafts import remove_abandoned
from latte.fast.onednn import choose_products, onednn_is_faster
from latte.fast.switch import is_enabled
from latte.pipeline import LattePipeline
from latte.progress import Progress
from latte.sample_record import (
    DIGESTS,
    RECORD,
    add_digests,
    check_record,
    keeps_digests,
    read_digests,
    read_whole,
    settle_digests,
    write_record,
)
from latte.video.read import read_video
from latte.video.write import write_video
from latte.weights.find_models import WEAKER
from latte.weights.manifest import digest

LOCKS = ".locks"  # byte 0 locks the record, byte 1 + i the unit whose first video is i
FORMAT = 1  # version of the record, the file names and the codec


@dataclass(frozen=True)
class SampleSet:
    """Videos 0 to count - 1 of a folder.

    Attributes:
        folder: Where the videos are.
        count: The size of the complete set.
        batch_size: Videos per unit of work.
        record: Everything that the videos depend on.
    """

    folder: Path
    count: int
    batch_size: int
    record: dict

    def path(self, i: int) -> Path:
        """The file of video i."""
        return self.folder / f"{i:06d}.mkv"

    def missing(self, numbers: range | None = None) -> list[int]:
        """Indices of the missing videos, among all or among these numbers."""
        there = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        numbers = range(self.count) if numbers is None else numbers
        return [i for i in numbers if i < self.count and f"{i:06d}.mkv" not in there]

    def units(self, rank: int, world_size: int) -> list[range]:
        """Units with a missing video, as complete ranges; this process's share of all units comes first."""
        turn = lambda number: ((number - rank) % world_size, number)
        numbers = sorted({i // self.batch_size for i in self.missing()}, key=turn)
        return [range(n * self.batch_size, (n + 1) * self.batch_size) for n in numbers]

    def check_folder(self, write: bool) -> None:
        """Check that the folder is empty, or holds this set or a smaller one to extend.

        Args:
            write: Also write the record, if it is missing or names a smaller set.

        Raises:
            ValueError: The folder holds other videos, or something else.
        """
        path, count, digests = self.folder / RECORD, 0, {}
        # list the folder before looking for the record: other processes may write it, and videos, at any time
        there = os.listdir(self.folder) if self.folder.is_dir() else []
        if path.exists():
            made = read_whole(self.folder)
            digests = made.pop(DIGESTS, None)
            count, made["model"] = made.pop("count", 0), self.record.get("model")  # a path may have another name
            check_count(f"{path}: count", count, MOST_VIDEOS)
            ours, theirs = dict(flat(self.record)), dict(flat(made))
            for name in (name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)):
                was, now = (reprlib.repr(values.get(name)).strip("'") for values in (theirs, ours))
                what = f"{name.removeprefix('settings.')} {was}, not {now}"
                raise ValueError(f"{path}: these videos were made with {what}: choose another folder")
        elif others := [name for name in there if name[0] != "."]:
            raise ValueError(f"{self.folder} holds {min(others)} but no {RECORD}: choose an empty folder, or a new one")
        if write and self.count > count:
            write_record(self.folder, {"count": self.count, **self.record}, digests)

    def remove_damaged(self, rank: int, world_size: int, locks: IO) -> None:
        """Remove the damaged files in this process's share of the set, so that they are made again.

        Raises:
            ValueError: Something that is not a file, such as a folder, has the name of a video.
        """
        digests, there = read_digests(self.folder), set(os.listdir(self.folder))
        numbers, sound = [i for i in range(rank, self.count, world_size) if self.path(i).name in there], []
        for i in numbers:
            if self.is_sound(i, digests):
                sound.append(self.path(i).name)
                continue
            with claimed(locks, 1 + i // self.batch_size * self.batch_size, wait=True):
                # another process may have written it in the meantime, so it is checked again
                if not self.is_sound(i, read_digests(self.folder)):
                    self.path(i).unlink(missing_ok=True)
        if new := [name for name in sound if name not in digests]:
            with claimed(locks, 0, wait=True):
                add_digests(self.folder, new)

    def is_sound(self, i: int, digests: dict[str, str]) -> bool:
        """Whether the file of video i matches its digest; in a set without digests, whether it can be decoded."""
        path = self.path(i)
        if not path.is_file():
            if path.exists():
                raise ValueError(f"{path} is not a file, but a video must be written there: move it away")
            return False
        if path.name in digests:
            return digest(path) == digests[path.name]
        if keeps_digests(self.folder):
            return False
        try:
            return bool(len(read_video(path)[0]))
        except ValueError:
            return False

    def remove_drafts(self) -> None:
        """Remove unfinished files of killed processes, once all videos are there."""
        drafts = [path for path in self.folder.glob(".??????.part*.mkv") if path.name[1:7].isdecimal()]
        ours = [path for path in drafts if int(path.name[1:7]) < self.count]
        for draft in ours:
            draft.unlink(missing_ok=True)
        remove_abandoned(self.folder)  # of the record: on a file system without locks another process may write it now


def sample_many(
    pipe: LattePipeline,
    count: int,
    folder: str | Path,
    labels: list[int | str] | None = None,
    settings: dict | None = None,
    about: dict | None = None,
    fps: float = 8,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> int:
    """Complete a folder of videos 0 to count - 1: 000000.mkv and so on (FFV1, lossless), and samples.json.

    On a CPU it computes in one thread, because the number of threads changes rounding: start more processes to use more
    cores.

    Args:
        pipe: The pipeline that makes the videos.
        count: Size of the set.
        folder: Where to write. A smaller set that is already there is extended.
        labels: Classes or prompts; video i shows number i % len(labels). None for an unconditional model.
        settings: Further arguments of the pipeline call.
        about: What else the videos depend on, such as the sha256 of the weights; "model" is only informative.
        fps: Frames per second of the files.
        rank: Index of this process among those started together. It only affects how the work is divided.
        world_size: How many processes were started together.
        progress: Show a progress bar.

    Returns:
        How many videos were missing at the start.

    Raises:
        ValueError: The folder holds something else, or the pipeline refuses a setting.
    """
    check_count("count", count, MOST_VIDEOS)
    settings = {"batch_size": 1, **(settings or {})}
    check_count("batch_size", settings["batch_size"], MOST_AT_ONCE)
    if labels is not None and not labels:
        raise ValueError("labels is empty: name at least one class or prompt")
    with one_thread(), choose_products(recorded_products(Path(folder))):
        record = check_record(set_record(pipe, labels, settings, about or {}, fps))
        samples = SampleSet(Path(folder), count, settings["batch_size"], record)
        samples.check_folder(write=False)
        return complete_set(pipe, samples, labels, settings, fps, (rank, world_size), progress)


def complete_set(
    pipe: LattePipeline, samples: SampleSet, labels: list[int | str] | None, settings: dict, fps: float,
    process: tuple[int, int], progress: bool,
) -> int:  # fmt: skip
    """Make the missing videos of a set, see `sample_many`; `process` is (rank, world_size)."""
    options, count = {**settings, "output_type": "uint8", "progress": False}, samples.count
    samples.folder.mkdir(parents=True, exist_ok=True)
    with (samples.folder / LOCKS).open("ab") as locks:
        samples.remove_damaged(*process, locks)
        lacking = len(samples.missing())
        with Progress(desc="sampling", total=count, initial=count - lacking, unit="video", disable=not progress) as bar:
            options["callback_on_step_end"] = partial(show_step, bar)
            for wait in (False, True):
                for unit in samples.units(*process):
                    with claimed(locks, 1 + unit.start, wait) as ours:
                        if ours and samples.missing(unit):
                            make_unit(pipe, samples, unit, call_arguments(pipe, labels, unit) | options, locks, fps)
                    bar.update(count - len(samples.missing()) - bar.n)
        with claimed(locks, 0, wait=True):
            samples.remove_drafts()
            settle_digests(samples.folder)
    return lacking


def show_step(bar: Progress, pipe: LattePipeline, step: int, timestep: float, tensors: dict[str, Tensor]) -> None:
    """Show which step the current videos have reached."""
    bar.set_postfix_str(f"step {step + 1} of {pipe.num_timesteps}")


def make_unit(pipe: LattePipeline, samples: SampleSet, unit: range, arguments: dict, locks: IO, fps: float) -> None:
    """Make a unit's videos and write those that are missing."""
    videos = pipe(**arguments, first=unit.start).frames
    with claimed(locks, 0, wait=True):
        samples.check_folder(write=True)
    written = samples.missing(unit)
    for i in written:
        write_if_missing(videos[i - unit.start], samples.path(i), fps)
    with claimed(locks, 0, wait=True):
        add_digests(samples.folder, [samples.path(i).name for i in written])


def write_if_missing(video: Tensor, path: Path, fps: float) -> None:
    """Write a video. On a file system without locks another process may have written it and removed our draft."""
    try:
        write_video(video, path, fps)
    except FileNotFoundError:
        if not path.is_file():
            raise


def call_arguments(pipe: LattePipeline, labels: list | None, unit: range) -> dict:
    """Arguments of the pipeline call for the videos with these indices."""
    if labels is None:
        return {"num_videos": len(unit)}
    name = "prompt" if pipe.takes_prompts else "class_labels"
    return {name: [labels[i % len(labels)] for i in unit]}


def recorded_products(folder: Path) -> bool:
    """Whether oneDNN computes the set in a folder; for a new one, as measured here."""
    return bool(read_whole(folder).get("onednn")) if (folder / RECORD).exists() else onednn_is_faster()


def set_record(pipe: LattePipeline, labels: list | None, settings: dict, about: dict, fps: float) -> dict:
    """Everything that a set's bytes depend on, as JSON."""
    parts = {name: part for name, part in pipe.components.items() if name != WEAKER}
    configs = {name: part.config for name, part in parts.items() if hasattr(part, "config")}
    if not pipe.takes_prompts and pipe.scheduler == ORIGINAL_SCHEDULER:
        configs.pop("scheduler")  # the settings name the sampler, and records without a scheduler stay valid
    configs |= {} if pipe.weaker is None else {"autoguidance": pipe.weaker_record()}
    record = {
        "format": FORMAT,
        **about,
        "labels": labels,
        "settings": settings,
        "fps": fps,
        **{name: asdict(config) if is_dataclass(config) else config for name, config in configs.items()},
        "device": device_name(pipe.device),
        **({"fast": True} if is_enabled() else {}),  # the fast forms round differently
        **({"onednn": True} if pipe.device.type == "cpu" and onednn_is_faster() else {}),  # so does oneDNN
        "torch": torch.__version__,
        "latte": __version__,
    }
    return json.loads(json.dumps(record))


def flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(name, value) of every entry, with names such as "settings.seed"."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@contextmanager
def claimed(locks: IO, place: int, wait: bool) -> Iterator[bool]:
    """Try to lock a byte of a file for the block; yields whether this process holds it.

    On a file system without locks every process holds every byte: at worst, work is done twice, to the same bytes.
    """
    ours = True
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except OSError as error:
        ours = not isinstance(error, BlockingIOError | PermissionError)  # POSIX allows either if another holds the lock
    try:
        yield ours
    finally:
        if ours:
            with suppress(OSError):
                fcntl.lockf(locks, fcntl.LOCK_UN, 1, place)
