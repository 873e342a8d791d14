"""Faster samplers, each of a few lines: generators over a schedule that yield x after every step, as in samplers.py.

All integrate one equation. With x_t = a x_0 + s eps, the variable x / a obeys d(x / a) = eps d(sigma) in sigma = s / a
(Song et al. 2021, DDIM, eq. 14; Karras et al. 2022): they differ in what they take for eps over a step.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from latte.diffusion.gaussian import split_output
from latte.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Level:
    """A noise level: x_t = a x_0 + s eps, which the network knows as timestep t."""

    t: float  # whole, as an int, where the schedule's are
    a: float
    s: float

    @property
    def sigma(self) -> float:
        return self.s / self.a

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio, lambda of Lu et al. 2022; infinite where there is no noise."""
        return math.log(self.a / self.s) if self.s else math.inf


def levels(schedule: Schedule) -> list[Level]:
    """From the noisiest step down to the end, where nothing, or what the schedule says, is left."""
    pairs = zip(schedule.timesteps.tolist(), schedule.alphas_cumprod.tolist())
    rising = [Level(t, math.sqrt(abar), math.sqrt(1 - abar)) for t, abar in pairs]
    end = float(schedule.alphas_cumprod_prev[0])
    return [*reversed(rising), Level(0, math.sqrt(end), math.sqrt(1 - end))]


def noise_at(denoise: Callable, x: Tensor, level: Level) -> Tensor:
    """What the network takes for noise in x."""
    t = torch.full((len(x),), level.t, device=x.device)
    return split_output(denoise(x, t).to(x.dtype), x.shape[2])[0]


def move(x: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
    """x at another level, as if eps were the noise all the way: a step of DDIM."""
    return there.a * (x / here.a + (there.sigma - here.sigma) * eps)


@torch.no_grad()
def euler(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable | None = None) -> Iterator[Tensor]:
    """Euler's method: DDIM without its eta."""
    for here, there in pairwise(levels(schedule)):
        x = move(x, noise_at(denoise, x, here), here, there)
        yield x


def ancestral(here: Level, there: Level) -> tuple[Level, float]:
    """Part of a step that goes lower than `there`, and the deviation of fresh noise, in sigma, that leads back up."""
    up = min(there.sigma, there.sigma * math.sqrt(max(here.sigma**2 - there.sigma**2, 0)) / here.sigma)
    down = math.sqrt(max(there.sigma**2 - up**2, 0))
    return Level(there.t, there.a, down * there.a), up


@torch.no_grad()
def euler_ancestral(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable) -> Iterator[Tensor]:
    """Euler's method to below the next level, and fresh noise up to it."""
    for count, (here, there) in enumerate(pairwise(levels(schedule))):
        down, up = ancestral(here, there)
        x = move(x, noise_at(denoise, x, here), here, down)
        if up:
            x = x + there.a * up * noise(count).to(x)
        yield x


@torch.no_grad()
def kdpm2_ancestral(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable) -> Iterator[Tensor]:
    """DPM-Solver 2 as Karras et al. 2022 space it: eps of the middle in log sigma, and fresh noise as above."""
    for count, (here, there) in enumerate(pairwise(levels(schedule))):
        down, up = ancestral(here, there)
        eps = noise_at(denoise, x, here)
        if down.s:
            sigma = math.sqrt(here.sigma * down.sigma)
            a = 1 / math.hypot(1, sigma)
            middle = Level(schedule.timestep_of(sigma), a, a * sigma)
            eps = noise_at(denoise, move(x, eps, here, middle), middle)
        x = move(x, eps, here, down)
        if up:
            x = x + there.a * up * noise(count).to(x)
        yield x


@torch.no_grad()
def heun(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable | None = None) -> Iterator[Tensor]:
    """Heun's method (Karras et al. 2022, algorithm 1): eps is the mean of both ends, at two evaluations a step."""
    for here, there in pairwise(levels(schedule)):
        eps = noise_at(denoise, x, here)
        if there.s:
            eps = (eps + noise_at(denoise, move(x, eps, here, there), there)) / 2
        x = move(x, eps, here, there)
        yield x


PLMS = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


@torch.no_grad()
def pndm(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable | None = None) -> Iterator[Tensor]:
    """Linear multistep (Liu et al. 2022, PNDM): Adams-Bashforth's weights of order 4 on eps; the first step is Heun's.

    The weights are those of even steps, which sigma's are not: in the limit the order is 2, with a small constant.
    """
    past: list[Tensor] = []
    for here, there in pairwise(levels(schedule)):
        past = [noise_at(denoise, x, here), *past[:3]]
        eps = sum(weight * old for weight, old in zip(PLMS[len(past)], past))
        if len(past) == 1 and there.s:
            eps = (eps + noise_at(denoise, move(x, eps, here, there), there)) / 2
        x = move(x, eps, here, there)
        yield x


@torch.no_grad()
def deis(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable | None = None) -> Iterator[Tensor]:
    """DEIS (Zhang & Chen 2023), order 2: eps is a line in log sigma through the last two, integrated exactly."""

    def share(of: Level, other: Level, at: Level) -> float:
        """Integral up to `at` of the line that is 1 at `of` and 0 at `other`."""
        return at.sigma * (math.log(at.sigma / other.sigma) - 1) / math.log(of.sigma / other.sigma)

    before = old = None
    for here, there in pairwise(levels(schedule)):
        eps = noise_at(denoise, x, here)
        if before is None or not there.s:
            x = move(x, eps, here, there)
        else:
            new_weight = share(here, before, there) - share(here, before, here)
            old_weight = share(before, here, there) - share(before, here, here)
            x = there.a * (x / here.a + new_weight * eps + old_weight * old)
        before, old = here, eps
        yield x


def exponential(x: Tensor, clean: Tensor, here: Level, there: Level) -> Tensor:
    """x at another level, as if `clean` were x_0 all the way: DPM-Solver++ (Lu et al. 2022), order 1."""
    return there.s / here.s * x + (there.a - there.s / here.s * here.a) * clean


@torch.no_grad()
def dpm_multistep(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable | None = None) -> Iterator[Tensor]:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2): x_0 is continued from the last two, linearly in lambda."""
    before = old = None
    for here, there in pairwise(levels(schedule)):
        clean = (x - here.s * noise_at(denoise, x, here)) / here.a
        ahead = clean
        if before is not None and there.s:
            ratio = (there.log_snr - here.log_snr) / (here.log_snr - before.log_snr)
            ahead = clean + ratio / 2 * (clean - old)
        x = exponential(x, ahead, here, there)
        before, old = here, clean
        yield x


@torch.no_grad()
def dpm_singlestep(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable | None = None) -> Iterator[Tensor]:
    """DPM-Solver++ 2S (Lu et al. 2022, algorithm 1): steps in pairs, the second from where the first began."""
    start = None
    for here, there in pairwise(levels(schedule)):
        clean = (x - here.s * noise_at(denoise, x, here)) / here.a
        if start is None or not there.s:
            start = (x, clean, here) if start is None else None
            x = exponential(x, clean, here, there)
        else:
            y, first, begin = start
            ratio = (there.log_snr - begin.log_snr) / (here.log_snr - begin.log_snr)
            x, start = exponential(y, first + ratio / 2 * (clean - first), begin, there), None
        yield x


SOLVERS = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "kdpm2_ancestral": kdpm2_ancestral,
    "pndm": pndm,
    "deis": deis,
    "dpm_multistep": dpm_multistep,
    "dpm_singlestep": dpm_singlestep,
}
