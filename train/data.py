"""Training clips by number, and which of them make up a step: everything is a function of (seed, step, slot)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.shapes import MOTIONS, make_clip
from latte.train.config import TrainConfig


class Clips(Protocol):
    """Numbered clips: uint8 (f, 3, h, w) and a class."""

    names: list[str]  # of the classes; empty: unconditional

    def __len__(self) -> int: ...
    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int]: ...


@dataclass
class ShapeClips:
    """The built-in moving shapes. Of a clip of 16 frames, num_frames fewer are a random window."""

    config: TrainConfig

    @property
    def names(self) -> list[str]:
        return list(MOTIONS)

    def __len__(self) -> int:
        return self.config.clips

    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int]:
        """Clip `index`, drawn anew each time."""
        cfg = self.config
        whole = make_clip(cfg.seed, index, frames=max(16, cfg.num_frames), size=cfg.image_size)
        start = int(torch.randint(len(whole.video) - cfg.num_frames + 1, (), generator=random))
        return torch.from_numpy(whole.video[start : start + cfg.num_frames]), whole.label


class Order:
    """Which clip stands in (step, slot): an endless row of permutations of the data, one an epoch."""

    def __init__(self, size: int, batch: int, seed: int):
        self.size, self.batch, self.seed, self.epoch = size, batch, seed, -1

    def index(self, step: int, slot: int) -> int:
        """The clip's number."""
        epoch, place = divmod(step * self.batch + slot, self.size)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return int(self.permutation[place])


@dataclass
class VideoBatches:
    """Batches of pixels: step -> videos (b, f, 3, h, w) in [-1, 1] and classes (b,)."""

    clips: Clips
    config: TrainConfig

    @cached_property
    def order(self) -> Order:
        return Order(len(self.clips), self.config.global_batch_size, self.config.seed)

    def batch(self, step: int, slots: range) -> tuple[Tensor, Tensor]:
        """The clips of some slots of a step."""
        pairs = [
            self.clips.clip(self.order.index(step, slot), generator(self.config.seed, 1, step, slot)) for slot in slots
        ]
        videos = torch.stack([video for video, _ in pairs]).float() / 127.5 - 1
        return videos, torch.tensor([label for _, label in pairs])


def open_clips(config: TrainConfig) -> Clips:
    """The data that config.data names."""
    return ShapeClips(config)
