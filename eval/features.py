"""Features of clips: by which network, in batches of one size, stored clip by clip so that nothing is done twice."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from latte.device import arithmetic
from latte.eval.clip_sets import ClipWindow
from latte.files import replacing
from latte.weights.tensors import CheckpointError, read_tensors

UNIT = 64  # clips of a file: what an interruption may cost
FRAMES_AT_ONCE = 128  # of a batch


@dataclass(frozen=True)
class Detector:
    """A network that clips are compared by."""

    record: dict  # which one it is, how it is set: all that features depend on besides the clip and the rounding
    features: Callable[[Sequence[Tensor]], Tensor] | None  # uint8 clips (f, 3, h, w) -> (b, ...); None: unknown
    device: str = ""  # by which it is rounded
    width: int = 0  # numbers of a feature; 0: not said


def batched(clips: Iterator[Tensor], size: int) -> Iterator[tuple[list[Tensor], int]]:
    """Clips in batches, and how many of each count: the last one is filled up, so that all are of one shape."""
    while batch := list(islice(clips, size)):
        yield [*batch, *batch[:1] * (size - len(batch))], len(batch)


def batch_size(frames: int) -> int:
    """Clips at once: always as many, so that a clip's features do not depend on how many there are."""
    return max(1, FRAMES_AT_ONCE // frames)


def features_of(detectors: Sequence[Detector], clips: Iterator[Tensor], frames: int) -> list[Tensor]:
    """What each detector makes of the same uint8 clips (f, 3, h, w) of so many frames, each seen once: (n, ...)."""
    parts = [[] for _ in detectors]
    with arithmetic("fp32"):
        for batch, count in batched(clips, batch_size(frames)):
            for part, detector in zip(parts, detectors):
                part.append(detector.features(batch)[:count])
    return [torch.cat(part) for part in parts]


class ClipSource(Protocol):
    """A set of clips: of a folder (latte.eval.clip_sets.ClipSet) or of a model (latte.eval.model_clips.ModelClips)."""

    clips: tuple[ClipWindow, ...]

    def stream(self, chosen: Sequence[ClipWindow]) -> Iterator[Tensor]:
        """Some of them in order, uint8 (f, 3, h, w)."""


class Store:
    """Features of a set of clips by one detector, in files of UNIT clips; without a folder, in memory.

    A file's name holds what its numbers depend on: the detector, and of every clip its name, content and frames. So a
    folder may serve any number of sets, what is there is taken, and what is missing is computed.
    """

    def __init__(self, folder: Path | None, clips: ClipSource, detector: Detector):
        self.folder, self.clips, self.detector = folder, clips, detector
        self.units = [clips.clips[i : i + UNIT] for i in range(0, len(clips.clips), UNIT)]
        self.held: dict[int, Tensor] = {}

    def path(self, unit: int) -> Path:
        """Of a unit's file."""
        about = [self.detector.record, self.detector.device, [asdict(clip) for clip in self.units[unit]]]
        return self.folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.safetensors"

    def missing(self) -> list[int]:
        """Units that are still to be computed."""
        there = (lambda i: self.path(i).is_file()) if self.folder else self.held.__contains__
        return [i for i in range(len(self.units)) if not there(i)]

    def keep(self, unit: int, features: Tensor) -> None:
        """Store a unit's features, with the names of its clips."""
        if self.folder is None:
            self.held[unit] = features
            return
        names = json.dumps([asdict(clip) for clip in self.units[unit]])
        with replacing(self.path(unit)) as draft:
            save_file({"features": features}, draft, metadata={"clips": names})

    def read(self, unit: int) -> Tensor:
        """Features of a unit. CheckpointError: its file is damaged."""
        if self.folder is None:
            return self.held[unit]
        path, again = self.path(unit), "delete it, and it is computed again"
        try:
            features = read_tensors(path).get("features", ())
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {again}") from error
        if len(features) != len(self.units[unit]):
            raise CheckpointError(f"{path} does not hold the features of {len(self.units[unit])} clips: {again}")
        return features

    def all(self) -> Tensor:
        """Features (n, d) of all clips, in their order."""
        return torch.cat([self.read(i) for i in range(len(self.units))])


def fill(stores: Sequence[Store], rank: int = 0, size: int = 1, progress: bool = False) -> None:
    """Compute what is missing in any of some stores of one set; of several processes, each has its own units."""
    missing = set().union(*(store.missing() for store in stores))
    units = [unit for unit in sorted(missing) if unit % size == rank]  # by number: others may have written some by now
    for unit in tqdm(units, disable=not progress, unit=f"x{UNIT} clips", desc="features"):
        chosen: Sequence[ClipWindow] = stores[0].units[unit]
        clips = stores[0].clips.stream(chosen)
        found = features_of([store.detector for store in stores], clips, chosen[0].frames)
        for store, features in zip(stores, found):
            store.keep(unit, features)
