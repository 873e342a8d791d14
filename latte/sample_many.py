"""Videos for evaluation: a lossless file each, made by any number of processes that share nothing but a folder.

Video i is a function of the set's record and of i, and the work goes in fixed units of batch_size videos, so that it
does not matter which process makes a unit, how often one was killed, or how many there are: the files have the same
bytes. What is missing is what is left to do. A process holds a unit by a lock on a byte of a file, which the system
releases when the process dies; one that finds nothing free waits for what others hold, and takes it over if they die.
So every process returns when the set is whole.
"""

import fcntl
import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor
from tqdm import tqdm

from latte import __version__
from latte.conditioning import MOST_VIDEOS, check_count
from latte.device import device_name
from latte.files import read_json, write_json
from latte.pipeline import LattePipeline
from latte.video.write import write_video

RECORD = "samples.json"
LOCKS = ".locks"  # byte 0: the record's; byte 1 + i: that of the unit whose first video is i
FORMAT = 1  # of the record, and of the names and the codec of the videos


@dataclass(frozen=True)
class SampleSet:
    """Videos 0 to count - 1 of a folder, in units of batch_size, and the record of what they depend on."""

    folder: Path
    count: int
    batch_size: int
    record: dict

    def path(self, i: int) -> Path:
        """The file of video i."""
        return self.folder / f"{i:06d}.mkv"

    def missing(self, numbers: range | None = None) -> list[int]:
        """The videos that are not there, or those among some numbers."""
        there = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        numbers = range(self.count) if numbers is None else numbers
        return [i for i in numbers if i < self.count and f"{i:06d}.mkv" not in there]

    def units(self, rank: int, world_size: int) -> list[range]:
        """The units that something is missing of, beginning with this process's share of all; all of them whole."""
        turn = lambda number: ((number - rank) % world_size, number)
        numbers = sorted({i // self.batch_size for i in self.missing()}, key=turn)
        return [range(n * self.batch_size, (n + 1) * self.batch_size) for n in numbers]

    def agree(self, write: bool) -> None:
        """See that the folder is this set's, or a smaller one's that grows; write: make it so if it is nobody's.

        ValueError: it holds other videos, or something else.
        """
        path, count = self.folder / RECORD, 0
        # listed before the record is looked for: others may write that, and videos, at any time
        there = os.listdir(self.folder) if self.folder.is_dir() else []
        if path.exists():
            made = read_json(path)
            count, made["model"] = made.pop("count", 0), self.record.get("model")  # what a path is called may change
            check_count(f"{path}: count", count, MOST_VIDEOS)
            ours, theirs = dict(flat(self.record)), dict(flat(made))
            for name in (name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)):
                was, now = (reprlib.repr(values.get(name)) for values in (theirs, ours))
                raise ValueError(f"{path}: these videos were made with {name} {was}, not {now}: choose another folder")
        elif others := [name for name in there if name[0] != "."]:
            raise ValueError(f"{self.folder} holds {min(others)} and no {RECORD}: choose an empty folder, or a new one")
        if write and self.count > count:
            write_json(path, {"count": self.count, **self.record})

    def tidy(self) -> None:
        """Remove what killed processes left of the record, and of these videos, now that they are all there."""
        drafts = [path for path in self.folder.glob(".??????.part*.mkv") if path.name[1:7].isdecimal()]
        ours = [path for path in drafts if int(path.name[1:7]) < self.count]
        for draft in (*ours, *self.folder.glob(".samples.part*.json")):
            draft.unlink(missing_ok=True)


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
    """Make what a folder's videos 0 to count - 1 lack: 000000.mkv (FFV1, lossless) and so on, and samples.json.

    labels: classes or prompts, of which video i shows number i % len(labels); None: the model is unconditional.
    settings: what the pipeline's call takes beside them. about: what else the videos depend on, such as the sha256 of
    the weights; its "model" is for the reader alone. rank, world_size: this process among those that were started
    together, to spread them from the start; nothing else depends on them. Computes in one thread on a CPU, where the
    number of threads changes rounding: more cores need more processes.
    Returns, when all are there, how many were missing at first. ValueError: see SampleSet.agree and the
    pipeline's call.
    """
    check_count("count", count, MOST_VIDEOS)
    settings = {"batch_size": 1, **(settings or {})}
    check_count("batch_size", settings["batch_size"], 4096)
    if labels is not None and not labels:
        raise ValueError("labels is empty: name at least one class or prompt")
    record = described(pipe, labels, settings, about or {}, fps)
    samples = SampleSet(Path(folder), count, settings["batch_size"], record)
    samples.agree(write=False)
    lacking = len(samples.missing())
    options = {**settings, "output_type": "uint8", "progress": False}
    samples.folder.mkdir(parents=True, exist_ok=True)
    with (
        one_thread(),
        (samples.folder / LOCKS).open("ab") as locks,
        tqdm(total=count, initial=count - lacking, disable=not progress, unit="video", desc="sampling") as bar,
    ):
        for wait in (False, True):
            for unit in samples.units(rank, world_size):
                with claimed(locks, 1 + unit.start, wait) as ours:
                    if ours and samples.missing(unit):
                        videos = pipe(**question(pipe, labels, unit), **options, first=unit.start).frames
                        with claimed(locks, 0, wait=True):
                            samples.agree(write=True)
                        for i in samples.missing(unit):
                            write(videos[i - unit.start], samples.path(i), fps)
                bar.update(count - len(samples.missing()) - bar.n)
        with claimed(locks, 0, wait=True):
            samples.tidy()
    return lacking


def write(video: Tensor, path: Path, fps: float) -> None:
    """Write a video; where there are no locks, another process may have made it, and removed this draft of it."""
    try:
        write_video(video, path, fps)
    except FileNotFoundError:
        if not path.is_file():
            raise


def question(pipe: LattePipeline, labels: list | None, unit: range) -> dict:
    """What the pipeline's call takes for the videos of these numbers."""
    if labels is None:
        return {"num_videos": len(unit)}
    name = "prompt" if pipe.takes_prompts else "class_labels"
    return {name: [labels[i % len(labels)] for i in unit]}


def described(pipe: LattePipeline, labels: list | None, settings: dict, about: dict, fps: float) -> dict:
    """What every byte of a set depends on, as JSON has it."""
    configs = {name: part.config for name, part in pipe.components.items() if hasattr(part, "config")}
    record = {
        "format": FORMAT,
        **about,
        "labels": labels,
        "settings": settings,
        "fps": fps,
        **{name: asdict(config) if is_dataclass(config) else config for name, config in configs.items()},
        "device": device_name(pipe.device),
        "torch": torch.__version__,
        "latte": __version__,
    }
    return json.loads(json.dumps(record))


def flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Names such as "settings.seed", and values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@contextmanager
def claimed(locks: IO, place: int, wait: bool) -> Iterator[bool]:
    """Whether a byte of that file is this process's until the block ends; wait: until it is.

    On a file system without locks everything is everybody's: work is done twice at worst, to the same bytes.
    """
    ours = True
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except OSError as error:
        ours = not isinstance(error, BlockingIOError | PermissionError)  # POSIX allows either for what another holds
    try:
        yield ours
    finally:
        if ours:
            with suppress(OSError):
                fcntl.lockf(locks, fcntl.LOCK_UN, 1, place)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside it, PyTorch computes in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
