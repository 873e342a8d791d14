"""The objective of a planned training: on clips of zeros, without its data set and its VAE.

It computes the loss with the training's own code, so that what is counted or timed is what training will do.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latte.diffusion.schedule import training_schedule
from latte.models.latte_t2v import LatteT2V
from latte.models.t5 import T5Config
from latte.text.embed import MAX_LENGTH
from latte.train.base_config import TrainConfig
from latte.train.data.latents import SOURCES, Latents
from latte.train.objectives.autoencoder import Reconstruction
from latte.train.objectives.class_conditional import ClassConditional
from latte.train.objectives.denoising import Denoising
from latte.train.objectives.text_to_video import Captioned, Embedded

CAPTION = ""  # of every clip


class Zeros:
    """A source of latents or frames that are all zero."""

    def __init__(self, config: TrainConfig, shape: tuple[int, ...], device: torch.device):
        self.config, self.shape, self.device = config, shape, device

    def batch(self, step: int, slots: range) -> Any:
        """The clips of some slots, with the images that go with them."""
        zeros = lambda *shape: torch.zeros(len(slots), *shape, *self.shape, device=self.device)
        if self.config.kind == "vae":
            return SimpleNamespace(videos=zeros(self.config.num_frames))
        rows, frames = 1 + self.config.num_images, self.config.num_frames + self.config.num_images
        labels = torch.zeros(len(slots), rows, dtype=torch.long)
        return Latents(zeros(frames), zeros(frames), labels, [[CAPTION] * rows for _ in slots])


class Planned:
    """The common part of the planned objectives. It replaces Denoising's constructor, which reads files."""

    def __init__(self, config: TrainConfig, channels: int, side: int, classes: int, device: torch.device):
        self.config, self.device, self.channels, self.side = config, device, channels, side
        self.clips = SimpleNamespace(names=[f"class {i}" for i in range(classes)])
        self.source, self.schedule = Zeros(config, (channels, side, side), device), training_schedule(config.prediction)
        self.distillation = None
        self.prepare_text()

    def prepare_text(self) -> None:
        """Set what the objective needs to know about captions."""

    def estimates_in(self, step: int) -> bool:
        """Plan the steps that need the most: those with an estimate."""
        return True


class PlannedLatte(Planned, ClassConditional):
    """The objective of a class-conditional or unconditional Latte."""


class PlannedCaptioned(Planned, Captioned):
    """The objective of a text-to-video model trained with its text encoder, on captions of Latte-1's full length."""

    def prepare_text(self) -> None:
        self.ids, self.mask = torch.zeros(2, MAX_LENGTH, dtype=torch.long), torch.ones(2, MAX_LENGTH)
        self.rows = {CAPTION: 0}
        size = {"vocab_size": T5Config().vocab_size, **self.config.text_encoder}["vocab_size"]
        self.tokenizer = range(size)


class PlannedEmbedded(Planned, Embedded):
    """The objective of a text-to-video model trained on stored embeddings, of the width of T5 v1.1 XXL."""

    def prepare_text(self) -> None:
        self.names, self.empty = {CAPTION: CAPTION}, torch.zeros(MAX_LENGTH, T5Config().d_model)
        self.embeddings = {CAPTION: self.empty}

    def condition(
        self, network: LatteT2V, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        return super().condition(network, labels, captions, np.zeros(dropped.shape, bool))  # its values are read


class PlannedReconstruction(Reconstruction):
    """The objective of a VAE."""

    def __init__(self, config: TrainConfig, device: torch.device):
        self.config, self.device, self.resumed = config, device, None
        self.batches = Zeros(config, (3, config.image_size, config.image_size), device)


def planned_objective(
    config: TrainConfig, channels: int, side: int, classes: int, device: torch.device
) -> Denoising | Reconstruction:
    """The objective of a planned training.

    Args:
        config: Its settings.
        channels: The channels of the VAE's latents.
        side: Their height and width.
        classes: How many classes the data has.
        device: The device to compute on.

    Raises:
        ValueError: The training is of another kind, or a distillation.
    """
    if config.kind == "vae":
        return PlannedReconstruction(config, device)
    if config.teacher or config.kind not in ("latte", "t2v"):
        what = "a distillation" if config.teacher else f"kind={config.kind}"
        raise ValueError(f"the need of {what} cannot be computed, only that of kind latte, t2v and vae")
    stored = config.kind == "t2v" and config.latents not in SOURCES and not config.text_encoder
    kind = PlannedLatte if config.kind == "latte" else PlannedEmbedded if stored else PlannedCaptioned
    return kind(config, channels, side, classes, device)
