"""The diffusion loss on the latents of clips, whatever the network is conditioned on."""

from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latte.diffusion.loss import diffusion_loss
from latte.diffusion.predictions import predicted_clean
from latte.diffusion.randomness import generator, normal
from latte.diffusion.schedule import q_sample, training_schedule
from latte.models.denoiser import Denoiser, denoiser_of
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.data.clips import TrainingData
from latte.train.data.latents import open_latent_source
from latte.train.objectives.between_blocks import BetweenBlocks
from latte.train.objectives.consistency_distillation import Consistency
from latte.train.objectives.distillation import Distillation, Generators
from latte.train.objectives.moment_matching import MomentMatching
from latte.train.objectives.self_alignment import add_head
from latte.train.precision import keep_in_float32
from latte.train.settings import require
from latte.weights.find_models import WEAKER, find_model
from latte.weights.manifest import digest_folder
from latte.weights.vae_folder import load_vae

DISTILLATIONS = {"consistency": Consistency, "moments": MomentMatching}


class Batch(NamedTuple):
    """What is drawn for b slots of a step.

    Attributes:
        x0: Clean latents of the clips and their images (b, f + num_images, c, h, w).
        index: Steps of the schedule (b,).
        noise: Standard normal noise, shaped like x0.
        labels: Numbers of classes (b, 1 + num_images).
        captions: b lists of 1 + num_images captions.
        dropped: Whether each condition is replaced by the empty one (b, 1 + num_images).
        generators: The source of further random numbers, one for each slot.
    """

    x0: Tensor
    index: Tensor
    noise: Tensor
    labels: Tensor
    captions: list[list[str]]
    dropped: Tensor
    generators: Generators


class Denoising(ABC):
    """Predict the noise, v or the velocity of the linear path, from noisy latents.

    In joint training (Latte, arXiv 2401.03048), config.num_images single frames of other clips follow each clip. They
    have their own noise and conditions, but the timestep of the clip. For classifier-free guidance, the condition of
    the clip and those of all its images are dropped at random, independently and with the same probability.

    Attributes:
        vae: The VAE that encodes the latents. It is not trained.
        vae_folder: Where it was read from.
        vae_digest: The sha256 of its files.
        side: The side of the latents of a frame.
        channels: The channels of the latents.
        source: The source of a step's latents (latte.train.data.latents).
        alignment_target: The averaged network, whose tokens the network is aligned with, with config.align_weight.
        distillation: The loss that replaces the diffusion loss, with config.teacher.
    """

    alignment_target: nn.Module | None = None

    def __init__(
        self,
        clips: TrainingData,
        config: LatentTrainConfig,
        device: torch.device | str = "cpu",
        resumed: Path | None = None,
    ):
        self.clips, self.config, self.device = clips, config, device
        self.schedule = training_schedule(config.prediction)
        self.vae_folder = find_model(config.vae)
        self.vae, self.vae_digest = load_vae(self.vae_folder).to(device), digest_folder(self.vae_folder)
        self.side, self.channels = self.vae.latent_side(config.image_size), self.vae.config.latent_channels
        self.source = open_latent_source(self.vae, self.vae_digest, clips, config)
        self.prepare = self.source.prepare
        self.distillation: Distillation | None = None
        if config.teacher:
            path = find_model(config.teacher)
            teacher, weaker = self.teacher_network(path).to(device), None
            if config.teacher_autoguidance:
                require((path / WEAKER).is_dir(), f"{path} holds no {WEAKER}: set teacher_autoguidance=false")
                weaker = self.weaker_network(path, teacher).to(device)
            self.distillation = DISTILLATIONS[config.distillation](config, teacher, weaker)
            self.schedule = self.distillation.schedule

    @property
    def teachers(self) -> list[nn.Module]:
        """The networks that a student learns from: the teacher, and the weaker model that it is guided away from."""
        if self.distillation is None:
            return []
        return [network for network in (self.distillation.teacher, self.distillation.weaker) if network is not None]

    @abstractmethod
    def teacher_network(self, path: Path) -> nn.Module:
        """Read the model of config.teacher, called like `network`'s. Raises ValueError if it does not fit the data."""

    @abstractmethod
    def weaker_network(self, path: Path, teacher: nn.Module) -> nn.Module:
        """Read the weaker model in the folder of config.teacher, called like the teacher."""

    @abstractmethod
    def network(self) -> nn.Module:
        """Make the network, with fresh weights or those of config.init. Raises ValueError if they do not fit."""

    @abstractmethod
    def prediction(self, network: nn.Module) -> str:
        """Return what the network predicts, "eps", "v" or "flow"."""

    @abstractmethod
    def drop_rate(self, network: nn.Module) -> float:
        """Return the probability that a condition is dropped."""

    @abstractmethod
    def condition(
        self, network: nn.Module, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        """Make the conditions of b clips and their images.

        Args:
            network: The network to condition.
            labels: Numbers of classes, (b, 1 + num_images).
            captions: b lists of 1 + num_images captions.
            dropped: Whether each condition is replaced by the empty one, (b, 1 + num_images).

        Returns:
            The keyword arguments of the network.
        """

    def __call__(self, network: nn.Module, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on the clips of some slots, and its terms to log."""
        batch = self.draw(network, step, slots)
        condition = self.conditions(network, batch, batch.dropped)
        if self.distillation:
            empty = self.conditions(network, batch, torch.ones_like(batch.dropped))
            return self.distillation(network, batch.x0, batch.index, batch.noise, condition, empty, batch.generators)
        return self.denoising_loss(network, batch, condition | {"num_images": self.config.num_images}, step, slots)

    def draw(self, network: nn.Module, step: int, slots: range) -> Batch:
        """Draw what a step needs; each number is a function of the seed, the step and the slot."""
        seed, num_images = self.config.seed, self.config.num_images
        mean, deviation, labels, captions = self.source.batch(step, slots)
        generators = lambda draw: [generator(seed, step, slot, draw) for slot in slots]
        gaussian = lambda draw: torch.stack([normal(mean.shape[1:], seed, step, slot, draw) for slot in slots])
        x0 = mean
        if self.config.sample_latents:
            x0 = mean + deviation * gaussian(Draw.POSTERIOR).to(mean)
        index = torch.stack([self.draw_index(random) for random in generators(Draw.TIMESTEP)])
        chance = torch.stack([torch.rand(2, generator=random) for random in generators(Draw.DROP)])  # clip, images
        dropped = chance < (0.0 if self.distillation else self.drop_rate(network))
        dropped = torch.repeat_interleave(dropped, torch.tensor([1, num_images]), dim=1, output_size=1 + num_images)
        x0, index, noise = (z.to(self.device) for z in (x0, index, gaussian(Draw.NOISE)))
        return Batch(x0, index, noise, labels, captions, dropped, generators)

    def conditions(self, network: nn.Module, batch: Batch, dropped: Tensor) -> dict[str, Tensor]:
        """The conditions of a batch on the device, with those that are dropped replaced by the empty one."""
        made = self.condition(network, batch.labels, batch.captions, dropped)
        return {name: z.to(self.device) for name, z in made.items()}

    def denoising_loss(
        self, network: nn.Module, batch: Batch, condition: dict[str, Any], step: int, slots: range
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The diffusion loss, with the terms that act between the blocks, and all terms to log."""
        shared = dict(x0=batch.x0, noise=batch.noise, schedule=self.schedule, prediction=self.prediction(network))
        shared["snr_gamma"] = self.config.snr_gamma if self.config.loss_weighting == "min-snr" else None
        shared["estimate"] = self.estimate(network, batch, step, condition)
        measure = partial(diffusion_loss, **shared, **condition)
        between = BetweenBlocks(self.config, denoiser_of(network), self.side, step, slots)
        with between.attached():
            terms = measure(network, index=batch.index)
        loss, logged = terms["loss"].mean(), {name: value.mean().detach() for name, value in terms.items()}
        added = between.terms(self.alignment_target, measure, batch.index, len(self.schedule))
        for name, (weight, value) in added.items():
            loss, logged[name] = loss + weight * value, value.detach()
        return loss, logged

    def estimate(self, network: nn.Module, batch: Batch, step: int, condition: dict[str, Any]) -> Tensor | None:
        """In half of the steps of a self-conditioned network, its estimate of the clean latents; otherwise None.

        The chance is that of the paper (arXiv 2208.04202, algorithm 1). The estimate costs a forward pass and no
        gradients.
        """
        if not denoiser_of(network).config.self_condition or not self.estimates_in(step):
            return None
        with torch.no_grad():
            x = q_sample(self.schedule, batch.x0, batch.index, batch.noise)
            return predicted_clean(network, x, batch.index, self.schedule, self.prediction(network), **condition)

    def estimates_in(self, step: int) -> bool:
        """Whether a self-conditioned network makes an estimate in a step."""
        return bool(torch.rand((), generator=generator(self.config.seed, step, Draw.ESTIMATE)) >= 0.5)

    def set_up(self, denoiser: Denoiser) -> None:
        """Apply the settings that act in or between the blocks. Raises ValueError if they do not fit them."""
        denoiser.gradient_checkpointing = self.config.gradient_checkpointing
        BetweenBlocks(self.config, denoiser, self.side)  # checks them

    def attach(self, network: nn.Module, average: nn.Module) -> None:
        """Add what learns with a network and is not averaged: the head of self-alignment, or an auxiliary network."""
        if self.config.align_weight:
            add_head(denoiser_of(network))
            keep_in_float32(average)
            self.alignment_target = average
        if self.distillation and (auxiliary := self.distillation.auxiliary()) is not None:
            network.auxiliary = auxiliary

    def draw_index(self, random: torch.Generator) -> Tensor:
        """Draw a step of the schedule, uniform, or logit-normal (Esser et al. 2024, arXiv 2403.03206, section 3.1)."""
        cfg, count = self.config, len(self.schedule)
        if not cfg.timestep_std:
            return torch.randint(count, (), generator=random)
        fraction = torch.sigmoid(cfg.timestep_mean + cfg.timestep_std * torch.randn((), generator=random))
        return (fraction * count).long().clamp(max=count - 1)

    def empty_latents(self) -> Tensor:
        """Return latents (1, f + num_images, c, h, w) of the shape of a training step, to check a network against."""
        return torch.empty(1, self.config.num_frames + self.config.num_images, self.channels, self.side, self.side)
