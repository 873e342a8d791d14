"""Batches of pixels for a step, read ahead by worker processes."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latte.train.base_config import TrainConfig
from latte.train.data.clip_order import ClipOrder, Slot
from latte.train.data.clips import Clips, TrainingClip

WORKER_TIMEOUT = 600  # seconds that a worker may take to read one batch


class Batch(NamedTuple):
    """The clips of some slots of a step, each followed by its still images."""

    videos: Tensor  # (b, f + num_images, 3, h, w) in [-1, 1]
    labels: Tensor  # (b, 1 + num_images)
    captions: list[list[str]]  # b lists of 1 + num_images
    failed: tuple[tuple[Path, str], ...]  # videos that could not be read and were replaced, and why


def detach_worker(worker: int) -> None:
    """Shield a worker from signals sent to the run's process group, and let it die with the process it reads for."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


class Batches(Dataset):
    """Reads batches of any slots of any step, and reads ahead as long as they are requested in order.

    Args:
        clips: The clips.
        config: The run's settings; `num_workers` is the number of processes that read ahead.
    """

    def __init__(self, clips: Clips, config: TrainConfig):
        self.clips, self.config, self.order = clips, config, ClipOrder(len(clips), config)
        self.read_ahead: Iterator[Batch] | None = None
        self.expected: Iterator[tuple[int, range]] | None = None

    def __getitem__(self, step_and_slots: tuple[int, range]) -> Batch:
        step, slots = step_and_slots
        rows = [self.read_slot(self.order.slot(step, slot)) for slot in slots]
        return Batch(
            torch.stack([torch.cat([clip.video for clip in row]) for row in rows]),
            torch.tensor([[clip.label for clip in row] for row in rows]),
            [[clip.caption for clip in row] for row in rows],
            tuple(failed for row in rows for clip in row for failed in clip.failed),
        )

    def read_slot(self, slot: Slot) -> list[TrainingClip]:
        """Read a slot's clip and its still images."""
        clip = self.clips.clip(slot.clip, slot.clip_random)
        return [clip, *(self.clips.frame(image, slot.image_random) for image in slot.images)]

    def prepare(self, micro_batches: list[range], first: int) -> None:
        """Start to read ahead.

        Args:
            micro_batches: Slots of each batch of a step, in the order in which they will be requested.
            first: The first step.
        """
        if not self.config.num_workers:
            return
        in_order = lambda: ((step, slots) for step in range(first, self.config.steps) for slots in micro_batches)
        options = dict(num_workers=self.config.num_workers, timeout=WORKER_TIMEOUT, worker_init_fn=detach_worker)
        self.read_ahead = iter(DataLoader(self, batch_size=None, sampler=in_order(), **options))
        self.expected = in_order()  # set last: a generator cannot be pickled, and workers may get a pickled dataset

    def batch(self, step: int, slots: range) -> Batch:
        """Return the batch of some slots of a step. A request out of order ends the reading ahead.

        Raises:
            ValueError: More videos cannot be read than `config.failed_share` allows.
        """
        if self.read_ahead is not None and next(self.expected, None) != (step, slots):
            self.read_ahead = None  # the workers would now read other batches than those requested
        batch = self[step, slots] if self.read_ahead is None else next(self.read_ahead)
        self.clips.failures.note_replaced(batch.failed)
        return batch
