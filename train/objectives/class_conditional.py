"""The objective of a class-conditional or unconditional Latte."""

from pathlib import Path

import torch
from torch import Tensor, nn

from latte.class_conditioning import read_classes
from latte.models.latte import Latte, LatteConfig
from latte.train.init import init_latte
from latte.train.objectives.denoising import Denoising
from latte.train.settings import require
from latte.weights.find_models import weaker_folder
from latte.weights.latte_folder import CLASSES_FILE
from latte.weights.load import load_model


class ClassConditional(Denoising):
    """Denoise clips given their classes; data without classes trains an unconditional Latte."""

    def network(self) -> Latte:
        """Make a Latte for these latents and classes, with fresh weights or those of config.init.

        Raises:
            ValueError: If settings, data, VAE and config.init do not fit together.
        """
        cfg = self.config
        derived = {"num_classes": len(self.clips.names), "num_frames": cfg.num_frames}
        derived |= {"input_size": self.side, "in_channels": self.channels}
        network = Latte(LatteConfig.from_dict({**cfg.model, **derived}))
        one = torch.zeros(1, dtype=torch.long)
        network.check_inputs(self.empty_latents(), one, one if self.clips.names else None, cfg.num_images)
        if cfg.sample_guidance and not (self.clips.names and self.drop_rate(network)):
            raise ValueError(
                "sample_guidance does nothing without classes that are dropped in training: leave it at 0.0, or set "
                "model.class_dropout_prob for data with classes"
            )
        dropped = cfg.teacher and self.clips.names and self.drop_rate(network)
        require(not dropped, "a student has its guidance built in: set model.class_dropout_prob=0")
        if cfg.init:
            init_latte(network, cfg.init, self.clips.names)
        self.set_up(network)
        return network

    def teacher_network(self, path: Path) -> Latte:
        teacher, names = load_model(path), self.clips.names
        own, known = teacher.config, read_classes(path / CLASSES_FILE, teacher.config.num_classes)
        if own.num_classes != len(names) or (known and known != names):
            raise ValueError(f"{path} has {own.num_classes} classes, the data {len(names)}: they must be the same")
        knows = self.config.teacher_autoguidance or (names and own.class_dropout_prob)
        if self.config.teacher_guidance != 1 and not knows:
            raise ValueError(f'{path} has no embedding of "no class", so it cannot be guided: set teacher_guidance=1')
        return teacher

    def weaker_network(self, path: Path, teacher: nn.Module) -> Latte:
        return load_model(weaker_folder(path))

    def prediction(self, network: Latte) -> str:
        return network.config.prediction

    def drop_rate(self, network: Latte) -> float:
        return network.config.class_dropout_prob

    def condition(
        self, network: Latte, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        """Return the labels, with the number of classes standing for "no class"; nothing for an unconditional Latte."""
        count = network.config.num_classes
        return {"y": torch.where(dropped, count, labels)} if count else {}
