"""The training loss: mean squared error of the noise, plus the variational bound for the learned variance.

Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.1; the bound is in bits and has weight 1, as Latte trains.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from latte.diffusion.gaussian import learned_log_variance, noise_from_v, posterior_mean, predict_x0, split_output
from latte.diffusion.schedule import Schedule, at, q_sample


def per_sample(x: Tensor) -> Tensor:
    """Mean over everything but the batch, (b, ...) -> (b,)."""
    return x.flatten(1).mean(1)


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N1 || N2), elementwise, in nats."""
    difference = (mean1 - mean2).square() * torch.exp(-log_var2)
    return 0.5 * (log_var2 - log_var1 - 1 + torch.exp(log_var1 - log_var2) + difference)


def discretised_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log p(x) in nats for data in [-1, 1] cut in 255 bins (Ho et al. 2020, eq. 13), elementwise.

    The normal cdf is its tanh approximation, as in the published training runs.
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    centred, inverse = x - mean, torch.exp(-log_scale)
    upper, lower = cdf(inverse * (centred + 1 / 255)), cdf(inverse * (centred - 1 / 255))
    inner = torch.where(x > 0.999, 1 - lower, upper - lower)
    return -torch.where(x < -0.999, upper, inner).clamp(min=1e-12).log()


def variational_bound(
    schedule: Schedule, x0: Tensor, x: Tensor, index: Tensor, eps: Tensor, variance: Tensor
) -> Tensor:
    """The term of the bound at each sample's step, in bits per element, (b,)."""
    mean = posterior_mean(schedule, predict_x0(schedule, x, index, eps), x, index)
    log_var = learned_log_variance(schedule, variance, index, x)
    true_mean = posterior_mean(schedule, x0, x, index)
    kl = gaussian_kl(true_mean, at(schedule.posterior_log_variance, index, x), mean, log_var)
    nll = discretised_nll(x0, mean, 0.5 * log_var)
    return torch.where(index == 0, per_sample(nll), per_sample(kl)) / math.log(2)


def diffusion_loss(
    model: Callable,
    x0: Tensor,
    index: Tensor,
    noise: Tensor,
    schedule: Schedule,
    prediction: str = "eps",
    **condition,
) -> dict[str, Tensor]:
    """Loss of clean latents x0 (b, f, c, h, w) at step indices (b,), each value (b,): loss, mse and, if learned, vb.

    model(x_t, timesteps, **condition) gives (b, f, c or 2c, h, w), the noise or, with prediction "v", v: then the error
    is v's, which weighs every noise level alike (Salimans & Ho 2022). In the bound the predicted noise is detached: it
    trains the variance alone.
    """
    x = q_sample(schedule, x0, index, noise)
    out = model(x, schedule.timesteps.to(index.device)[index], **condition)
    predicted, variance = split_output(out.float(), x0.shape[2])
    eps, target = predicted, noise
    if prediction == "v":
        abar = schedule.alphas_cumprod
        eps = noise_from_v(schedule, x, index, predicted)
        target = at(abar.sqrt(), index, x0) * noise - at((1 - abar).sqrt(), index, x0) * x0
    mse = per_sample((target - predicted).square())
    if variance is None:
        return {"loss": mse, "mse": mse}
    vb = variational_bound(schedule, x0, x, index, eps.detach(), variance)
    return {"loss": mse + vb, "mse": mse, "vb": vb}
