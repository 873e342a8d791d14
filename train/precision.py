"""Mixed precision: in which arithmetic the networks compute; weights, losses and averages stay float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Float32Attention(TorchFunctionMode):
    """Keeps attention in float32 under a CPU's autocast, where its bfloat16 backward is five times slower."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return function(*(tensor.float() for tensor in args), **(kwargs or {}))


@contextmanager
def computing(precision: str) -> Iterator[None]:
    """The block's matrix products and convolutions in that precision."""
    if precision == "fp32":
        yield
        return
    with torch.autocast("cpu", PRECISIONS[precision]), Float32Attention():
        yield
