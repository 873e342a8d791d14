"""The normalisation of a trained VAE's latents, by changing the layers next to them: reconstructions stay the same."""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from latte.models.vae import AutoencoderKL


@torch.no_grad()
def standardise_latents(network: AutoencoderKL, videos: Iterable[Tensor], whiten: bool = False) -> None:
    """Give the latents of a VAE mean 0 in every channel and, through the scaling factor, standard deviation 1.

    Without `whiten`, the standard deviation is that of all channels together. With it, each channel has standard
    deviation 1, and channels are uncorrelated: the latents are multiplied by the inverse square root of their
    covariance (ZCA), the whitening that changes them least. A diffusion model settles components of low amplitude only
    at low noise levels, so a dominant direction, such as brightness, delays all others.

    Args:
        network: The VAE, changed in place.
        videos: Clips (b, f, 3, h, w) in [-1, 1] that give the statistics.
        whiten: See above.

    Raises:
        ValueError: A channel is constant, or depends on the others, and cannot be whitened.
    """
    device = next(network.parameters()).device
    encoded = [network.encoder(video.to(device).flatten(0, 1)) for video in videos]
    features = torch.cat([moments.movedim(1, -1).flatten(0, -2).cpu().double() for moments in encoded])  # (n, 2c)
    into, out_of = cast(nn.Conv2d, network.quant_conv), cast(nn.Conv2d, network.post_quant_conv)
    weight, bias = matrix(into), cast(Tensor, into.bias).cpu().double()
    mean, logvar = (features @ weight.T + bias).chunk(2, dim=1)
    middle, count = mean.mean(0), mean.shape[1]
    change = inverse_root(torch.cov(mean.T)) if whiten else torch.eye(count, dtype=torch.double)
    deviation = 1.0 if whiten else float((mean - middle).std())
    if whiten:  # the variances mix as the squares of the change do: the layer that fits their logarithms best
        mixed = (logvar.exp() @ change.square().T).log()
        ones = torch.ones(len(features), 1, dtype=torch.double)
        fitted = torch.linalg.lstsq(torch.cat([features, ones], 1), mixed).solution.T
        weight[count:], bias[count:] = fitted[:, :-1], fitted[:, -1]
    weight[:count], bias[:count] = change @ weight[:count], change @ (bias[:count] - middle)
    back = matrix(out_of)
    cast(Tensor, out_of.bias).add_((back @ middle).to(device, out_of.weight.dtype))
    for conv, new in ((into, weight), (out_of, back @ torch.linalg.inv(change))):
        conv.weight.copy_(new[:, :, None, None])
    cast(Tensor, into.bias).copy_(bias)
    network.config = replace(network.config, scaling_factor=round(1 / deviation, 5))


def matrix(conv: nn.Conv2d) -> Tensor:
    """The weight of a 1x1 convolution as a matrix (out, in), in float64 on the CPU."""
    return conv.weight.cpu().double()[:, :, 0, 0].clone()


def inverse_root(covariance: Tensor) -> Tensor:
    """The inverse square root of a covariance (c, c); raises ValueError if it has none."""
    values, vectors = torch.linalg.eigh(covariance)
    if not values[0] > 1e-6 * values[-1]:
        raise ValueError(
            "whiten_latents: a channel of the latents is constant or depends on the others: reduce "
            "model.latent_channels, or set whiten_latents=false"
        )
    return vectors * values.rsqrt() @ vectors.T
