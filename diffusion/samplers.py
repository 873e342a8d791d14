"""The samplers of the paper, DDPM and DDIM: generators that go down a schedule and yield x after every step.

All samplers, here and in solvers.py, share their first arguments:
    denoise: (x (b, f, c, h, w), timesteps (b,)) -> noise and perhaps variance channels (b, f, c or 2c, h, w).
    x: Noise to start from (b, f, c, h, w).
    schedule: The steps to take, from its noisiest to its least noisy.
    noise: i -> the fresh noise of the i-th executed step, shaped like x; deterministic samplers ignore it.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from latte.diffusion.gaussian import last_log_variance, learned_log_variance, posterior_mean, predict_x0
from latte.diffusion.predictions import split_output
from latte.diffusion.schedule import Schedule

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
StepNoise = Callable[[int], Tensor]
Sampler = Callable[..., Iterator[Tensor]]


def descending_steps(schedule: Schedule, x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(count, index, timesteps (b,)) of every step, from the last of the schedule to the first."""
    timesteps = schedule.timesteps_on(x.device)  # once: a copy in each step would wait for the device
    for count, index in enumerate(reversed(range(len(schedule)))):
        yield count, index, timesteps[index].expand(len(x))


@torch.no_grad()
def ddpm(
    denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise, last_noise: bool = False
) -> Iterator[Tensor]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) with a learned variance (Nichol & Dhariwal 2021, eq. 15).

    Args:
        denoise, x, schedule, noise: See the module.
        last_noise: Adds noise in the last step too, if that begins above timestep 0, as diffusers does: with a learned
            variance between 1e-20 and beta.

    Yields:
        x after each step, (b, f, c, h, w).
    """
    for count, index, t in descending_steps(schedule, x):
        eps, variance = split_output(denoise(x, t).to(x.dtype), x.shape[2])
        x = posterior_mean(schedule, predict_x0(schedule, x, index, eps), x, index)
        if index > 0:
            deviation = (0.5 * (x.new_zeros(()) + learned_log_variance(schedule, variance, index, x))).exp()
            x = x + deviation * noise(count).to(x)
        elif last_noise and variance is not None and schedule.timesteps[0] > 0:
            x = x + (0.5 * last_log_variance(schedule, variance)).exp() * noise(count).to(x)
        yield x


@torch.no_grad()
def ddim(
    denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12).

    Args:
        denoise, x, schedule: See the module.
        noise: See the module; required if eta is above 0.
        eta: Scales the fresh noise: 0 is deterministic, 1 is as noisy as DDPM.

    Yields:
        x after each step, (b, f, c, h, w).

    Raises:
        ValueError: eta is above 0, but there is no noise.
    """
    if eta and noise is None:
        raise ValueError(f"DDIM with eta {eta} draws fresh noise in every step: give noise=")
    for count, index, t in descending_steps(schedule, x):
        eps, _ = split_output(denoise(x, t).to(x.dtype), x.shape[2])
        x0 = predict_x0(schedule, x, index, eps)
        prev = float(schedule.alphas_cumprod_prev[index])
        sigma = eta * float(schedule.posterior_variance[index]) ** 0.5
        x = prev**0.5 * x0 + max(1 - prev - sigma**2, 0) ** 0.5 * eps
        if sigma and noise is not None:
            x = x + sigma * noise(count).to(x)
        yield x


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim}
