"""Which clip fills each slot of a training step.

A step trains on `global_batch_size` clips, one in each slot. Everything random about a slot is a function of (seed,
step, slot) alone. A run that resumes at any step, on any number of processes, therefore sees the same data: this is
what makes resume bit-exact.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch

from latte.diffusion.randomness import generator
from latte.train.base_config import TrainConfig


class Draw(IntEnum):
    """The purpose of a slot's random numbers.

    It is the last part of the path (seed, step, slot, draw) that seeds a generator, so that no two draws share numbers.
    """

    WINDOW = 1
    NOISE = 2
    TIMESTEP = 3
    POSTERIOR = 4
    DROP = 5
    IMAGES = 6
    DAMAGE = 7
    ROUTE = 8
    TEACHER = 9
    ESTIMATE = 10
    MATCHED_AT = 11
    MATCHED_NOISE = 12
    STATES = 13


class Slot(NamedTuple):
    """The content of one slot: a clip and the still images that are trained along with it."""

    clip: int  # number of the clip
    images: list[int]  # numbers of the clips that the still images are taken from
    clip_random: torch.Generator  # draws the frames of the clip
    image_random: torch.Generator  # draws the frames of the images


class ClipOrder:
    """The order of the clips: each epoch is a new permutation of the data set.

    Args:
        size: Number of clips in the data set.
        config: The run's settings; `seed`, `global_batch_size` and `num_images` are used.
    """

    def __init__(self, size: int, config: TrainConfig):
        self.size, self.config, self.epoch = size, config, -1

    def index(self, step: int, slot: int) -> int:
        """Return the number of the clip in a slot of a step."""
        cfg = self.config
        epoch, position = divmod(step * cfg.global_batch_size + slot, self.size)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([cfg.seed, epoch]).permutation(self.size)
        return int(self.permutation[position])

    def slot(self, step: int, slot: int) -> Slot:
        """Return the clip and the images of a slot of a step, with the generators that choose their frames."""
        cfg = self.config
        image_random = generator(cfg.seed, step, slot, Draw.IMAGES)
        images = torch.randint(self.size, (cfg.num_images,), generator=image_random).tolist()
        clip_random = generator(cfg.seed, step, slot, Draw.WINDOW)
        return Slot(self.index(step, slot), images, clip_random, image_random)
