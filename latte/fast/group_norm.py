"""GroupNorm (Wu & He 2018) as a factor and a shift of each channel, for images whose channels come last."""

import torch
from torch import Tensor, nn

BLOCK = 1 << 16  # values that are summed in the cache


def norm_affine(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """The factor and the shift (c,) that normalise the values (n, c) of one image or clip.

    Sums of squares are taken around the mean of the first values, so that a large mean costs no precision.
    """
    rows, channels = max(1, BLOCK // x.shape[1]), x.shape[1]
    centre = x[:rows].mean(0)
    total, squares = (x.new_zeros(channels, dtype=torch.float64) for _ in range(2))
    for part in x.split(rows):
        part = part - centre
        total += part.sum(0)
        squares += torch.linalg.vecdot(part, part, dim=0)
    per_group = lambda values: values.view(norm.num_groups, -1).mean(1, keepdim=True)
    offset = total / len(x)
    means = (centre + offset).view(norm.num_groups, -1)
    mean = means.mean(1, keepdim=True)
    within = per_group(squares / len(x) - offset**2)
    variance = within + (means - mean).square().mean(1, keepdim=True)
    factor = (variance + norm.eps).rsqrt().expand_as(means).reshape(-1) * norm.weight
    shift = norm.bias - mean.expand_as(means).reshape(-1) * factor
    return factor.to(x.dtype), shift.to(x.dtype)
