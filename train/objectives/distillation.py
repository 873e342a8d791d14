"""What all kinds of distillation share: a student that needs few steps learns from a teacher that needs many."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from latte.autoguidance import check_weaker
from latte.diffusion.consistency import teacher_schedule
from latte.diffusion.guidance import guide
from latte.diffusion.predictions import predicted_clean
from latte.diffusion.schedule import Schedule, training_schedule
from latte.models.denoiser import denoiser_of
from latte.scheduler import Scheduler
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.precision import keep_in_float32
from latte.weights.find_models import WEAKER, find_model, is_text_pipeline, model_root, weaker_folder
from latte.weights.load import weights_file
from latte.weights.manifest import digest
from latte.weights.published import load_scheduler, part_files
from latte.weights.shared_parts import part_folder

Arguments = dict[str, Tensor]  # the arguments of a network besides noisy latents and timesteps
Generators = Callable[[Draw], list[torch.Generator]]  # one per clip, for a purpose


class Distillation(ABC):
    """The loss of a student.

    Args:
        config: The settings.
        teacher: The network of config.teacher, called like the student.
        weaker: With config.teacher_autoguidance, its weaker model, called likewise.
        steps: Steps of `schedule`.

    Attributes:
        training: The schedule that the teacher was trained with.
        schedule: The steps at which the student learns, evenly down from the last timestep.
        digest: The sha256 of the weights of the teacher and its weaker model.

    Raises:
        ValueError: The teacher predicts something else than the student, or has other noise levels.
    """

    def __init__(self, config: LatentTrainConfig, teacher: nn.Module, weaker: nn.Module | None, steps: int):
        self.config, self.teacher = config, teacher.requires_grad_(False).eval()
        self.weaker = None if weaker is None else weaker.requires_grad_(False).eval()
        for network in (teacher, *([] if weaker is None else [weaker])):
            keep_in_float32(network)
        if weaker is not None:
            check_weaker(denoiser_of(teacher), denoiser_of(weaker))
        path, own = find_model(config.teacher), denoiser_of(teacher).config
        if own.prediction != config.prediction:
            wanted = f"set model.prediction={own.prediction}"
            raise ValueError(f"{path} predicts {own.prediction!r}, the student {config.prediction!r}: {wanted}")
        self.training = training_schedule(config.prediction)
        check_noise_levels(path, self.training.alphas_cumprod)
        self.schedule = teacher_schedule(self.training, steps)
        files = [*teacher_files(path), *([] if weaker is None else weaker_files(path))]
        self.digest = hashlib.sha256(" ".join(map(digest, files)).encode()).hexdigest()

    @abstractmethod
    def __call__(
        self, student: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, condition: Arguments, empty: Arguments,
        generators: Generators,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """The mean loss, and the values to log.

        Args:
            student: The network that learns.
            x0: Clean latents (b, f, c, h, w).
            index: Steps (b,) of `schedule`.
            noise: Standard normal noise, shaped like x0.
            condition: Keyword arguments of both networks.
            empty: The same for the null condition.
            generators: The source of further random numbers.
        """

    def auxiliary(self) -> nn.Module | None:
        """A network that learns with the student and is no part of the result. None by default."""
        return None

    def clean(self, network: nn.Module, schedule: Schedule | None = None) -> Callable[..., Tensor]:
        """The function (x, index, **condition) -> the clean latents that a network predicts.

        Args:
            network: The network.
            schedule: The schedule that index refers to; by default, `self.schedule`.
        """
        return lambda x, index, estimate=None, **condition: predicted_clean(
            network, x, index, schedule or self.schedule, self.config.prediction, estimate, **condition
        )

    def guided(
        self,
        x: Tensor,
        index: Tensor,
        condition: Arguments,
        empty: Arguments,
        schedule: Schedule | None = None,
    ) -> Tensor:
        """The clean latents that the guided teacher predicts; guidance is linear in them as it is in the noise.

        A self-conditioned teacher is shown its own estimate from the same x, as in training. As in sampling, this is
        the estimate for the condition, without guidance.
        """
        predict, cfg, estimate = self.clean(self.teacher, schedule), self.config, None
        if denoiser_of(self.teacher).config.self_condition:
            estimate = predict(x, index, **condition)
        if cfg.teacher_guidance == 1 or self.weaker is not None:
            conditional = predict(x, index, estimate, **condition)
            if self.weaker is None:
                return conditional
            negative = self.clean(self.weaker, schedule)(x, index, **condition)
        else:
            both = {name: torch.cat([z, empty[name]]) for name, z in condition.items()}
            twice = lambda z: None if z is None else torch.cat([z, z])
            conditional, negative = predict(twice(x), twice(index), twice(estimate), **both).chunk(2)
        t = (schedule or self.schedule).timesteps.to(index.device)[index]
        scale = torch.where((cfg.guided_from <= t) & (t <= cfg.guided_to), cfg.teacher_guidance, 1.0)
        return guide(conditional, negative, scale.view(-1, 1, 1, 1, 1))


def student_scheduler(steps: int, prediction: str) -> Scheduler:
    """The scheduler that a student with this many steps is trained for: DDIM from each phase's start to its end."""
    whole = 1000 % steps == 0  # then the fixed stride, which diffusers' class always has, leads to the phase's end
    return Scheduler("ddim", "trailing", fixed_stride=whole, flow=prediction == "flow")


def check_noise_levels(path: Path, expected: Tensor) -> None:
    """Raise ValueError if the scheduler beside a teacher has other noise levels (alpha bar) than training has."""
    folder = model_root(path) / "scheduler"
    if not folder.is_dir():
        return
    own = load_scheduler(folder).training_schedule().alphas_cumprod
    if len(own) != len(expected) or not torch.allclose(own, expected, rtol=1e-6):
        raise ValueError(f"{folder} has other noise levels than a student is trained at: choose another teacher")


def teacher_files(path: Path) -> list[Path]:
    """The files of the weights that a student learns from."""
    if not is_text_pipeline(path):
        return [weights_file(path)]
    parts = ("transformer", "text_encoder") if part_folder(path, "text_encoder").is_dir() else ("transformer",)
    return list(dict.fromkeys(file for part in parts for file in part_files(path, part)))


def weaker_files(path: Path) -> list[Path]:
    """The files of the weights of a teacher's weaker model."""
    return part_files(path, WEAKER) if is_text_pipeline(path) else [weights_file(weaker_folder(path))]
