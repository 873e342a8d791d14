"""Classifier-free guidance (Ho & Salimans 2022): a denoiser made of a denoiser; no sampler and no model knows of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from latte.diffusion.gaussian import split_output


def guided(model: Callable, y: Tensor, null: Tensor, scale: float) -> Callable:
    """A denoiser (x (b, f, c, h, w), t (b,)) -> (b, f, c or 2c, h, w) under the condition y (b, ...), against `null`.

    Both halves go through the model in one call. The noise is guided, on all its channels; the variance is the
    conditional half's. At scale 1 the unconditional half would not count, and is not computed.
    """
    if scale == 1:
        return lambda x, t: model(x, t, y)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        out = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null]))
        eps, v = split_output(out, x.shape[2])
        conditional, unconditional = eps.chunk(2)
        eps = unconditional + scale * (conditional - unconditional)
        return eps if v is None else torch.cat([eps, v[: len(x)]], dim=2)

    return denoise
