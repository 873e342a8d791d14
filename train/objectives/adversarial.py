"""Adversarial distillation: the steps of a student are judged against real latents, and the teacher is the judge.

The student replaces the reverse process by a few large steps: each predicts clean latents, from which the posterior of
the forward process leads to the next step's noise level. A discriminator compares the predictions with real latents,
both noised to a level within the step, because a step need not decide what the noise of the next one hides. These are
denoising diffusion GANs (Xiao et al. 2022, arXiv 2112.07804). The discriminator starts as the teacher and continues to
learn, as in adversarial post-training (Lin et al. 2025, arXiv 2501.08316). It judges every token relative to the same
token of a real clip with the same condition (relativistic loss: Huang et al. 2024, arXiv 2501.05441).

Nothing is learned from the teacher's path, so a student may surpass its teacher. It needs a good start: the weights of
a student that was trained by latte.train.objectives.consistency.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.diffusion.gaussian import posterior_mean
from latte.diffusion.predictions import factors, network_input
from latte.diffusion.schedule import q_sample
from latte.models.block import FullPrecisionLinear
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.objectives.distillation import Condition, Distillation, Generators
from latte.train.objectives.recorded_blocks import denoiser_of, recorded

JUDGING = 0.75  # of the teacher's blocks; the later ones are about its own prediction


class Discriminator(nn.Module):
    """Judges the tokens of noisy latents: the first blocks of a network, and a linear head, which starts at zero.

    Args:
        network: The network. It becomes a part of this module and learns, except for the layers that are not used.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, denoiser = network.requires_grad_(True).train(), denoiser_of(network)
        self.depth = max(1, int(JUDGING * len(denoiser.blocks)))
        for unused in (denoiser.blocks[self.depth :], denoiser.final_modulation, denoiser.final_linear):
            unused.requires_grad_(False)
        dim = denoiser.final_linear.in_features
        self.norm, self.head = nn.LayerNorm(dim, elementwise_affine=False), FullPrecisionLinear(dim, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """How real noisy latents (b, f, c, h, w) at timesteps (b,) look: a logit for every token (b, f, s)."""
        with recorded(denoiser_of(self.network), self.depth, last=True) as tokens:
            self.network(x, t, **condition)
        return self.head(self.norm(tokens[0].float())).squeeze(-1)


class Adversarial(Distillation):
    """The losses of a student of config.student_steps steps and of its discriminator, as one loss for both.

    Arguments: see Distillation.
    """

    def __init__(self, config: LatentTrainConfig, teacher: nn.Module, weaker: nn.Module | None = None):
        super().__init__(config, teacher, weaker, config.student_steps)

    def attach(self, student: nn.Module) -> None:
        """Make the teacher the discriminator of a student, which saves it in checkpoints but not in its result."""
        student.discriminator = Discriminator(self.teacher)

    def __call__(
        self, student: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, condition: Condition, empty: Condition,
        generators: Generators,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        steps, shape = len(self.schedule), x0.shape[1:]
        drawn = lambda draw, *shape: torch.stack([torch.randn(shape, generator=z) for z in generators(draw)]).to(x0)
        x = self.states(student, drawn(Draw.STATES, steps, *shape), index, condition)
        made = self.clean(student)(x, index, **condition)
        t = self.judged_at(index, generators(Draw.JUDGED_AT))
        # In the graph of the discriminator's loss, what the student made is a leaf. The slope of the student's loss
        # there is taken first, and added as a linear term, so that each loss trains its own network only.
        leaf = made.detach().requires_grad_()
        real = self.judged(student, x0, t, noise, condition)
        ahead = real - self.judged(student, leaf, t, drawn(Draw.JUDGED_NOISE, *shape), condition)
        fooling, judging = F.softplus(ahead).mean(), F.softplus(-ahead).mean()
        (slope,) = torch.autograd.grad(fooling, leaf, retain_graph=True)
        linear = (slope * made).sum()
        loss = judging + linear - linear.detach()
        return loss, {"loss": judging.detach(), "fooling": fooling.detach(), "ahead": ahead.detach().mean()}

    def judged(self, student: nn.Module, x0: Tensor, t: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """The discriminator's logits for clean latents that are noised to timesteps t (b,)."""
        x = q_sample(self.training, x0, t, noise)
        given = network_input(self.config.prediction, x, *factors(self.training, t, x))
        return student.get_submodule("discriminator")(given, self.training.timesteps.to(t.device)[t], **condition)

    @torch.no_grad()
    def states(self, student: nn.Module, noise: Tensor, index: Tensor, condition: Condition) -> Tensor:
        """The states in which a student begins steps when it samples: by DDIM with eta 1, from noise.

        Args:
            student: The student.
            noise: The noise that sampling starts from, and that of each step (b, steps, f, c, h, w).
            index: The steps to begin (b,).
            condition: Keyword arguments of the student.

        Returns:
            The states (b, f, c, h, w).
        """
        x, last = noise[:, 0].clone(), len(self.schedule) - 1
        for step in range(last, int(index.min()), -1):
            on = index < step  # the clips that take this step
            its = {name: z[on] for name, z in condition.items()}
            x0 = self.clean(student)(x[on], torch.full_like(index[on], step), **its)
            deviation = float(self.schedule.posterior_variance[step]) ** 0.5
            x[on] = posterior_mean(self.schedule, x0, x[on], step) + deviation * noise[on, last - step + 1]
        return x

    def judged_at(self, index: Tensor, random: list[torch.Generator]) -> Tensor:
        """Timesteps (b,), drawn uniformly between the noise levels at the ends of steps (b,) of the student."""
        times = self.schedule.timesteps.to(index.device)
        upper, lower = times[index], torch.where(index > 0, times[(index - 1).clamp(min=0)], 0)
        share = torch.stack([torch.rand((), generator=z) for z in random]).to(index.device)
        return (lower + share * (upper - lower)).round().long()
