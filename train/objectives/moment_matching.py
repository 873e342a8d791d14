"""Moment matching: a student learns predictions whose conditional mean is what the guided teacher predicts.

The student takes a few large steps. In each it predicts clean latents x~ from x_t, from which x_s is drawn at a random
noise level within the step. An auxiliary network learns E[x~ | x_s], and the student is trained to bring it to the
teacher's E[x | x_s]. If the two agree for every x_s, so do the distributions (Salimans et al. 2024, arXiv 2406.04103,
algorithm 2). Three things differ: the auxiliary loss lacks its second term, both networks are updated in every step,
and the student's loss is divided by its mean distance to the teacher, as in distribution matching (Yin et al. 2024,
arXiv 2311.18828).

The student does not imitate the teacher's path, so the teacher at eta 0 does not limit it. It needs a good start, such
as a student of latte.train.objectives.consistency_distillation.
"""

import copy

import torch
from torch import Tensor, nn

from latte.diffusion.gaussian import posterior_mean, state_between
from latte.diffusion.predictions import factors
from latte.diffusion.schedule import q_sample
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.objectives.distillation import Condition, Distillation, Generators
from latte.train.objectives.recorded_blocks import denoiser_of

LEAST_DISTANCE = 1e-3  # between the student's and the teacher's clean latents, which the student's loss is divided by


class MomentMatching(Distillation):
    """The losses of a student of config.student_steps steps and of its auxiliary network, as one loss for both.

    In the first config.warmup steps only the auxiliary network learns (latte.train.optimizer). Arguments: see
    Distillation.
    """

    def __init__(self, config: LatentTrainConfig, teacher: nn.Module, weaker: nn.Module | None = None):
        super().__init__(config, teacher, weaker, config.student_steps)

    def attach(self, student: nn.Module) -> None:
        """Give a student its auxiliary network, with the teacher's weights. It is saved in checkpoints only."""
        auxiliary = copy.deepcopy(self.teacher).requires_grad_(True).train()
        denoiser_of(auxiliary).gradient_checkpointing = self.config.gradient_checkpointing
        student.auxiliary = auxiliary

    def __call__(
        self, student: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, condition: Condition, empty: Condition,
        step: int, generators: Generators,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        drawn = lambda draw, *shape: torch.stack([torch.randn(shape, generator=z) for z in generators(draw)]).to(x0)
        if self.config.backward_simulation:
            x = self.states(student, drawn(Draw.STATES, len(self.schedule), *x0.shape[1:]), index, condition)
        else:
            x = q_sample(self.schedule, x0, index, noise)
        made = self.clean(student)(x, index, **condition)
        t, fresh = self.within(index, generators(Draw.MATCHED_AT)), drawn(Draw.MATCHED_NOISE, *x0.shape[1:])
        upper, lower = factors(self.schedule, index, x), factors(self.training, t, x)
        between = state_between(x, made.detach(), fresh, upper, lower)
        with torch.no_grad():
            taught = self.guided(between, t, condition, empty, self.training)
        own = self.clean(student.get_submodule("auxiliary"), self.training)(between, t, **condition)
        learning = ((own - made.detach()) / lower[1]).square().mean()  # in units of v, as in training
        apart = (made.detach() - taught).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=LEAST_DISTANCE)
        linear = ((own.detach() - taught) / apart * made).mean()
        moments = (own.detach() - taught).square().mean((1, 2, 3, 4)).sqrt().mean()
        terms = {"loss": learning.detach(), "moments": moments, "gap": apart.mean()}
        return learning + (linear - linear.detach()), terms

    @torch.no_grad()
    def states(self, student: nn.Module, noise: Tensor, index: Tensor, condition: Condition) -> Tensor:
        """The states in which a student begins its steps when it samples: by DDIM with eta 1, from noise.

        Training on them is called backward simulation (Yin et al. 2024, arXiv 2405.14867, section 4.5).

        Args:
            student: The student.
            noise: The noise that sampling starts from, and that of each step (b, steps, f, c, h, w).
            index: The steps that begin (b,).
            condition: Keyword arguments of the student.

        Returns:
            The states (b, f, c, h, w).
        """
        x, last = noise[:, 0].clone(), len(self.schedule) - 1
        for step in range(last, int(index.min()), -1):
            taken = index < step  # the clips that take this step
            its = {name: z[taken] for name, z in condition.items()}
            x0 = self.clean(student)(x[taken], torch.full_like(index[taken], step), **its)
            deviation = float(self.schedule.posterior_variance[step]) ** 0.5
            fresh = noise[taken, last - step + 1]
            x[taken] = posterior_mean(self.schedule, x0, x[taken], step) + deviation * fresh
        return x

    def within(self, index: Tensor, random: list[torch.Generator]) -> Tensor:
        """Timesteps (b,), drawn uniformly between the noise levels at the ends of the student's steps `index` (b,)."""
        times = self.schedule.timesteps.to(index.device)
        upper, lower = times[index], torch.where(index > 0, times[(index - 1).clamp(min=0)], 0)
        share = torch.stack([torch.rand((), generator=z) for z in random]).to(index.device)
        return (lower + share * (upper - lower)).long()
