"""Faster samplers: generators with the arguments of those in samplers.py, which yield x after every step.

All of them integrate one equation. With x_t = a x_0 + s eps, the variable x / a obeys d(x / a) = eps d(sigma), where
sigma = s / a (Song et al. 2021, eq. 14; Karras et al. 2022, eq. 1). They differ in how they estimate eps over a step.

On a flow's schedule, x / (a + s) is a state of the linear path at time u = s / (a + s), and the same equation reads
d(x / (a + s)) = (eps - x_0) d(u) (Liu et al. 2023, arXiv 2209.03003, eq. 1). With a constant slope both give the same
step. With a mean of several slopes they do not: a mean of eps is far off near u = 1, where sigma grows without bound.
So on a flow, `slope` and `step` use the second form.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from latte.diffusion.predictions import split_output
from latte.diffusion.samplers import NoisePredictor, Sampler, StepNoise
from latte.diffusion.schedule import Schedule


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level x_t = a x_0 + s eps.

    Attributes:
        t: The timestep given to the network; an int if the schedule's timesteps are integers.
        a: The factor of the clean latents.
        s: The standard deviation of the noise.
    """

    t: float
    a: float
    s: float

    @property
    def sigma(self) -> float:
        """The noise-to-signal ratio s / a (Karras et al. 2022)."""
        return self.s / self.a

    @property
    def time(self) -> float:
        """The time s / (a + s) of the linear path, from 0, the clean latents, to 1, the noise."""
        return self.s / (self.a + self.s)

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio, lambda in Lu et al. 2022; infinite without noise."""
        return math.log(self.a / self.s) if self.s else math.inf


def noise_levels(schedule: Schedule) -> list[NoiseLevel]:
    """The levels of a schedule, from the noisiest down to its end, which has no noise or as much as it prescribes."""
    pairs = zip(schedule.timesteps.tolist(), schedule.alphas_cumprod.tolist())
    rising = [NoiseLevel(t, math.sqrt(abar), math.sqrt(1 - abar)) for t, abar in pairs]
    end = float(schedule.alphas_cumprod_prev[0])
    return [*reversed(rising), NoiseLevel(0, math.sqrt(end), math.sqrt(1 - end))]


def goals(schedule: Schedule) -> list[NoiseLevel]:
    """The level that each step leads to: the next one, or one a stride lower if the schedule has a stride."""
    levels = noise_levels(schedule)
    if not schedule.stride:
        return levels[1:]
    return [level_at(schedule, here.t - schedule.stride) for here in levels[:-1]]


def level_at(schedule: Schedule, t: float) -> NoiseLevel:
    """The level of a timestep of the training schedule; below 0, the schedule's end."""
    training = schedule.parent or schedule
    abar = schedule.end if t < 0 else float(training.alpha_bar_at(torch.tensor([t]))[0])
    return NoiseLevel(max(t, 0), math.sqrt(abar), math.sqrt(1 - abar))


def predict_noise(denoise: NoisePredictor, x: Tensor, level: NoiseLevel) -> Tensor:
    """The noise that the network predicts in x (b, f, c, h, w)."""
    t = torch.full((len(x),), level.t, device=x.device)
    return split_output(denoise(x, t).to(x.dtype), x.shape[2])[0]


def ddim_step(x: Tensor, eps: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Take x to another level with eps constant: a step of DDIM (Song et al. 2021, eq. 13)."""
    return there.a * (x / here.a + (there.sigma - here.sigma) * eps)


def slope(schedule: Schedule, x: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
    """The quantity that solvers average: the noise in x (b, f, c, h, w) or, on a flow, the velocity eps - x_0."""
    return eps - (x - level.s * eps) / level.a if schedule.is_flow else eps


def step(schedule: Schedule, x: Tensor, mean: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Take x to another level with an averaged slope."""
    if not schedule.is_flow:
        return ddim_step(x, mean, here, there)
    return (there.a + there.s) * (x / (here.a + here.s) + (there.time - here.time) * mean)


def middle_of(schedule: Schedule, here: NoiseLevel, there: NoiseLevel) -> NoiseLevel:
    """The level midway between two: in log sigma or, for a flow, in time."""
    time = (here.time + there.time) / 2
    sigma = time / (1 - time) if schedule.is_flow else math.sqrt(here.sigma * there.sigma)
    a = 1 / math.hypot(1, sigma)
    return NoiseLevel(schedule.timestep_of(sigma), a, a * sigma)


@torch.no_grad()
def euler(denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise | None = None) -> Iterator[Tensor]:
    """Euler's method (Karras et al. 2022, section 3), which equals DDIM at eta 0."""
    for here, there in pairwise(noise_levels(schedule)):
        x = ddim_step(x, predict_noise(denoise, x, here), here, there)
        yield x


def split_step(here: NoiseLevel, there: NoiseLevel) -> tuple[NoiseLevel, float]:
    """Split a step into one that goes below its goal, and fresh noise that leads back up (Song et al. 2021, eq. 16).

    Returns:
        The level below, and the deviation of the fresh noise, in units of sigma.
    """
    up = min(there.sigma, there.sigma * math.sqrt(max(here.sigma**2 - there.sigma**2, 0)) / here.sigma)
    down = math.sqrt(max(there.sigma**2 - up**2, 0))
    return NoiseLevel(there.t, there.a, down * there.a), up


@torch.no_grad()
def euler_ancestral(denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise) -> Iterator[Tensor]:
    """Euler's method to below the next level, then DDPM's fresh noise back up to it (Song et al. 2021, eq. 16)."""
    for count, (here, there) in enumerate(pairwise(noise_levels(schedule))):
        down, up = split_step(here, there)
        x = ddim_step(x, predict_noise(denoise, x, here), here, down)
        if up:
            x = x + there.a * up * noise(count).to(x)
        yield x


@torch.no_grad()
def kdpm2_ancestral(denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise) -> Iterator[Tensor]:
    """DPM-Solver-2 (Lu et al. 2022a, algorithm 1) with eps at the midpoint in log sigma, and euler_ancestral's noise.

    On a flow it is the midpoint method: the velocity at the midpoint in time.
    """
    for count, (here, there) in enumerate(pairwise(noise_levels(schedule))):
        down, up = split_step(here, there)
        eps = predict_noise(denoise, x, here)
        inside = slope(schedule, x, eps, here)
        if down.s:
            middle = middle_of(schedule, here, down)
            between = ddim_step(x, eps, here, middle)
            inside = slope(schedule, between, predict_noise(denoise, between, middle), middle)
        x = step(schedule, x, inside, here, down)
        if up:
            x = x + there.a * up * noise(count).to(x)
        yield x


@torch.no_grad()
def heun(denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise | None = None) -> Iterator[Tensor]:
    """Heun's method (Karras et al. 2022, algorithm 1): the slope is the mean of both ends, two evaluations per step."""
    for here, there in pairwise(noise_levels(schedule)):
        eps = predict_noise(denoise, x, here)
        mean = slope(schedule, x, eps, here)
        if there.s:
            ahead = ddim_step(x, eps, here, there)
            mean = (mean + slope(schedule, ahead, predict_noise(denoise, ahead, there), there)) / 2
        x = step(schedule, x, mean, here, there)
        yield x


PLMS = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


@torch.no_grad()
def pndm(denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise | None = None) -> Iterator[Tensor]:
    """Pseudo linear multistep (PNDM: Liu et al. 2022, eq. 12): Adams-Bashforth weights of order 4 on the slope.

    The first step is Heun's. The weights assume equal steps, but steps in sigma are not equal: asymptotically the order
    is 2, with a small constant. A flow's steps in time are equal if its timesteps are equally spaced.
    """
    past: list[Tensor] = []
    levels = noise_levels(schedule)
    for here, after, there in zip(levels, levels[1:], goals(schedule)):
        eps = predict_noise(denoise, x, here)
        past = [slope(schedule, x, eps, here), *past[:3]]
        mean = reduce(torch.add, (weight * old for weight, old in zip(PLMS[len(past)], past)))
        if len(past) == 1 and len(schedule) > 1:
            ahead = ddim_step(x, eps, here, there)
            mean = (mean + slope(schedule, ahead, predict_noise(denoise, ahead, after), after)) / 2
            if schedule.stride:  # as diffusers does, from one stride above the next level
                here, there = level_at(schedule, after.t + schedule.stride), after
        x = step(schedule, x, mean, here, there)
        yield x


def line_integral(one: NoiseLevel, zero: NoiseLevel, end: NoiseLevel) -> float:
    """The integral over sigma, up to `end`, of the line in log sigma that is 1 at `one` and 0 at `zero`."""
    return end.sigma * (math.log(end.sigma / zero.sigma) - 1) / math.log(one.sigma / zero.sigma)


@torch.no_grad()
def deis(denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise | None = None) -> Iterator[Tensor]:
    """DEIS of order 2 (Zhang & Chen 2023, arXiv 2204.13902, eq. 15).

    eps is taken as a line in log sigma through its last two values, and integrated exactly. As in diffusers, the last
    step is of order 1 if there are fewer than 15 steps.
    """
    before: NoiseLevel | None = None
    old = x  # a placeholder until there is a previous eps
    for count, (here, there) in enumerate(pairwise(noise_levels(schedule)), 1):
        eps = predict_noise(denoise, x, here)
        if before is None or not there.s or count == len(schedule) < 15:
            x = ddim_step(x, eps, here, there)
        else:
            new_weight = line_integral(here, before, there) - line_integral(here, before, here)
            old_weight = line_integral(before, here, there) - line_integral(before, here, here)
            x = there.a * (x / here.a + new_weight * eps + old_weight * old)
        before, old = here, eps
        yield x


def exponential_step(x: Tensor, clean: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Take x to another level with x_0 constant: a step of DPM-Solver++ of order 1 (Lu et al. 2022b, eq. 9)."""
    return there.s / here.s * x + (there.a - there.s / here.s * here.a) * clean


@torch.no_grad()
def dpm_multistep(
    denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise | None = None
) -> Iterator[Tensor]:
    """DPM-Solver++ 2M (Lu et al. 2022b, arXiv 2211.01095, algorithm 2): x_0 is extrapolated linearly in lambda."""
    before: NoiseLevel | None = None
    old = x  # a placeholder until there is a previous x_0
    for here, there in pairwise(noise_levels(schedule)):
        clean = (x - here.s * predict_noise(denoise, x, here)) / here.a
        ahead = clean
        if before is not None and there.s:
            ratio = (there.log_snr - here.log_snr) / (here.log_snr - before.log_snr)
            ahead = clean + ratio / 2 * (clean - old)
        x = exponential_step(x, ahead, here, there)
        before, old = here, clean
        yield x


@torch.no_grad()
def dpm_singlestep(
    denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise | None = None
) -> Iterator[Tensor]:
    """DPM-Solver++ 2S (Lu et al. 2022b, algorithm 1): the second step of each pair restarts where the first began."""
    start: tuple[Tensor, Tensor, NoiseLevel] | None = None
    for here, there in pairwise(noise_levels(schedule)):
        clean = (x - here.s * predict_noise(denoise, x, here)) / here.a
        if start is None or not there.s:
            start = (x, clean, here) if start is None else None
            x = exponential_step(x, clean, here, there)
        else:
            y, first, begin = start
            ratio = (there.log_snr - begin.log_snr) / (here.log_snr - begin.log_snr)
            x, start = exponential_step(y, first + ratio / 2 * (clean - first), begin, there), None
        yield x


SOLVERS: dict[str, Sampler] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "kdpm2_ancestral": kdpm2_ancestral,
    "pndm": pndm,
    "deis": deis,
    "dpm_multistep": dpm_multistep,
    "dpm_singlestep": dpm_singlestep,
}
