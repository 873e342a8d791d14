"""What a training minimises, by the kind of the run.

An objective makes its network, is called as objective(network, step, slots), which gives a scalar, the mean over those
slots, and numbers to log, shows what the network makes, and in the end writes what was trained.
"""

from dataclasses import replace
from pathlib import Path

import torch

from latte.train.config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.data.latent_files import LatentFolder
from latte.train.objectives.autoencoder import Reconstruction
from latte.train.objectives.class_conditional import Denoising
from latte.train.objectives.shape_recognition import Recognition
from latte.train.objectives.text_to_video import Captioned, Embedded

OBJECTIVES = {"vae": Reconstruction, "latte": Denoising, "t2v": Captioned, "features": Recognition}


def objective(
    clips: Clips, config: TrainConfig, device: torch.device, begun: Path | None = None
) -> Reconstruction | Denoising | Recognition:
    """The one for these clips; stored ones may bring embeddings of their captions.

    begun: the folder of a run that goes on, whose checkpoint takes the place of config.init.
    """
    kind = Embedded if isinstance(clips, LatentFolder) and clips.has_text else OBJECTIVES[config.kind]
    if begun is None:
        return kind(clips, config, device)
    config = replace(config, init="") if config.init else config
    return kind(clips, config, device, begun) if kind is Captioned else kind(clips, config, device)
