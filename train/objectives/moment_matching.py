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
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from latte.diffusion.gaussian import state_between
from latte.diffusion.predictions import factors, predicting_noise
from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import q_sample
from latte.models.denoiser import denoiser_of
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.objectives.distillation import Arguments, Distillation, Generators

LEAST_DISTANCE = 1e-3  # between the student's and the teacher's clean latents, which the student's loss is divided by


class MomentMatching(Distillation):
    """The losses of a student of config.student_steps steps and of its auxiliary network, as one loss for both.

    In the first config.warmup steps only the auxiliary network learns (latte.train.optimizer). Arguments: see
    Distillation.
    """

    def __init__(self, config: LatentTrainConfig, teacher: nn.Module, weaker: nn.Module | None = None):
        super().__init__(config, teacher, weaker, config.student_steps)

    def auxiliary(self) -> nn.Module:
        """The auxiliary network, which starts as the teacher. The student holds it, and its checkpoints save it."""
        network = copy.deepcopy(self.teacher).requires_grad_(True).train()
        denoiser_of(network).gradient_checkpointing = self.config.gradient_checkpointing
        return network

    def __call__(
        self, student: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, condition: Arguments, empty: Arguments,
        generators: Generators,
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
    def states(self, student: nn.Module, noise: Tensor, index: Tensor, condition: Arguments) -> Tensor:
        """The states in which a student begins its steps when it samples: by DDIM with eta 1, from noise.

        Training on them is called backward simulation (Yin et al. 2024, arXiv 2405.14867, section 4.5). All clips take
        all steps but the last, so that processes with sharded weights call the student equally often.

        Args:
            student: The student.
            noise: The noise that sampling starts from, and that of each step (b, steps, f, c, h, w).
            index: The steps that begin (b,).
            condition: Keyword arguments of the student.

        Returns:
            The states (b, f, c, h, w).
        """
        steps = len(self.schedule)
        denoise = predicting_noise(partial(student, **condition), self.training, self.config.prediction)
        path = ddim(denoise, noise[:, 0], self.schedule, lambda count: noise[:, count + 1], eta=1.0)
        states = torch.stack([noise[:, 0], *islice(path, steps - 1)])
        return states[steps - 1 - index, torch.arange(len(index), device=index.device)]

    def within(self, index: Tensor, random: list[torch.Generator]) -> Tensor:
        """Timesteps (b,), drawn uniformly between the noise levels at the ends of the student's steps `index` (b,)."""
        times = self.schedule.timesteps.to(index.device)
        upper, lower = times[index], torch.where(index > 0, times[(index - 1).clamp(min=0)], 0)
        share = torch.stack([torch.rand((), generator=z) for z in random]).to(index.device)
        return (lower + share * (upper - lower)).long()
