"""The Gaussian of a reverse step, which the loss and ancestral sampling share.

Where a function takes an index, it is the step: one for the whole batch (int), or one per sample (b,).
"""

import math

from torch import Tensor

from latte.diffusion.schedule import Schedule, at


def predict_x0(schedule: Schedule, x: Tensor, index: Tensor | int, eps: Tensor) -> Tensor:
    """The clean latents that x_t (b, ...) and its noise, shaped like x, imply (Ho et al. 2020, eq. 4 for x_0)."""
    abar = schedule.alphas_cumprod
    return at((1 / abar).sqrt(), index, x) * x - at((1 / abar - 1).sqrt(), index, x) * eps


def posterior_mean(schedule: Schedule, x0: Tensor, x: Tensor, index: Tensor | int) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0) for x_0 and x_t, both (b, ...) (Ho et al. 2020, eq. 7)."""
    abar, prev, beta = schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.step_betas
    of_x0 = beta * prev.sqrt() / (1 - abar)
    of_x = (1 - prev) * (1 - beta).sqrt() / (1 - abar)
    return at(of_x0, index, x) * x0 + at(of_x, index, x) * x


def state_between(
    x: Tensor, x0: Tensor, noise: Tensor, upper: tuple[Tensor, Tensor], lower: tuple[Tensor, Tensor]
) -> Tensor:
    """Draw x_s from q(x_s | x_t, x_0) for any two noise levels (Kingma et al. 2021, arXiv 2107.00630, appendix A).

    Args:
        x: The state x_t (b, ...).
        x0: The clean latents, shaped like x.
        noise: Standard normal noise, shaped like x.
        upper: The factors a and s of the noise level t, which broadcast to x (latte.diffusion.predictions.factors).
        lower: Those of the level s, which is at most as noisy.
    """
    (a_t, s_t), (a_s, s_s) = upper, lower
    ratio = a_t / a_s
    added = (s_t**2 - ratio**2 * s_s**2).clamp(min=0)  # variance of the noise between the two levels
    mean = ratio * s_s**2 / s_t**2 * x + a_s * added / s_t**2 * x0
    return mean + added.sqrt() * s_s / s_t * noise


def learned_log_variance(
    schedule: Schedule, variance: Tensor | None, index: Tensor | int, like: Tensor
) -> Tensor | float:
    """The log-variance of a reverse step (Nichol & Dhariwal 2021, eq. 15).

    Args:
        schedule: The schedule that index refers to.
        variance: The network's variance channels (b, ...): -1 stands for the variance of the posterior, 1 for beta,
            with interpolation in log space. None (no learned variance) gives the posterior variance ("fixed small").
        index: The step.
        like: Latents (b, ...), whose device, dtype and number of dimensions the result gets.

    Returns:
        The log-variance, which broadcasts to `like`; a number if there are no variance channels and index is an int.
    """
    low = at(schedule.posterior_log_variance, index, like)
    return low if variance is None else low + (at(schedule.betas.log(), index, like) - low) * (variance + 1) / 2


def last_log_variance(schedule: Schedule, variance: Tensor) -> Tensor:
    """The log-variance with which diffusers takes the last step: between 1e-20 and beta, as the network's channels say.

    Args:
        schedule: The schedule.
        variance: The variance channels (b, ...), in [-1, 1].
    """
    share = (variance + 1) / 2
    return share * math.log(schedule.betas[0]) + (1 - share) * math.log(1e-20)
