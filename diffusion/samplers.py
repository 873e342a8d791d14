"""Samplers: pure generators over a schedule, from its noisiest step down; each yields x after every step.

denoise(x, t) is any callable from x (b, f, c, h, w) and timesteps (b,) to noise, or noise and variance
channels. noise(i) gives the fresh noise of the i-th executed step, shaped like x.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from latte.diffusion.gaussian import learned_log_variance, posterior_mean, predict_x0, split_output
from latte.diffusion.schedule import Schedule, at


def steps(schedule: Schedule, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(count, index (b,), timestep (b,)) of every step, from the last of the schedule to the first."""
    for count, i in enumerate(reversed(range(len(schedule)))):
        index = torch.full((len(x),), i, device=x.device)
        yield count, index, torch.full_like(index, int(schedule.timesteps[i]))


@torch.no_grad()
def ddpm(denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable[[int], Tensor]) -> Iterator[Tensor]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) with the learned variance of Nichol & Dhariwal 2021."""
    for count, index, t in steps(schedule, x):
        eps, v = split_output(denoise(x, t), x.shape[2])
        eps = eps.to(x.dtype)
        mean = posterior_mean(schedule, predict_x0(schedule, x, index, eps), x, index)
        log_var = learned_log_variance(schedule, None if v is None else v.to(x.dtype), index, x)
        x = mean if count == len(schedule) - 1 else mean + (0.5 * log_var).exp() * noise(count).to(x)
        yield x


@torch.no_grad()
def ddim(
    denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable[[int], Tensor] | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """DDIM (Song et al. 2021, eq. 12): deterministic at eta 0, as noisy as DDPM at eta 1; any eta > 0 needs noise."""
    if eta and noise is None:
        raise ValueError(f"DDIM with eta {eta} draws fresh noise in every step: give noise=")
    prev = schedule.alphas_cumprod_prev
    sigma = eta * schedule.posterior_variance.sqrt()
    for count, index, t in steps(schedule, x):
        eps = split_output(denoise(x, t), x.shape[2])[0].to(x.dtype)
        x0 = predict_x0(schedule, x, index, eps)
        x = at(prev.sqrt(), index, x) * x0 + at((1 - prev - sigma**2).clamp(min=0).sqrt(), index, x) * eps
        if eta and count < len(schedule) - 1:
            x = x + at(sigma, index, x) * noise(count).to(x)
        yield x


SAMPLERS = {"ddpm": ddpm, "ddim": ddim}
