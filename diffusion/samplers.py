"""Samplers: pure generators over a schedule, from its noisiest step down; each yields x after every step.

denoise(x, t) is any callable from x (b, f, c, h, w) and timesteps (b,) to noise, or noise and variance
channels. noise(i) gives the fresh noise of the i-th executed step, shaped like x.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from latte.diffusion.gaussian import learned_log_variance, posterior_mean, predict_x0, split_output
from latte.diffusion.schedule import Schedule


def steps(schedule: Schedule, x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(count, index, timesteps (b,)) of every step, from the last of the schedule to the first."""
    for count, index in enumerate(reversed(range(len(schedule)))):
        yield count, index, schedule.timesteps[index].to(x.device).expand(len(x))


@torch.no_grad()
def ddpm(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable[[int], Tensor]) -> Iterator[Tensor]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) with the learned variance of Nichol & Dhariwal 2021."""
    for count, index, t in steps(schedule, x):
        eps, variance = split_output(denoise(x, t).to(x.dtype), x.shape[2])
        mean = posterior_mean(schedule, predict_x0(schedule, x, index, eps), x, index)
        log_var = x.new_zeros(()) + learned_log_variance(schedule, variance, index, x)
        x = mean if index == 0 else mean + (0.5 * log_var).exp() * noise(count).to(x)
        yield x


@torch.no_grad()
def ddim(
    denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable[[int], Tensor] | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """DDIM (Song et al. 2021, eq. 12): deterministic at eta 0, as noisy as DDPM at eta 1; any eta > 0 needs noise."""
    if eta and noise is None:
        raise ValueError(f"DDIM with eta {eta} draws fresh noise in every step: give noise=")
    for count, index, t in steps(schedule, x):
        eps, _ = split_output(denoise(x, t).to(x.dtype), x.shape[2])
        x0 = predict_x0(schedule, x, index, eps)
        prev = float(schedule.alphas_cumprod_prev[index])
        sigma = eta * float(schedule.posterior_variance[index]) ** 0.5
        x = prev**0.5 * x0 + max(1 - prev - sigma**2, 0) ** 0.5 * eps
        if sigma:
            x = x + sigma * noise(count).to(x)
        yield x


SAMPLERS = {"ddpm": ddpm, "ddim": ddim}
