"""Few-step distillation by consistency within phases of the teacher's trajectory.

The teacher takes N DDIM steps, the student n. Each step of the student spans a phase, which is N / n steps of the
teacher: from any noise level in a phase, the student learns to reach the end of the phase in one DDIM step. Its target
is its own prediction one teacher step further down. In the last step of a phase the target is the teacher's alone, and
from there it propagates up the phase: multistep consistency models (Heek et al. 2024, arXiv 2403.06807), phased
consistency models (Wang et al. 2024, arXiv 2405.18407). With phases of one step, the student learns the teacher itself.
With a single phase, this is consistency distillation (Song et al. 2023, arXiv 2303.01469).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latte.diffusion.loss import mean_per_sample
from latte.diffusion.predictions import factors
from latte.diffusion.schedule import Schedule, at, respace, spaced_timesteps


def teacher_schedule(training: Schedule, steps: int) -> Schedule:
    """The teacher's steps: evenly down from the last timestep of the training schedule, the last one to no noise."""
    return respace(training, spaced_timesteps(steps, "trailing", len(training)))


def student_share(schedule: Schedule, length: int) -> Tensor:
    """The weight, in the student's target, of its own prediction one teacher step further down.

    A DDIM step (a, s) -> (a', s') with clean latents x_T, followed by one with x_S to the end of the phase (a_e, s_e),
    leads to the same state as a single step with w x_S + (1 - w) x_T. With d(e, t) = a_e s - a s_e,

        w = s d(e, t') / (s' d(e, t)),

    which is 0 for the last step of a phase. This is the target of algorithm 2 of Salimans & Ho 2022 (arXiv 2202.00512)
    for steps of any length, computed without the difference of two states.

    Args:
        schedule: The teacher's steps (n,).
        length: Teacher steps per phase.

    Returns:
        w of each step (n,), float64.
    """
    a, s = schedule.alphas_cumprod.sqrt(), (1 - schedule.alphas_cumprod).sqrt()
    following = schedule.alphas_cumprod_prev
    a_next, s_next = following.sqrt(), (1 - following).sqrt()
    ends = torch.arange(len(schedule)) // length * length
    a_end, s_end = a_next[ends], s_next[ends]
    last = torch.arange(len(schedule)) == ends
    share = s * (a_end * s_next - a_next * s_end) / (s_next * (a_end * s - a * s_end))
    return torch.where(last, 0.0, share)


def consistency_loss(
    student: Callable[[Tensor, Tensor], Tensor],
    teacher: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    index: Tensor,
    schedule: Schedule,
    length: int,
) -> Tensor:
    """The squared error of the student's prediction at noisy latents, in units of v, so that all noise levels count.

    Args:
        student: (x, index) -> its prediction of the clean latents, shaped like x. The target has no gradient.
        teacher: The same for the teacher, guided.
        x: Noisy latents (b, f, c, h, w).
        index: Their steps (b,) in the schedule.
        schedule: The teacher's steps.
        length: Teacher steps per phase.

    Returns:
        The loss of each sample (b,).
    """
    a, s = factors(schedule, index, x)
    with torch.no_grad():
        taught = teacher(x, index)
        following = at(schedule.alphas_cumprod_prev, index, x)
        lower = following.sqrt() * taught + (1 - following).sqrt() * (x - a * taught) / s
        share = at(student_share(schedule, length), index, x)
        target = taught + share * (student(lower, (index - 1).clamp(min=0)) - taught)
    return mean_per_sample(((student(x, index) - target) / s).square())
