"""Weights in 8 bits: a large text encoder in a quarter of float32's memory, networks in a quarter of its disk space."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.models.t5 import Float32Linear
from latte.weights.tensors import CheckpointError, cast


def rows_in_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a matrix (n, m) symmetrically, row by row.

    Returns:
        int8 values (n, m) and float32 scales (n, 1). Their product is the matrix rounded to the nearest of 255 levels.
    """
    weight = weight.float() if weight.dtype.itemsize == 1 else weight  # PyTorch cannot compute with 8-bit floats
    scale = weight.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
    return (weight.float() / scale).round().to(torch.int8), scale


def stored_in_eight_bits(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to store for a network's `state`: each matrix as int8 with the scales of its rows, others in float16.

    latte.weights.scaled_weights multiplies them out when they are read.

    Raises:
        CheckpointError: A matrix holds values that are not finite, or another value overflows float16.
    """
    is_matrix = lambda name: name.endswith(".weight") and state[name].ndim == 2 and state[name].is_floating_point()
    stored = cast({name: tensor for name, tensor in state.items() if not is_matrix(name)}, torch.float16)
    for name in filter(is_matrix, state):
        stored[name], scale = rows_in_eight_bits(state[name].detach().cpu())
        if not scale.isfinite().all():
            raise CheckpointError(f"{name} holds values that are not finite")
        stored[f"{name}_scale"] = scale
    return stored


class Int8Linear(nn.Module):
    """A linear layer with int8 weights: row r of its matrix is weight[r] * scale[r].

    Values are rounded to the nearest of 255 levels up to the largest of their row, as in LLM.int8 (Dettmers et al.
    2022, arXiv 2208.07339) but without its outlier columns. The product is computed in the precision of the input, or
    in float32 if the layer replaces a Float32Linear.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.exact = isinstance(linear, Float32Linear)
        weight, scale = rows_in_eight_bits(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Int8Linear":
        """Keep the scale in float32 when .to(), .half() and the like go through the module; only its device changes."""
        scale = self.scale
        super()._apply(function, recurse)
        self.scale = scale.to(self.weight.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.exact:
            with torch.autocast(x.device.type, enabled=False):
                return F.linear(x.float(), self.weight.float() * self.scale, self.bias)
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def in_eight_bits(network: nn.Module) -> nn.Module:
    """Replace every linear layer of the network by an Int8Linear, in place and one layer at a time.

    Returns:
        The same network.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return network
