"""A network's matrix products and attention alone, on tensors of the same shapes: the floor of its time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

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
    """A function that computes only the products, convolutions and attention of another function.

    Args:
        work: It is called once. It must use PyTorch's own operations, as the networks of latte.models do.
    """
    with torch.no_grad(), Products() as recorded:
        work()

    def again() -> None:
        with torch.no_grad():
            for function, args, kwargs in recorded.calls:
                function(*args, **kwargs)

    return again
