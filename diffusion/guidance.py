"""Classifier-free guidance: wrappers around a denoiser, so that samplers and networks need not know about it.

They are for sampling loops of your own. The pipeline guides in latte.guided_denoiser, which follows a plan and supports
the methods of latte.diffusion.guidance_methods; the formula is the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latte.diffusion.predictions import split_output


def guided(
    model: Callable[..., Tensor], y: Tensor, null: Tensor, scale: float, interval: tuple[float, float] | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Guide a denoiser by a condition (Ho & Salimans 2022, arXiv 2207.12598, eq. 6).

    Both halves go through the model in one call. All noise channels are guided; the variance is that of the conditional
    half. The unconditional half is not computed where it has no effect: at scale 1 and outside `interval`.

    Args:
        model: (x, t, y) -> noise and perhaps variance channels (b, f, c or 2c, h, w).
        y: The condition (b, ...).
        null: The null condition, shaped like y.
        scale: 1 samples from the conditional model; larger values follow the condition more closely.
        interval: The first and the last timestep at which guidance applies (Kynkäänniemi et al. 2024, arXiv
            2404.07724); the timesteps of a batch are assumed equal. None: at all timesteps.

    Returns:
        A denoiser (x (b, f, c, h, w), t (b,)) -> (b, f, c or 2c, h, w).
    """
    if scale == 1:
        return lambda x, t: model(x, t, y)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if interval is not None and not interval[0] <= t[0].item() <= interval[1]:
            return model(x, t, y)
        conditional, negative = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null])).chunk(2)
        return guide_output(conditional, negative, scale, x.shape[2])

    return denoise


def autoguided(
    model: Callable[[Tensor, Tensor], Tensor], weaker: Callable[[Tensor, Tensor], Tensor], scale: float,
    interval: tuple[float, float] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
    """Guide a denoiser away from a weaker one under the same condition (Karras et al. 2024, arXiv 2406.02507).

    Args:
        model: (x, t) -> noise and perhaps variance channels (b, f, c or 2c, h, w), with its condition, if it has any.
        weaker: The same for a smaller or less trained network, with the same channels.
        scale: See guided.
        interval: See guided.

    Returns:
        A denoiser with the same arguments and result; the variance is that of `model`.
    """

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if scale == 1 or (interval is not None and not interval[0] <= t[0].item() <= interval[1]):
            return model(x, t)
        return guide_output(model(x, t), weaker(x, t), scale, x.shape[2])

    return denoise


def guide(conditional: Tensor, negative: Tensor, scale: Tensor | float) -> Tensor:
    """Classifier-free guidance of predictions that are linear in the noise (Ho & Salimans 2022, eq. 6).

    Args:
        conditional: The prediction under the condition (b, f, c, h, w).
        negative: The prediction to steer away from, same shape.
        scale: See guided; a number, or a tensor that broadcasts.

    Returns:
        The guided prediction, same shape.
    """
    return negative + scale * (conditional - negative)


def guide_output(conditional: Tensor, negative: Tensor, scale: float, channels: int) -> Tensor:
    """Guide the noise channels of a denoiser's outputs (b, f, c or 2c, h, w); the variance is that of `conditional`."""
    (eps, variance), (away, _) = split_output(conditional, channels), split_output(negative, channels)
    eps = guide(eps, away, scale)
    return eps if variance is None else torch.cat([eps, variance], dim=2)


def scale_bands(difference: Tensor, low: float, high: float) -> Tensor:
    """Scale the low and the high spatial frequencies of a difference (FasterCache: Lv et al. 2024, arXiv 2410.19355).

    Args:
        difference: Conditional minus unconditional noise (b, f, c, h, w).
        low: Factor for the frequencies within a disc around zero, whose radius is a fifth of the smaller side, rounded
            down.
        high: Factor for all others.

    Returns:
        The scaled difference, same shape.
    """
    h, w = difference.shape[-2:]
    y, x = (torch.fft.fftfreq(n, 1 / n, device=difference.device) for n in (h, w))
    disc = y[:, None] ** 2 + x**2 <= (min(h, w) // 5) ** 2
    lows = torch.fft.ifft2(torch.fft.fft2(difference.float()) * disc).real
    return high * difference + (low - high) * lows.to(difference)
