"""Matrix products in float32 by oneDNN, on CPUs where they are faster than PyTorch's.

PyTorch multiplies float32 matrices on a CPU by MKL, which does not use AVX-512 on AMD's processors. oneDNN does.
latte.fast.kernels, whose weights are packed for many steps, gains from oneDNN on every processor; all else gains only
where oneDNN is much faster, which is measured.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.device import one_thread

PAYS = 1.5  # the least ratio of speeds at which oneDNN is used
_choices: list[bool] = []  # made by `choose_products`; the last one counts


def onednn_product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: tuple[str, str] = ("none", "")
) -> Tensor:
    """F.linear(x, weight, bias) by oneDNN, and an activation such as ("gelu", "tanh"); weights may be `packed`."""
    name, form = activation
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], form)


def packed(weight: Tensor, rows: int) -> Tensor:
    """A copy of a weight (out, in) in oneDNN's layout for inputs of some number of rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


@cache
def multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies matrices in bfloat16 on this processor, which needs AVX-512."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def onednn_is_faster() -> bool:
    """Whether products for the faster library go to oneDNN: as `choose_products` says, otherwise as measured."""
    return _choices[-1] if _choices else measured_faster()


@contextmanager
def choose_products(onednn: bool) -> Iterator[None]:
    """Within this context, float32 products that go to the faster library go to a given one.

    These are the products of training, of attention and of VAEs. So their bits do not depend on a measurement.

    Args:
        onednn: Whether they go to oneDNN. It has no effect where PyTorch has no oneDNN.
    """
    _choices.append(onednn and torch.backends.mkldnn.is_available())
    try:
        yield
    finally:
        _choices.pop()


@cache
def measured_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices PAYS times as fast as PyTorch on this machine.

    It is measured once per process, in about 10 ms, as the CPU time of the fastest of five products in one thread,
    which other load hardly affects.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = (torch.ones(512, 256, dtype=torch.float32, device="cpu") for _ in range(2))

    def least_seconds(product: Callable[[Tensor, Tensor], Tensor]) -> float:
        seconds = []
        for _ in range(6):
            start = time.thread_time()
            product(x, weight)
            seconds.append(time.thread_time() - start)
        return min(seconds[1:])  # the first call also sets up

    with one_thread(), torch.no_grad():
        return least_seconds(F.linear) > PAYS * least_seconds(onednn_product)


class Matrices:
    """Matrices that many inputs are multiplied with, one each, by the faster library.

    Args:
        matrices: (n, in, out).
        rows: How many rows inputs usually have.

    Attributes:
        columns: Columns of each matrix.
    """

    def __init__(self, matrices: Tensor, rows: int):
        self.columns = matrices.shape[2]
        fits = type(matrices) is Tensor and matrices.device.type == "cpu" and matrices.dtype == torch.float32
        quick = fits and onednn_is_faster()  # the speed is not measured with tensors that have no values
        self.weights = [packed(matrix.t(), rows) for matrix in matrices] if quick else None
        self.plain = None if quick else matrices

    def first(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product of x (rows, in) with the first matrix, plus a bias (out,): (rows, out)."""
        if self.weights is not None:
            return onednn_product(x, self.weights[0], bias)
        return x @ self.plain[0] if bias is None else torch.addmm(bias, x, self.plain[0])

    def product(self, x: Tensor, out: Tensor) -> None:
        """Write the products of x (n, rows, in) to out (n, rows, out)."""
        if self.weights is None:
            torch.bmm(x, self.plain, out=out)
            return
        for part, weight, result in zip(x, self.weights, out):
            result.copy_(onednn_product(part, weight))
