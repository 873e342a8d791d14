"""Which clips make up a step: everything is a function of (seed, step, slot)."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latte.diffusion.randomness import generator
from latte.train.config import TrainConfig
from latte.train.data.clips import Clips, TrainingClip

PATIENCE = 600  # seconds that a worker may take over a batch


class Draw(IntEnum):
    """Which of a place's draws it is: the last word of a random path, so that no two are the same numbers."""

    WINDOW = 1
    NOISE = 2
    TIMESTEP = 3
    POSTERIOR = 4
    DROP = 5
    IMAGES = 6
    DAMAGE = 7


class ClipOrder:
    """Which clip stands in (step, slot): an endless row of permutations of the data, one an epoch."""

    def __init__(self, size: int, batch: int, seed: int):
        self.size, self.batch, self.seed, self.epoch = size, batch, seed, -1

    def index(self, step: int, slot: int) -> int:
        """The clip's number."""
        epoch, place = divmod(step * self.batch + slot, self.size)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return int(self.permutation[place])


class Slot(NamedTuple):
    """What stands in a slot of a step: numbers of a clip and of the clips that its still images come from."""

    clip: int
    images: list[int]
    window: torch.Generator  # of the clip's frames
    frames: torch.Generator  # of the images'


class Slots:
    """Slots of steps -> clips: the one place where the data's randomness is spent."""

    def __init__(self, size: int, config: TrainConfig):
        self.order, self.config = ClipOrder(size, config.global_batch_size, config.seed), config

    def __call__(self, step: int, slot: int) -> Slot:
        cfg, images = self.config, generator(self.config.seed, step, slot, Draw.IMAGES)
        others = torch.randint(self.order.size, (cfg.num_images,), generator=images).tolist()
        window = generator(cfg.seed, step, slot, Draw.WINDOW)
        return Slot(self.order.index(step, slot), others, window, images)


class Batch(NamedTuple):
    """Some slots of a step."""

    videos: Tensor  # (b, f + num_images, 3, h, w) in [-1, 1]
    labels: Tensor  # (b, 1 + num_images)
    captions: list[list[str]]
    failed: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class Row:
    """Every unit of every step, in order."""

    steps: range
    units: list[range]

    def __len__(self) -> int:
        return len(self.steps) * len(self.units)

    def __iter__(self) -> Iterator[tuple[int, range]]:
        return ((step, slots) for step in self.steps for slots in self.units)


def apart(worker: int) -> None:
    """A worker hears no signal to the training's group, from a terminal or a launcher, and does not outlive it."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Batches(Dataset):
    """Batches of pixels by (step, slots), read ahead by config.num_workers processes while steps come in order."""

    def __init__(self, clips: Clips, config: TrainConfig):
        self.clips, self.config, self.places = clips, config, Slots(len(clips), config)
        self.ahead: Iterator | None = None
        self.expected: Iterator | None = None

    def __getitem__(self, place: tuple[int, range]) -> Batch:
        step, slots = place
        rows = [self.row(self.places(step, slot)) for slot in slots]
        return Batch(
            torch.stack([torch.cat([sample.video for sample in row]) for row in rows]),
            torch.tensor([[sample.label for sample in row] for row in rows]),
            [[sample.caption for sample in row] for row in rows],
            tuple(failed for row in rows for sample in row for failed in sample.failed),
        )

    def row(self, place: Slot) -> list[TrainingClip]:
        """A clip and its images."""
        clip = self.clips.clip(place.clip, place.window)
        return [clip, *(self.clips.frame(image, place.frames) for image in place.images)]

    def prepare(self, units: list[range], first: int) -> None:
        """Begin to read ahead: the units of each step from `first` on."""
        if self.config.num_workers:
            places = Row(range(first, self.config.steps), units)
            options = dict(num_workers=self.config.num_workers, timeout=PATIENCE, worker_init_fn=apart)
            self.ahead = iter(DataLoader(self, batch_size=None, sampler=places, **options))
            self.expected = iter(places)

    def batch(self, step: int, slots: range) -> Batch:
        """Some slots of a step. ValueError: too many videos cannot be read."""
        ahead = self.ahead is not None and next(self.expected) == (step, slots)
        batch = next(self.ahead) if ahead else self[step, slots]
        self.clips.failures.note(batch.failed, "another video takes its place")
        self.clips.failures.check()
        return batch
