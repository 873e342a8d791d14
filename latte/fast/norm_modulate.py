"""Layer norm with shift and scale, and GELU, for training: each in one pass, with a backward pass written by hand.

Autograd keeps the normalised tokens, their product with the scale, and GELU's input, and makes a pass over all of them
for each operation. Here the norm keeps only its input, and GELU only its derivative.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from latte.fast.kernels import CUBIC, SLOPE
from latte.models.block import NORM_EPS, modulate

PART = 1 << 16  # values of a part on a CPU: all that a pass touches stays in a core's own cache
LEAST_SHARE = 1 << 15  # values on a CPU that have the same shift and scale: calls for fewer take longer than they save


def parts(x: Tensor, rows: int) -> Iterator[tuple[int, slice]]:
    """Yield (row, slice of tokens) for each part of x (b, ..., d), whose tokens are `rows` equal shares."""
    tokens = x.numel() // (rows * x.shape[-1])
    step = max(1, PART // x.shape[-1]) if x.device.type == "cpu" else tokens
    for row in range(rows):
        for start in range(row * tokens, (row + 1) * tokens, step):
            yield row, slice(start, min(start + step, (row + 1) * tokens))


class NormModulate(torch.autograd.Function):
    """Norm, scale and shift of tokens (b, f, s, d); shift and scale (n, d) belong to n equal shares of the tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        rows, d = scale.shape
        flat, weight = x.reshape(-1, d), 1 + scale
        out = torch.empty_like(flat)
        mean, rstd = (flat.new_empty(len(flat), 1) for _ in range(2))
        for row, some in parts(x, rows):
            found = torch.native_layer_norm(flat[some], (d,), weight[row], shift[row], NORM_EPS)
            for whole, part in zip((out, mean, rstd), found):
                whole[some] = part
        ctx.save_for_backward(flat, mean, rstd, weight, shift)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat, mean, rstd, weight, shift = ctx.saved_tensors
        d, given = flat.shape[-1], gradient.reshape(flat.shape)
        of_x, of_weight, of_shift = torch.empty_like(flat), torch.zeros_like(weight), torch.zeros_like(shift)
        for row, some in parts(gradient, len(weight)):
            found = torch.ops.aten.native_layer_norm_backward(
                given[some], flat[some], (d,), mean[some], rstd[some], weight[row], shift[row], [True, True, True]
            )
            of_x[some] = found[0]
            of_weight[row] += found[1]
            of_shift[row] += found[2]
        return of_x.view(gradient.shape), of_shift, of_weight


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """latte.models.block.modulate, with less memory and time, forward and backward.

    Args:
        x: Tokens (b, f, s, d).
        shift: (d,), or (b or 1, 1 or f, 1, d).
        scale: Likewise.

    Returns:
        The modulated tokens (b, f, s, d).
    """
    d, rows = x.shape[-1], scale.numel() // x.shape[-1]
    in_shares = (
        scale.ndim == 1 or rows == 1 or (scale.shape[0] == x.shape[0] and rows in (x.shape[0], len(x) * x.shape[1]))
    )
    small = x.device.type == "cpu" and x.numel() < LEAST_SHARE * rows
    if small or not in_shares or scale.shape != shift.shape or not x.dtype == shift.dtype == scale.dtype:
        return modulate(x, shift, scale)
    return NormModulate.apply(x, shift.reshape(rows, d), scale.reshape(rows, d))


class Gelu(torch.autograd.Function):
    """GELU in its tanh approximation, x * sigmoid(SLOPE * x + CUBIC * x^3); it keeps its derivative, not its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, derivative = torch.empty_like(x), torch.empty_like(x)
        for part, y, slant in zip(*(z.view(-1).split(PART) for z in (x, out, derivative))):
            a = part.float()
            square = a * a
            gate = (square * CUBIC).add_(SLOPE).mul_(a).sigmoid_()
            value = a * gate
            inner = square.mul_(3 * CUBIC).add_(SLOPE)  # the derivative of the sigmoid's argument
            y.copy_(value)
            slant.copy_(torch.addcmul(gate, inner, torch.addcmul(value, value, gate, value=-1), out=gate))
        ctx.save_for_backward(derivative)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


def gelu(x: Tensor) -> Tensor:
    """F.gelu(x, approximate="tanh"); on a CPU in float32 or bfloat16, forward and backward take half the time."""
    known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    if known and x.is_contiguous() and x.requires_grad:
        return Gelu.apply(x)
    return F.gelu(x, approximate="tanh")
