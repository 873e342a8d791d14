"""Convolutions with kernels of size 3 as matrix products, with a quarter of the multiplications in two dimensions.

Winograd's minimal filtering, as in Lavin & Gray 2016 (arXiv 1509.09308): four neighbouring outputs depend on six inputs
and need only six products instead of twelve. In two dimensions, 16 outputs need 36 products instead of 144. The rest
are additions: a transform of the inputs, and one of the products. In float32 the result is as close to the exact one as
that of a direct convolution; in half precision it is not.

Layouts are channels-last: an image is (h, w, c), a clip (f, n, c) with n pixels in each frame. The work is split into
bands of rows or pixels, whose tensors are small enough for the cache.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latte.fast.onednn import Matrices

TILE, TAPS = 4, 6  # outputs of a tile along one axis, and the inputs that they depend on
# The points 0, A, -A, B, -B and infinity. These have half the rounding error of 0, 1, -1, 2, -2 and infinity.
A, B = 5 / 8, 3 / 2
ROWS = 256  # tiles of a band, at least: with fewer, matrix products of 512 channels are slow

Fill = Callable[[Tensor, Tensor], object]  # writes a function of its first argument to the second


def kernel_matrix(device: torch.device) -> Tensor:
    """The matrix (6, 3) that transforms kernels; transform_products undoes the scale of its rows."""
    rows = [(1 / (A * B) ** 2, 0, 0)]
    rows += [(1 / n, p / n, p * p / n) for n in [2 * (A * A - B * B)] for p in (A, -A)]
    rows += [(1 / n, p / n, p * p / n) for n in [2 * B * (B * B - A * A)] for p in (B, -B)]
    return torch.tensor([*rows, (0, 0, 1)], dtype=torch.float64, device=device)


def kernel_1d(weight: Tensor) -> Matrices:
    """Transform the weight (out, in, 3) of a convolution over one axis to 6 matrices (in, out)."""
    matrix = kernel_matrix(weight.device).to(weight.dtype)
    taps = (matrix @ weight.permute(2, 1, 0).reshape(3, -1)).view(TAPS, weight.shape[1], weight.shape[0])
    return Matrices(taps, 2 * ROWS)


def kernel_2d(weight: Tensor) -> Matrices:
    """Transform the weight (out, in, 3, 3) of a convolution to 36 matrices (in, out)."""
    matrix = kernel_matrix(weight.device)
    both = torch.kron(matrix, matrix).to(weight.dtype)  # (36, 9)
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return Matrices((both @ flat).view(TAPS * TAPS, weight.shape[1], weight.shape[0]), ROWS)


def conv_2d(x: Tensor, kernel: Matrices, bias: Tensor, out: Tensor, fill: Fill, residual: Tensor | None = None) -> None:
    """Convolve fill(x), padded with zeros: out = conv(fill(x)) + bias + residual.

    Args:
        x: An image (h, w, in).
        kernel: From kernel_2d.
        bias: (out,).
        out: Where the result (h, w, out) goes; contiguous.
        fill: Writes a function of rows of x to its second argument.
        residual: A tensor (h, w, out) to add, or None.
    """
    (height, width, channels), made = x.shape, kernel.columns
    across, down = -(-width // TILE), -(-height // TILE)  # tiles
    most = min(-(-ROWS // across), down)  # rows of tiles in one band
    padded = x.new_zeros(TILE * most + 2, TILE * across + 2, channels)
    rows, factors = empty(x, TAPS, most, TILE * across + 2, channels), empty(x, TAPS**2, most * across, channels)
    products, columns = empty(x, TAPS**2, most * across, made), empty(x, TILE, TAPS, most, across, made)
    exact = width % TILE == 0 and height % TILE == 0
    tile = None if exact else empty(x, TILE * most, TILE * across, made)
    for top in range(0, height, TILE * most):
        count = min(most, down - top // TILE)
        first, last, stop = max(top - 1, 0), min(top + TILE * count + 1, height), min(top + TILE * count, height)
        padded[last - top + 1 :] = 0
        if top:
            padded[0, 1 : width + 1].zero_()
        fill(x[first:last], padded[first - top + 1 : last - top + 1, 1 : width + 1])
        d, v = rows[:, :count], cut(factors, TAPS, TAPS, count, across, channels)
        transform_inputs([padded[i : i + TILE * count - 3 : TILE] for i in range(TAPS)], d)
        transform_inputs([d[:, :, i : i + TILE * across - 3 : TILE] for i in range(TAPS)], v.unbind(1))
        m = cut(products, TAPS, TAPS, count, across, made)
        kernel.product(v.view(TAPS**2, -1, channels), m.view(TAPS**2, -1, made))
        columns_ = columns[:, :, :count]
        transform_products(m, columns_)
        band = out[top:stop] if tile is None else tile[: TILE * count]
        y = band.view(count, TILE, across, TILE, made)
        transform_products(columns_.unbind(1), [y[:, :, :, i].transpose(0, 1) for i in range(TILE)])
        if tile is not None:
            out[top:stop] = band[: stop - top, :width]
        out[top:stop] += bias
        if residual is not None:
            out[top:stop] += residual[top:stop]


def conv_1d(x: Tensor, kernel: Matrices, bias: Tensor, out: Tensor, fill: Fill, residual: Tensor | None = None) -> None:
    """Convolve fill(x) over its first axis, padded with zeros: out = conv(fill(x)) + bias + residual.

    Args:
        x: (f, n, in).
        kernel: From kernel_1d.
        bias: (out,).
        out: Where the result (f, n, out) goes.
        fill: Writes a function of a part (f, some of n, in) of x to its second argument.
        residual: A tensor (f, n, out) to add, or None.
    """
    (frames, pixels, channels), made = x.shape, kernel.columns
    tiles = -(-frames // TILE)
    most = min(-(-2 * ROWS // tiles), pixels)  # pixels of one band
    padded, factors = x.new_zeros(TILE * tiles + 2, most, channels), empty(x, TAPS, tiles, most, channels)
    products, result = empty(x, TAPS, tiles, most, made), empty(x, TILE * tiles, most, made)
    for start in range(0, pixels, most):
        count = min(most, pixels - start)
        band = slice(start, start + count)
        fill(x[:, band], padded[1 : frames + 1, :count])
        v, m = cut(factors, TAPS, tiles, count, channels), cut(products, TAPS, tiles, count, made)
        transform_inputs([padded[i : i + TILE * tiles - 3 : TILE, :count] for i in range(TAPS)], v)
        kernel.product(v.view(TAPS, -1, channels), m.view(TAPS, -1, made))
        y = result[:, :count]
        transform_products(m, [y[i::TILE] for i in range(TILE)])
        torch.add(y[:frames], bias, out=out[:, band])
        if residual is not None:
            out[:, band] += residual[:, band]


def transform_inputs(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Six inputs of each tile -> its six factors."""
    even, odd = torch.sub(d[4], d[2], alpha=B * B), torch.sub(d[3], d[1], alpha=B * B)
    torch.add(even, odd, alpha=A, out=out[1])
    torch.sub(even, odd, alpha=A, out=out[2])
    torch.sub(even, torch.sub(d[2], d[0], alpha=B * B), alpha=A * A, out=out[0])
    torch.sub(torch.sub(d[5], d[3], alpha=B * B), odd, alpha=A * A, out=out[5])
    torch.sub(d[4], d[2], alpha=A * A, out=even)
    torch.sub(d[3], d[1], alpha=A * A, out=odd)
    torch.add(even, odd, alpha=B, out=out[3])
    torch.sub(even, odd, alpha=B, out=out[4])


def transform_products(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Six products of each tile -> its four outputs."""
    even, odd, even2, odd2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    torch.add(odd2, odd, alpha=1 / A, out=out[1])
    torch.add(even, even2, alpha=B, out=out[2])
    torch.add(torch.add(m[5], odd, alpha=A), odd2, alpha=B * B, out=out[3])
    torch.add(torch.add(m[0], even, alpha=1 / A**2), even2, alpha=1 / B, out=out[0])


def empty(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor."""
    return like.new_empty(shape)


def cut(buffer: Tensor, *shape: int) -> Tensor:
    """The beginning of a buffer, in another shape."""
    return buffer.view(-1)[: torch.Size(shape).numel()].view(shape)
