"""Tiled decoding of large frames: it needs less memory, but does not give the same pixels."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from latte.models.vae import VideoVAE

LEAST_OVERLAP = 0.25  # of a tile's side, as in diffusers' AutoencoderKL (tile_overlap_factor)


def decode_in_tiles(vae: VideoVAE, tile: int | None) -> None:
    """Make a VAE decode frames in tiles from now on, see `decode_tiles`.

    Args:
        vae: The VAE. The tiling is attached to its autoencoder, around what decodes there, in place of an earlier one.
        tile: The side of a tile, in latents. None: the VAE decodes whole frames again.
    """
    decode = vae.model.decode
    if isinstance(decode, partial) and decode.func is decode_tiles:
        decode = decode.args[0]
    if tile is not None:
        decode = partial(decode_tiles, decode, tile=tile, factor=vae.factor)
    vars(vae.model).pop("decode", None)
    if decode != vae.model.decode:  # not the class's own method
        vars(vae.model)["decode"] = decode


def tile_starts(side: int, tile: int) -> list[int]:
    """Start positions of the fewest evenly spaced tiles that cover a side and overlap by at least LEAST_OVERLAP."""
    if side <= tile:
        return [0]
    count = 1 + -(-(side - tile) // max(1, int(tile * (1 - LEAST_OVERLAP))))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def tile_weights(starts: list[int], tile: int) -> Iterator[Tensor]:
    """The weights of each tile along one axis, (tile,): neighbours fade into each other linearly."""
    for i, start in enumerate(starts):
        weight = torch.ones(tile)
        for k, here in enumerate(starts):
            overlap = tile - abs(start - here)
            if abs(i - k) == 1 and overlap > 0:
                rise = (torch.arange(overlap) + 0.5) / overlap
                if k < i:
                    weight[:overlap] = torch.minimum(weight[:overlap], rise)
                else:
                    weight[-overlap:] = torch.minimum(weight[-overlap:], rise.flip(0))
        yield weight


def decode_tiles(decode: Callable[[Tensor], Tensor], z: Tensor, tile: int, factor: int) -> Tensor:
    """Decode images in overlapping square tiles, and blend neighbours.

    The norms and the attention of a tile see nothing outside it, so the pixels differ from those of an image that is
    decoded whole.

    Args:
        decode: Latents (n, c, h, w) -> images (n, channels, h * factor, w * factor).
        z: Latents (n, c, h, w).
        tile: The side of a tile, in latents. Smaller images are decoded whole.
        factor: Pixels per latent.

    Returns:
        Images (n, channels, h * factor, w * factor).
    """
    if max(z.shape[2:]) <= tile:
        return decode(z)
    rows, columns = (tile_starts(side, tile) for side in z.shape[2:])
    high, wide = (min(tile, side) for side in z.shape[2:])
    down, across = (
        list(tile_weights([start * factor for start in starts], side * factor))
        for starts, side in ((rows, high), (columns, wide))
    )
    total = torch.zeros(z.shape[2] * factor, z.shape[3] * factor, device=z.device)
    out = total.new_zeros(())
    for top, vertical in zip(rows, down):
        for left, horizontal in zip(columns, across):
            part = decode(z[:, :, top : top + high, left : left + wide])
            weight = torch.outer(vertical, horizontal).to(z.device)
            if not out.ndim:
                out = total.new_zeros(*part.shape[:2], *total.shape)
            place = (..., slice(top * factor, (top + high) * factor), slice(left * factor, (left + wide) * factor))
            out[place] += part * weight
            total[place] += weight
    return (out / total).to(part.dtype)
