"""Consistency distillation: a student learns to skip along its guided teacher's path (latte.diffusion.consistency)."""

from functools import partial

import torch
from torch import Tensor, nn

from latte.diffusion.consistency import consistency_loss
from latte.diffusion.schedule import q_sample
from latte.train.config import LatentTrainConfig
from latte.train.objectives.distillation import Condition, Distillation, Generators
from latte.train.objectives.recorded_blocks import denoiser_of


class Consistency(Distillation):
    """The loss of a student that replaces config.teacher_steps DDIM steps of a teacher by config.student_steps.

    It usually starts from the teacher's weights. Its target is the student itself, not an average of it. The teacher's
    guidance is distilled into it, so no condition is dropped, and it is sampled without guidance. Arguments: see
    Distillation.
    """

    def __init__(self, config: LatentTrainConfig, teacher: nn.Module, weaker: nn.Module | None = None):
        super().__init__(config, teacher, weaker, config.teacher_steps)

    def __call__(
        self, student: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, condition: Condition, empty: Condition,
        generators: Generators | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        x, length = q_sample(self.schedule, x0, index, noise), self.config.teacher_steps // self.config.student_steps
        own = partial(self.clean(student), **condition)
        guided = lambda x, index: self.guided(x, index, condition, empty)
        loss = consistency_loss(own, guided, x, index, self.schedule, length).mean()
        return loss, {"loss": loss.detach()}

    def guided(self, x: Tensor, index: Tensor, condition: Condition, empty: Condition) -> Tensor:
        """The clean latents that the guided teacher predicts; guidance is linear in them as it is in the noise.

        A self-conditioned teacher is shown its own estimate from the same x, as in training. As in sampling, this is
        the estimate for the condition, without guidance.
        """
        predict, cfg, estimate = self.clean(self.teacher), self.config, None
        if denoiser_of(self.teacher).config.self_condition:
            estimate = predict(x, index, **condition)
        if cfg.teacher_guidance == 1 or self.weaker is not None:
            conditional = predict(x, index, estimate, **condition)
            if self.weaker is None:
                return conditional
            negative = self.clean(self.weaker)(x, index, **condition)
        else:
            both = {name: torch.cat([z, empty[name]]) for name, z in condition.items()}
            twice = lambda z: None if z is None else torch.cat([z, z])
            conditional, negative = predict(twice(x), twice(index), twice(estimate), **both).chunk(2)
        t = self.schedule.timesteps.to(index.device)[index]
        scale = torch.where((cfg.guided_from <= t) & (t <= cfg.guided_to), cfg.teacher_guidance, 1.0)
        return negative + scale.view(-1, 1, 1, 1, 1) * (conditional - negative)
