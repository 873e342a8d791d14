"""The reverse step's Gaussian, shared by the loss and by ancestral sampling.

index: the step, one for the whole batch (int) or one per sample (b,).
"""

import torch
from torch import Tensor

from latte.diffusion.schedule import Schedule, at


def split_output(out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """A denoiser's output (b, f, c or 2c, h, w) -> predicted noise and, where it is learned, the variance channels."""
    if out.shape[2] not in (channels, 2 * channels):
        raise ValueError(f"the denoiser returned {out.shape[2]} channels for {channels}; expected {channels} or twice")
    return (out, None) if out.shape[2] == channels else out.chunk(2, dim=2)


def noise_from_v(schedule: Schedule, x: Tensor, index: Tensor | int, v: Tensor) -> Tensor:
    """The noise that x_t and v = sqrt(abar) eps - sqrt(1 - abar) x_0 imply; Salimans & Ho 2022, appendix D.

    index (b,) may lie between steps: then it is a training schedule, whose steps are its timesteps.
    """
    abar = schedule.alphas_cumprod
    if isinstance(index, Tensor) and index.is_floating_point():
        abar, index = schedule.alpha_bar_at(index), torch.arange(len(index), device=index.device)
    return at(abar.sqrt(), index, x) * v + at((1 - abar).sqrt(), index, x) * x


def predict_x0(schedule: Schedule, x: Tensor, index: Tensor | int, eps: Tensor) -> Tensor:
    """The clean sample that x_t and its noise imply; eq. 4 of Ho et al. 2020, solved for x_0."""
    abar = schedule.alphas_cumprod
    return at((1 / abar).sqrt(), index, x) * x - at((1 / abar - 1).sqrt(), index, x) * eps


def posterior_mean(schedule: Schedule, x0: Tensor, x: Tensor, index: Tensor | int) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0); eq. 7 of Ho et al. 2020."""
    abar, prev, beta = schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.betas
    of_x0 = beta * prev.sqrt() / (1 - abar)
    of_x = (1 - prev) * (1 - beta).sqrt() / (1 - abar)
    return at(of_x0, index, x) * x0 + at(of_x, index, x) * x


def learned_log_variance(
    schedule: Schedule, variance: Tensor | None, index: Tensor | int, like: Tensor
) -> Tensor | float:
    """Between the posterior's (at -1) and beta (at 1), in log space: Nichol & Dhariwal 2021, eq. 15.

    variance: a network's variance channels; None, where it does not learn them: the posterior's ("fixed small").
    """
    low = at(schedule.posterior_log_variance, index, like)
    return low if variance is None else low + (at(schedule.betas.log(), index, like) - low) * (variance + 1) / 2
