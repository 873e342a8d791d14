"""Classifier-free guidance (Ho & Salimans 2022): a denoiser made of a denoiser; no sampler and no model knows of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from latte.diffusion.gaussian import noise_from_v, split_output
from latte.diffusion.schedule import Schedule


def predicting_noise(model: Callable, schedule: Schedule) -> Callable:
    """A denoiser (x, t, ...) of noise out of one of v; `schedule` has every timestep, so that t is a step of it."""

    def denoise(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        v, variance = split_output(model(x, t, *condition), x.shape[2])
        eps = noise_from_v(schedule, x, t, v.to(x.dtype))
        return eps if variance is None else torch.cat([eps, variance.to(x.dtype)], dim=2)

    return denoise


def guided(
    model: Callable, y: Tensor, null: Tensor, scale: float, interval: tuple[float, float] | None = None
) -> Callable:
    """A denoiser (x (b, f, c, h, w), t (b,)) -> (b, f, c or 2c, h, w) under the condition y (b, ...), against `null`.

    Both halves go through the model in one call. The noise is guided, on all its channels; the variance is the
    conditional half's. At scale 1, and at timesteps outside of `interval` (Kynkäänniemi et al. 2024, arXiv 2404.07724;
    both ends count; of a batch's t, which agree, the first), the unconditional half would not count: not computed.
    """
    if scale == 1:
        return lambda x, t: model(x, t, y)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if interval is not None and not interval[0] <= t[0].item() <= interval[1]:
            return model(x, t, y)
        out = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null]))
        eps, variance = split_output(out, x.shape[2])
        conditional, unconditional = eps.chunk(2)
        eps = unconditional + scale * (conditional - unconditional)
        return eps if variance is None else torch.cat([eps, variance[: len(x)]], dim=2)

    return denoise
