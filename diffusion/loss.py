"""The training loss: the squared error of the prediction, and the variational bound that trains the variance.

Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.1. As in Latte's training, the bound is in bits and has weight 1.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latte.diffusion.gaussian import learned_log_variance, posterior_mean, predict_x0
from latte.diffusion.predictions import coefficients, evaluate, noise_of, prediction_of
from latte.diffusion.schedule import Schedule, at, q_sample, widest


def mean_per_sample(x: Tensor) -> Tensor:
    """The mean over everything but the batch, (b, ...) -> (b,)."""
    return x.flatten(1).mean(1)


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N1 || N2) of two Gaussians, elementwise, in nats; the terms of Ho et al. 2020, eq. 5."""
    difference = (mean1 - mean2).square() * torch.exp(-log_var2)
    return 0.5 * (log_var2 - log_var1 - 1 + torch.exp(log_var1 - log_var2) + difference)


def normal_cdf(z: Tensor) -> Tensor:
    """The standard normal cdf in its tanh approximation, as in the published training runs."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def discretised_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The negative log-likelihood of data in 256 bins under a Gaussian (Ho et al. 2020, eq. 13).

    Args:
        x: Data in [-1, 1], of any shape.
        mean: The mean, shaped like x.
        log_scale: The log of the standard deviation, shaped like x.

    Returns:
        -log p(x) in nats, elementwise.
    """
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper, lower = normal_cdf(inverse * (centred + 1 / 255)), normal_cdf(inverse * (centred - 1 / 255))
    inner = torch.where(x > 0.999, 1 - lower, upper - lower)
    return -torch.where(x < -0.999, upper, inner).clamp(min=1e-12).log()


def variational_bound(
    schedule: Schedule, x0: Tensor, x: Tensor, index: Tensor, eps: Tensor, variance: Tensor
) -> Tensor:
    """The term of the variational bound at each sample's step (Nichol & Dhariwal 2021, eq. 4-7).

    Args:
        schedule: The schedule that index refers to.
        x0: Clean latents (b, ...).
        x: Noisy latents x_t, shaped like x0.
        index: Steps (b,).
        eps: Predicted noise, shaped like x0.
        variance: The network's variance channels, shaped like x0.

    Returns:
        Bits per element (b,): the likelihood at step 0, a KL divergence at all others.
    """
    mean = posterior_mean(schedule, predict_x0(schedule, x, index, eps), x, index)
    log_var = torch.as_tensor(learned_log_variance(schedule, variance, index, x))
    true_mean = posterior_mean(schedule, x0, x, index)
    kl = gaussian_kl(true_mean, at(schedule.posterior_log_variance, index, x), mean, log_var)
    nll = discretised_nll(x0, mean, 0.5 * log_var)
    return torch.where(index == 0, mean_per_sample(nll), mean_per_sample(kl)) / math.log(2)


def min_snr_weight(schedule: Schedule, index: Tensor, prediction: str, gamma: float) -> Tensor:
    """The weight of a squared error (Min-SNR: Hang et al. 2023, arXiv 2303.09556).

    The squared error of x_0 is weighted by min(SNR, gamma), with SNR = abar / (1 - abar). The error of another
    prediction is that of x_0 times a factor, whose square is divided out:

        "x0"    min(SNR, gamma)
        "eps"   min(SNR, gamma) / SNR
        "v"     min(SNR, gamma) / (SNR + 1)
        "flow"  min(SNR, gamma) / (sqrt(SNR) + 1)^2

    Args:
        schedule: The schedule that index refers to.
        index: Steps (b,).
        prediction: What is predicted.
        gamma: The largest weight of the error of x_0; 5 in the paper.

    Returns:
        Weights (b,), float64 where the device has it.
    """
    abar = schedule.alphas_cumprod
    a, s = abar.sqrt(), (1 - abar).sqrt()
    weights = (abar / (1 - abar)).clamp(max=gamma) * (s / coefficients(prediction, a, s)[2]) ** 2
    return weights.to(index.device, widest(index.device))[index]


def diffusion_loss(
    model: Callable[..., Tensor],
    x0: Tensor,
    index: Tensor,
    noise: Tensor,
    schedule: Schedule,
    prediction: str = "eps",
    snr_gamma: float | None = None,
    estimate: Tensor | None = None,
    **condition: Any,
) -> dict[str, Tensor]:
    """The loss of a denoiser (Nichol & Dhariwal 2021, eq. 16, with lambda 1 and the bound in bits).

    The bound trains only the variance: the predicted noise is detached in it.

    Args:
        model: (x_t, timesteps (b,), **condition) -> prediction and perhaps variance channels (b, f, c or 2c, h, w).
        x0: Clean latents (b, f, c, h, w).
        index: Steps of the schedule (b,).
        noise: Standard normal noise, shaped like x0.
        schedule: The training schedule.
        prediction: What the model predicts: "eps" (the noise), "v", whose error counts at all noise levels (Salimans
            & Ho 2022, section 4), or "flow", the velocity of the linear path (Liu et al. 2023,
            arXiv 2209.03003, eq. 1).
        snr_gamma: Weight the squared error by min_snr_weight with this gamma; None weights all noise levels equally.
        estimate: The model's earlier estimate of the clean latents, shaped like x0, for self-conditioning: it follows
            x_t on the channel axis.
        **condition: Further arguments of the model.

    Returns:
        Values per sample (b,): "loss", "mse" (unweighted) and, if the variance is learned, "vb".
    """
    x = q_sample(schedule, x0, index, noise)
    value, variance, a, s = evaluate(model, x, index, schedule, prediction, estimate, **condition)
    predicted = value.float()
    mse = mean_per_sample((prediction_of(prediction, x0, noise, a, s) - predicted).square())
    loss = mse if snr_gamma is None else mse * min_snr_weight(schedule, index, prediction, snr_gamma).to(mse)
    if variance is None:
        return {"loss": loss, "mse": mse}
    eps = noise_of(prediction, predicted, x, a, s)
    vb = variational_bound(schedule, x0, x, index, eps.detach(), variance.float())
    return {"loss": loss + vb, "mse": mse, "vb": vb}
