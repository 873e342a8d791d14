"""Nearest-neighbour upsampling by 2 and a convolution with a 3x3 kernel, computed on the smaller image.

Both phases of an output along one axis are sums of two taps of the small image:
y[2 i] = g0 x[i - 1] + (g1 + g2) x[i], and y[2 i + 1] = (g0 + g1) x[i] + g2 x[i + 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.fast.onednn import Matrices

BAND = 512  # pixels of a band of the small image, at least


def difference_kernel(weight: Tensor) -> list[Matrices]:
    """Transform the weight (out, in, 3, 3) for double_by_differences.

    With s = g0 + g1 + g2 and d[i] = x[i - 1] - x[i], the phases are s x[i] + g0 d[i] and s x[i] - g2 d[i + 1].

    Returns:
        Four matrices: for the image (in, out), for its differences along a row (in, 2 out) and along a column
        (in, 2 out), and for the differences of differences (in, 4 out); with the outputs of both phases of each axis.
    """
    rows = torch.stack([weight.sum(2), weight[:, :, 0], -weight[:, :, 2]])  # (rows: s, g0, -g2; out, in, 3)
    both = torch.stack([rows.sum(-1), rows[..., 0], -rows[..., 2]], 1)  # (rows, columns, out, in)
    kinds = (both[0, 0], both[0, 1:], both[1:, 0], both[1:, 1:])
    return [Matrices(kind.flatten(0, -2).t().contiguous()[None], BAND) for kind in kinds]


def double_by_differences(x: Tensor, kernel: list[Matrices], bias: Tensor, out: Tensor) -> None:
    """Nine products for four outputs, where a direct convolution of the larger image takes 36.

    Args:
        x: An image (h, w, in).
        kernel: From difference_kernel.
        bias: (out,).
        out: Where the result (2 h, 2 w, out) goes; contiguous.
    """
    height, width, channels = x.shape
    made, most = len(bias), min(-(-BAND // width), height)
    for top in range(0, height, most):
        here = x[top : top + most]
        count = len(here)
        column = x.new_empty(count + 1, width, channels)
        torch.sub(here[:-1], here[1:], out=column[1:-1])
        torch.neg(here[0], out=column[0]) if top == 0 else torch.sub(x[top - 1], here[0], out=column[0])
        end = top + count
        column[-1] = here[-1] if end == height else here[-1] - x[end]
        middle = kernel[0].first(here.view(-1, channels), bias).view(count, width, made)
        by_row = kernel[1].first(row_differences(here)).view(count, width + 1, 2, made)
        by_column = kernel[2].first(column.view(-1, channels)).view(count + 1, width, 2, made)
        by_both = kernel[3].first(row_differences(column)).view(count + 1, width + 1, 2, 2, made)
        y = out[2 * top : 2 * end].view(count, 2, width, 2, made)
        for a in (0, 1):
            half = middle + by_column[a : a + count, :, a]
            for b in (0, 1):
                torch.add(half, by_row[:, b : b + width, b], out=y[:, a, :, b])
                y[:, a, :, b] += by_both[a : a + count, b : b + width, a, b]


def row_differences(x: Tensor) -> Tensor:
    """Each pixel's left neighbour minus itself, (h, w, c) -> (h (w + 1), c); outside there are zeros."""
    height, width, channels = x.shape
    out = x.new_empty(height, width + 1, channels)
    torch.neg(x[:, 0], out=out[:, 0])
    torch.sub(x[:, :-1], x[:, 1:], out=out[:, 1:-1])
    out[:, -1] = x[:, -1]
    return out.view(-1, channels)


def phase_kernel(weight: Tensor) -> Tensor:
    """Transform the weight (out, in, 3, 3) for double_by_phases, to (4 out, in, 2, 2)."""
    full = weight.float()
    rows = [torch.stack([full[:, :, 0], full[:, :, 1] + full[:, :, 2]], 2),
            torch.stack([full[:, :, 0] + full[:, :, 1], full[:, :, 2]], 2)]  # fmt: skip
    both = [torch.stack(taps, 3) for row in rows for taps in (
        (row[..., 0], row[..., 1] + row[..., 2]), (row[..., 0] + row[..., 1], row[..., 2]))]  # fmt: skip
    return torch.cat(both).to(weight.dtype)


def double_by_phases(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Four convolutions with 2x2 kernels, 4/9 of the work, in any precision, by the library's convolution.

    Args:
        x: Images (n, in, h, w).
        kernel: From phase_kernel.
        bias: (out,) or None.

    Returns:
        (n, out, 2 h, 2 w), in the memory format of x.
    """
    count, _, height, width = x.shape
    bias = None if bias is None else bias.repeat(4)
    phases = F.conv2d(x, kernel, bias, padding=1)  # (n, 4 out, h + 1, w + 1)
    out = x.new_empty(count, len(kernel) // 4, 2 * height, 2 * width)
    out = out.contiguous(memory_format=torch.channels_last)
    for i, phase in enumerate(phases.chunk(4, 1)):
        a, b = divmod(i, 2)
        out[:, :, a::2, b::2] = phase[:, :, a : a + height, b : b + width]
    return out
