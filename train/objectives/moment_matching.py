"""Moment matching: a student's clean latents have the mean that the guided teacher predicts, at every noise level.

The student replaces the reverse process by a few large steps. Each predicts clean latents x~ from noisy ones x_t; the
posterior of the forward process leads from there to states x_s at all noise levels within the step. An auxiliary
network learns the mean E[x~ | x_s] that the student's predictions have there, and the student learns to move it to the
teacher's, E[x | x_s]. If both agree at every x_s, the distributions do, with one step as with many (Salimans et al.
2024, arXiv 2406.04103, algorithm 2; without its second term of the auxiliary loss, and with both networks in one step).

No path of the teacher is imitated, so a student is not bound to what the teacher reaches without fresh noise. It needs
a good start, such as a student of latte.train.objectives.consistency_distillation.
"""

import copy

import torch
from torch import Tensor, nn

from latte.diffusion.gaussian import state_between
from latte.diffusion.predictions import factors
from latte.diffusion.schedule import q_sample
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.objectives.distillation import Condition, Distillation, Generators

AUXILIARY_RATE = 2.0  # its learning rate relative to the student's, whose predictions it has to follow
LEAST_DISTANCE = 1e-3  # between the student's and the teacher's clean latents, which the student's loss is divided by


class MomentMatching(Distillation):
    """The losses of a student of config.student_steps steps and of its auxiliary network, as one loss for both.

    In the first config.warmup steps only the auxiliary network learns. Arguments: see Distillation.
    """

    def __init__(self, config: LatentTrainConfig, teacher: nn.Module, weaker: nn.Module | None = None):
        super().__init__(config, teacher, weaker, config.student_steps)

    def attach(self, student: nn.Module) -> None:
        """Give a student its auxiliary network, with the teacher's weights. It is saved in checkpoints only."""
        auxiliary = copy.deepcopy(self.teacher).requires_grad_(True).train()
        auxiliary.learning_rate_factor = AUXILIARY_RATE
        student.auxiliary = auxiliary

    def __call__(
        self, student: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, condition: Condition, empty: Condition,
        step: int, generators: Generators,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        x = q_sample(self.schedule, x0, index, noise)
        made = self.clean(student)(x, index, **condition)
        t = self.within(index, generators(Draw.MATCHED_AT))
        fresh = torch.stack([torch.randn(x0.shape[1:], generator=z) for z in generators(Draw.MATCHED_NOISE)]).to(x0)
        upper, lower = factors(self.schedule, index, x), factors(self.training, t, x)
        between = state_between(x, made.detach(), fresh, upper, lower)
        with torch.no_grad():
            taught = self.guided(between, t, condition, empty, self.training)
        own = self.clean(student.get_submodule("auxiliary"), self.training)(between, t, **condition)
        learning = ((own - made.detach()) / lower[1]).square().mean()  # in units of v, as in training
        apart = (made.detach() - taught).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=LEAST_DISTANCE)
        linear = ((own.detach() - taught) / apart * made).mean() * (step >= self.config.warmup)
        terms = {"loss": learning.detach(), "moments": (own - taught).detach().square().mean().sqrt()}
        return learning + linear - linear.detach(), terms | {"distance": apart.mean()}

    def within(self, index: Tensor, random: list[torch.Generator]) -> Tensor:
        """Timesteps (b,), drawn uniformly between the noise levels at the ends of the student's steps `index` (b,)."""
        times = self.schedule.timesteps.to(index.device)
        upper, lower = times[index], torch.where(index > 0, times[(index - 1).clamp(min=0)], 0)
        share = torch.stack([torch.rand((), generator=z) for z in random]).to(index.device)
        return (lower + share * (upper - lower)).long()
