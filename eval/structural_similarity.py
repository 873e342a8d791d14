"""The structural similarity index of frames (Wang, Bovik, Sheikh & Simoncelli 2004, IEEE TIP 13(4))."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS, SIGMA = 5, 1.5  # pixels, of the Gaussian window: 11 x 11 in all
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 for pixels in [0, 1]
SMALLEST = 2 * RADIUS + 1  # pixels of a side


def frame_ssim(frame: Tensor, reference: Tensor) -> float:
    """The mean structural similarity index of a frame and its reference (Wang et al. 2004, eq. 13); 1: identical.

    The definition is theirs for images with several channels: means, variances and covariance are weighted by a
    Gaussian of 11 x 11 pixels with sigma 1.5, in each channel separately, with K1 = 0.01 and K2 = 0.03, and the mean is
    over all pixels and channels. Borders are mirrored without repeating the outermost pixel, and no variance is less
    than 0, both as in torchmetrics (structural_similarity_index_measure), whose value it matches to about 1e-12.

    Args:
        frame: uint8 (3, h, w), of 11 x 11 pixels or more.
        reference: The same shape.
    """
    channels = zip(frame, reference)  # one by one, which takes the least memory
    return sum(channel_ssim(x.double() / 255, y.double() / 255) for x, y in channels) / len(frame)


def channel_ssim(x: Tensor, y: Tensor, mirrored: bool = True) -> float:
    """`frame_ssim` of one channel, float64 (h, w) in [0, 1]; see window_means."""
    maps = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, square_x, square_y, product = window_means(maps, mirrored)
    variance_x, variance_y = (square_x - mean_x**2).clamp(min=0), (square_y - mean_y**2).clamp(min=0)
    covariance = product - mean_x * mean_y
    over = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return (over / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))).mean().item()


def window_means(maps: Tensor, mirrored: bool) -> Tensor:
    """The mean under the Gaussian window around every pixel of maps (n, h, w): along rows, then along columns.

    Borders are mirrored, or else pixels whose window crosses a border are left out.
    """
    taps = [math.exp(-(i**2) / (2 * SIGMA**2)) for i in range(-RADIUS, RADIUS + 1)]
    if mirrored:
        maps = F.pad(maps[None], [RADIUS] * 4, mode="reflect")[0]
    for axis in (-1, -2):
        size = maps.shape[axis] - 2 * RADIUS
        total = torch.zeros_like(maps.narrow(axis, 0, size))
        for i, tap in enumerate(taps):
            total.add_(maps.narrow(axis, i, size), alpha=tap / sum(taps))
        maps = total
    return maps
