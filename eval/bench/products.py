"""A network's matrix products and attention alone, on tensors of the same shapes: the floor of its time."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from latte.eval.bench.resources import seconds_of
from latte.fast.onednn import multiplies_bfloat16, onednn_product, packed

ATTENTION_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Products(TorchDispatchMode):
    """A context that records the products, convolutions and attention inside it.

    Attributes:
        calls: For each, in order: the operation and its arguments, with stand-ins of the same shape for tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict]] = []
        self.stand_ins: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._overloadpacket in flop_registry or function._overloadpacket is ATTENTION_ON_CPU:
            place = iter(range(100))  # two arguments of one shape are two tensors
            alike = lambda z: self.stand_in(z, next(place)) if isinstance(z, Tensor) else z
            self.calls.append((function, tree_map(alike, args), tree_map(alike, kwargs or {})))
        return function(*args, **(kwargs or {}))

    def stand_in(self, like: Tensor, place: int) -> Tensor:
        """A tensor of random numbers with the size and strides of another one, shared by all calls that need one."""
        key = (place, like.shape, like.stride(), like.dtype)
        if key not in self.stand_ins:
            extent = 1 + sum((size - 1) * step for size, step in zip(like.shape, like.stride()))
            values = torch.randn(extent, device=like.device).to(like.dtype)
            self.stand_ins[key] = values.as_strided(like.shape, like.stride())
        return self.stand_ins[key]


def products_alone(work: Callable[[], object]) -> Callable[[], None]:
    """A function that computes only the products, convolutions and attention of another function, the fastest way.

    Args:
        work: It is called once. It must use PyTorch's own operations, as the networks of latte.models do.
    """
    with torch.no_grad(), Products() as recorded:
        work()
    ways: dict[tuple, Callable[[], object]] = {}
    keys = []
    for function, args, kwargs in recorded.calls:
        key = (function, *(id(z) if isinstance(z, Tensor) else z for z in tree_leaves((args, kwargs))))
        if key not in ways:
            ways[key] = fastest(function, args, kwargs)
        keys.append(key)

    def again() -> None:
        with torch.no_grad():
            for key in keys:
                ways[key]()

    return again


@torch.no_grad()
def fastest(function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Callable[[], object]:
    """The fastest way to compute an operation, by the least of two timings: PyTorch's or, for some products, oneDNN's.

    Args:
        function: The operation, such as torch.ops.aten.mm.default.
        args, kwargs: Its arguments.

    Returns:
        A function without arguments.
    """
    plain, other = partial(function, *args, **(kwargs or {})), by_onednn(function, args, kwargs)
    if other is None:
        return plain
    rounds = [[seconds_of(way, args[0].device) for way in (plain, other)] for _ in range(3)]
    by_pytorch, by_other = (min(seconds) for seconds in zip(*rounds[1:]))  # the first calls also set up
    return other if by_other < by_pytorch else plain


def by_onednn(function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Callable[[], Tensor] | None:
    """A product of two matrices, with or without a bias, by oneDNN with the second one packed, as weights are.

    Returns:
        A function without arguments, or None where oneDNN has no such product.
    """
    if function not in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default) or kwargs:
        return None
    *bias, x, weight = args
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available() or any(z.ndim != 1 for z in bias):
        return None
    if x.dtype != torch.float32 and not (x.dtype == torch.bfloat16 and multiplies_bfloat16()):
        return None
    return partial(onednn_product, x, packed(weight.t(), len(x)), *bias)
