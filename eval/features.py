"""Features of clips: computed by networks in batches of one size, and cached in a folder."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from latte.device import arithmetic
from latte.eval.clip_sets import ClipSet
from latte.eval.clip_windows import ClipWindow
from latte.eval.protocol import record_of
from latte.processes import Ranks
from latte.progress import Progress
from latte.weights.tensors import CheckpointError, read_tensors, write_tensors

METRIC = "metric"  # in the metadata of a file of features: that of the detector's record
UNIT = 64  # clips per cached file, which is the most work that an interruption can lose
SET = "set"  # in the metadata of such a file: a digest of all clips of the set that its clips belong to
LONGEST_HEADER = 1 << 20  # bytes, of a file of features
FRAMES_AT_ONCE = 128  # in a batch
UNREADABLE, NONE = (
    "unreadable clips",
    torch.tensor([], dtype=torch.long),
)  # numbers of a unit's clips, beside its features


@dataclass(frozen=True)
class Detector:
    """A function from clips to features, and a description of it.

    Attributes:
        record: The network and its settings: everything that the features depend on, besides the clips and the
            rounding. It is written into every result. "metric" is the name of the distance between its features.
        features: Takes uint8 clips (f, 3, h, w) and returns a tensor (b, ...), one row per clip. None where the
            features were given and the network is unknown.
        device: The device that it runs on, because rounding depends on it.
        width: Numbers per feature; 0 if unknown.
    """

    record: dict
    features: Callable[[Sequence[Tensor]], Tensor] | None
    device: str = ""
    width: int = 0


def batched(clips: Iterator[Tensor], size: int) -> Iterator[tuple[list[Tensor], int]]:
    """Yield batches of `size` clips and how many of them count: the last batch is padded with copies of a clip."""
    while batch := list(islice(clips, size)):
        yield [*batch, *batch[:1] * (size - len(batch))], len(batch)


def batch_size(frames: int) -> int:
    """Clips per batch. It depends only on their length, so a clip's features do not depend on the number of clips."""
    return max(1, FRAMES_AT_ONCE // frames)


def features_of(detectors: Sequence[Detector], clips: Iterator[Tensor], frames: int) -> list[Tensor]:
    """Compute features by several detectors in one pass over the clips.

    Args:
        detectors: The detectors.
        clips: uint8 clips (f, 3, h, w), all of `frames` frames; each is read once.
        frames: Frames per clip.

    Returns:
        For each detector a tensor (n, ...), one row per clip.
    """
    parts = [[] for _ in detectors]
    with arithmetic("fp32"):
        for batch, count in batched(clips, batch_size(frames)):
            for part, detector in zip(parts, detectors):
                part.append(detector.features(batch)[:count])
    return [torch.cat(part) for part in parts]


class ClipSource(Protocol):
    """Clips of one side of a comparison, wherever they come from.

    Implemented by ClipSet (video files), ArrayClips (arrays in memory) and ModelClips (a pipeline).
    """

    @property
    def clips(self) -> tuple[ClipWindow, ...]:
        """The clips, in order."""

    @property
    def about(self) -> dict:
        """A description for the result, without clips that could not be read."""

    def stream(self, chosen: Sequence[ClipWindow]) -> Iterator[Tensor | None]:
        """Yield some of the clips in order, uint8 (f, 3, h, w), or None for a clip of a file that cannot be read."""


class Store:
    """Features of a set of clips by one detector, in files of UNIT clips or, without a folder, in memory.

    A file's name is a hash of everything that its features depend on: the detector, and for every clip its name,
    content and frames. So one folder can serve any number of sets, and only missing features are computed.
    """

    def __init__(self, folder: Path | None, clips: ClipSource, detector: Detector):
        self.folder, self.clips, self.detector = folder, clips, detector
        self.units = [clips.clips[i : i + UNIT] for i in range(0, len(clips.clips), UNIT)]
        self.held: dict[int, dict[str, Tensor]] = {}

    def path(self, unit: int) -> Path:
        """The file of a unit."""
        about = [self.detector.record, self.detector.device, [record_of(clip) for clip in self.units[unit]]]
        return self.folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.safetensors"

    def missing(self) -> list[int]:
        """Units not computed yet, or computed without some of their clips, which may be readable by now."""
        there = self.is_cached if self.folder else self.held.__contains__
        return [i for i in range(len(self.units)) if not there(i)]

    def is_cached(self, unit: int) -> bool:
        """Whether a file holds the features of all of a unit's clips; `read` checks it more closely."""
        try:
            with self.path(unit).open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                return f'"{UNREADABLE}"'.encode() not in file.read(min(length, LONGEST_HEADER))
        except OSError:
            return False

    def keep(self, unit: int, features: Tensor, unreadable: Sequence[int] = ()) -> None:
        """Store a unit's features, with the names of its clips, and which of its clips could not be read."""
        table = {"features": features} | ({UNREADABLE: torch.tensor(unreadable)} if unreadable else {})
        if self.folder is None:
            self.held[unit] = table
            return
        names = json.dumps([record_of(clip) for clip in self.units[unit]])
        metric = str(self.detector.record.get("metric", ""))
        write_tensors(self.path(unit), table, {"clips": names, SET: self.of_set, METRIC: metric})

    @cached_property
    def of_set(self) -> str:
        """A digest of the names, contents and frames of all clips."""
        return hashlib.sha256(json.dumps([record_of(clip) for clip in self.clips.clips]).encode()).hexdigest()

    def read(self, unit: int) -> dict[str, Tensor]:
        """A unit's "features", and UNREADABLE if it has such clips. Raises CheckpointError if its file is damaged."""
        if self.folder is None:
            return self.held[unit]
        path, advice = self.path(unit), "delete the file, and its features are computed again"
        try:
            table = read_tensors(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {advice}") from error
        if len(table.get("features", ())) != len(self.units[unit]):
            raise CheckpointError(f"{path} does not hold the features of {len(self.units[unit])} clips: {advice}")
        return table

    def all(self) -> Tensor:
        """Features (n, ...) of all clips, in order; those of unreadable clips are meaningless."""
        return torch.cat([self.read(i)["features"] for i in range(len(self.units))])

    def unreadable(self) -> set[int]:
        """The numbers of the clips that could not be read."""
        tables = [self.read(i) for i in range(len(self.units))]
        return {UNIT * i + j for i, table in enumerate(tables) for j in table.get(UNREADABLE, NONE).tolist()}


def fill(stores: Sequence[Store], rank: int = 0, size: int = 1, progress: bool = False, what: str = "features") -> None:
    """Compute the units missing in any of several stores of one set; each of `size` processes has its own units.

    `what` names the work in the progress bar.
    """
    missing = set().union(*(store.missing() for store in stores))
    # shared out by number and not by position: other processes may have written some units by now
    units = [unit for unit in sorted(missing) if unit % size == rank]
    count = sum(len(stores[0].units[unit]) for unit in units)
    with Progress(desc=what, total=count, unit="clip", disable=not (progress and units)) as bar:
        for unit in units:
            chosen: Sequence[ClipWindow] = stores[0].units[unit]
            unreadable: list[int] = []
            clips = with_blanks(stores[0].clips.stream(chosen), chosen[0].frames, unreadable)
            found = features_of([store.detector for store in stores], bar.each(clips), chosen[0].frames)
            for store, features in zip(stores, found):
                store.keep(unit, features, unreadable)


def with_blanks(clips: Iterator[Tensor | None], frames: int, unreadable: list[int]) -> Iterator[Tensor]:
    """Yield clips, with a black one for each that cannot be read, whose number is added to `unreadable`."""
    for number, clip in enumerate(clips):
        if clip is None:
            unreadable.append(number)
        yield torch.zeros(frames, 3, 64, 64, dtype=torch.uint8) if clip is None else clip


def compute_features(
    clips: ClipSource,
    detectors: Sequence[Detector],
    folder: str | Path | None = None,
    ranks: Ranks | None = None,
    progress: bool = False,
    what: str = "features",
) -> list[Tensor]:
    """Features of all clips of a set by each detector, taken from a cache where possible.

    Args:
        clips: The set.
        detectors: The detectors; each clip is decoded or sampled once for all of them.
        folder: Where features are cached. None: in memory only.
        ranks: The processes that share the work; several of them need a folder.
        progress: Whether the first process shows a progress bar.
        what: What the bar says.

    Returns:
        For each detector a tensor (n, ...), in all processes. n is less than the number of clips if some of them could
        not be read, which the set then records.
    """
    ranks = ranks or Ranks()
    stores = [Store(folder and Path(folder), clips, detector) for detector in detectors]
    fill(stores, ranks.rank, ranks.size, progress=progress and ranks.first, what=what)
    ranks.wait()
    left_out: set[int] = set().union(*(store.unreadable() for store in stores))
    if left_out and isinstance(clips, ClipSet):
        clips.leave_out(clips.clips[i] for i in sorted(left_out))
        kept = [i for i in range(len(clips.clips)) if i not in left_out]
        return [store.all()[kept] for store in stores]
    return [store.all() for store in stores]
