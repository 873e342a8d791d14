"""Features of clips: by which network, in batches of one size, stored clip by clip so that nothing is done twice."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from latte.eval.clips import Clip, ClipSet, decoded
from latte.files import replacing

UNIT = 64  # clips of a file: what an interruption may cost
FRAMES_AT_ONCE = 128  # of a batch


@dataclass(frozen=True)
class Detector:
    """A network that clips are compared by."""

    record: dict  # which one it is, how it is set: all that features depend on besides the clip
    features: Callable[[Sequence[Tensor]], Tensor]  # uint8 clips (f, 3, h, w) -> float32 (b, d) on the CPU


def batched(detector: Detector, clips: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Features (up to size, d) of clips in order; the last batch is filled up, so that all are of one shape."""
    batch = []
    for clip in clips:
        batch.append(clip)
        if len(batch) == size:
            yield detector.features(batch)
            batch = []
    if batch:
        yield detector.features([*batch, *batch[:1] * (size - len(batch))])[: len(batch)]


def features_of(detector: Detector, videos: Sequence[Tensor]) -> Tensor:
    """Features (n, d) of uint8 clips (n, f, 3, h, w) in memory. ValueError: there are none."""
    if not len(videos):
        raise ValueError("there are no clips to compute features of")
    return torch.cat(list(batched(detector, iter(videos), batch_size(len(videos[0])))))


def batch_size(frames: int) -> int:
    """Clips at once: always as many, so that a clip's features do not depend on how many there are."""
    return max(1, FRAMES_AT_ONCE // frames)


class Store:
    """Features of a set of clips by one detector, in files of UNIT clips; without a folder, in memory.

    A file's name holds what its numbers depend on: the detector, and of every clip its name, size and frames. So a
    folder may serve any number of sets, what is there is taken, and what is missing is computed.
    """

    def __init__(self, folder: Path | None, clips: ClipSet, detector: Detector):
        self.folder, self.clips, self.detector = folder, clips, detector
        self.units = [clips.clips[i : i + UNIT] for i in range(0, len(clips.clips), UNIT)]
        self.held: dict[int, Tensor] = {}

    def path(self, unit: int) -> Path:
        """Of a unit's file."""
        about = [self.detector.record, [asdict(clip) for clip in self.units[unit]]]
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
        """Features of a unit."""
        return load_file(self.path(unit))["features"] if self.folder else self.held[unit]

    def all(self) -> Tensor:
        """Features (n, d) of all clips, in their order."""
        return torch.cat([self.read(i) for i in range(len(self.units))])


def fill(store: Store, rank: int = 0, size: int = 1, progress: bool = False) -> None:
    """Compute what is missing; of several processes, each takes its share of the units."""
    for unit in tqdm(store.missing()[rank::size], disable=not progress, unit=f"x{UNIT} clips", desc="features"):
        chosen: Sequence[Clip] = store.units[unit]
        clips = decoded(store.clips, chosen)
        store.keep(unit, torch.cat(list(batched(store.detector, clips, batch_size(chosen[0].frames)))))
