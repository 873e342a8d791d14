"""What training minimises, by the kind of the run: an objective is a network and its loss.

latte.train.previews shows and samples what the network has learned; latte.train.export writes it to disk.
"""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from latte.train.base_config import TrainConfig
from latte.train.data.clips import TrainingData
from latte.train.data.latent_files import LatentFolder
from latte.train.objectives.autoencoder import Reconstruction
from latte.train.objectives.class_conditional import ClassConditional
from latte.train.objectives.shape_recognition import Recognition
from latte.train.objectives.text_to_video import Captioned, Embedded

OBJECTIVES = {"vae": Reconstruction, "latte": ClassConditional, "t2v": Captioned, "features": Recognition}


class Objective(Protocol):
    """What every objective offers to the training loop. It is made with the arguments of `objective`."""

    clips: TrainingData
    config: TrainConfig
    device: torch.device

    def __init__(self, clips: TrainingData, config: TrainConfig, device: torch.device, resumed: Path | None): ...

    def network(self) -> nn.Module:
        """Make the network, with fresh weights or those of config.init. Raises ValueError if they do not fit."""

    def prepare(self, micro_batches: list[range], first: int) -> None:
        """Get the data ready before step `first`; a micro-batch is some slots of a step."""

    def __call__(self, network: nn.Module, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, averaged over some slots of a step, and scalars to log."""


def objective(clips: TrainingData, config: TrainConfig, device: torch.device, resumed: Path | None = None) -> Objective:
    """Make the objective of a run.

    Args:
        clips: The training data. With stored embeddings of captions, the text encoder is not needed.
        config: The settings of the run.
        device: Where the network is trained.
        resumed: The folder of a run that is resumed. Its checkpoint and its vocabulary replace config.init.

    Raises:
        ValueError: If settings, data and VAE do not fit together.
    """
    kind = Embedded if isinstance(clips, LatentFolder) and clips.has_text else OBJECTIVES[config.kind]
    if resumed and config.init:
        config = replace(config, init="")
    return kind(clips, config, device, resumed)
