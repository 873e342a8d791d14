"""The Gaussian of a reverse step, which the loss and ancestral sampling share.

In every function, index is the step: one for the whole batch (int), or one per sample (b,).
"""

import torch
from torch import Tensor

from latte.diffusion.schedule import Schedule, at


def split_output(out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split a denoiser's output into its prediction and the learned variance (Nichol & Dhariwal 2021, section 3.1).

    Args:
        out: The output (b, f, c or 2c, h, w).
        channels: Channels c of the latents.

    Returns:
        The prediction (b, f, c, h, w), and the variance channels (b, f, c, h, w) or, if there are none, None.

    Raises:
        ValueError: The output has neither c nor 2c channels.
    """
    if out.shape[2] not in (channels, 2 * channels):
        raise ValueError(f"the denoiser returned {out.shape[2]} channels; expected {channels} or {2 * channels}")
    if out.shape[2] == channels:
        return out, None
    prediction, variance = out.chunk(2, dim=2)
    return prediction, variance


def noise_from_v(schedule: Schedule, x: Tensor, index: Tensor | int, v: Tensor) -> Tensor:
    """The noise that x_t and v = sqrt(abar) eps - sqrt(1 - abar) x_0 imply (Salimans & Ho 2022, appendix D).

    Args:
        schedule: The schedule that index counts in.
        x: Noisy latents x_t (b, ...).
        index: The step. A float tensor (b,) may lie between steps: then schedule is a training schedule, whose steps
            are its timesteps.
        v: Predicted v, shaped like x.

    Returns:
        The noise, shaped like x.
    """
    abar = schedule.alphas_cumprod
    if isinstance(index, Tensor) and index.is_floating_point():
        abar, index = schedule.alpha_bar_at(index), torch.arange(len(index), device=index.device)
    return at(abar.sqrt(), index, x) * v + at((1 - abar).sqrt(), index, x) * x


def noise_of_v(x: Tensor, v: Tensor, alpha_bar: float) -> Tensor:
    """noise_from_v for one noise level: x_t (b, ...) and v, shaped like x -> the noise."""
    return alpha_bar**0.5 * v + (1 - alpha_bar) ** 0.5 * x


def predict_x0(schedule: Schedule, x: Tensor, index: Tensor | int, eps: Tensor) -> Tensor:
    """The clean latents that x_t (b, ...) and its noise, shaped like x, imply (Ho et al. 2020, eq. 4 for x_0)."""
    abar = schedule.alphas_cumprod
    return at((1 / abar).sqrt(), index, x) * x - at((1 / abar - 1).sqrt(), index, x) * eps


def posterior_mean(schedule: Schedule, x0: Tensor, x: Tensor, index: Tensor | int) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0) for x_0 and x_t, both (b, ...) (Ho et al. 2020, eq. 7)."""
    abar, prev, beta = schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.betas
    of_x0 = beta * prev.sqrt() / (1 - abar)
    of_x = (1 - prev) * (1 - beta).sqrt() / (1 - abar)
    return at(of_x0, index, x) * x0 + at(of_x, index, x) * x


def learned_log_variance(
    schedule: Schedule, variance: Tensor | None, index: Tensor | int, like: Tensor
) -> Tensor | float:
    """The log-variance of a reverse step (Nichol & Dhariwal 2021, eq. 15).

    Args:
        schedule: The schedule that index counts in.
        variance: The network's variance channels (b, ...): -1 stands for the variance of the posterior, 1 for beta,
            with interpolation in log space. None, if none is learned, stands for the posterior's ("fixed small").
        index: The step.
        like: Latents (b, ...), whose device, dtype and number of dimensions the result gets.

    Returns:
        The log-variance, which broadcasts to `like`; a number without variance channels at one step for the batch.
    """
    low = at(schedule.posterior_log_variance, index, like)
    return low if variance is None else low + (at(schedule.betas.log(), index, like) - low) * (variance + 1) / 2
