"""Weights in 8 bits: a quarter of float32, for a large text encoder on a small machine."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.models.t5 import Float32Linear


def rows_in_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (n, m) as int8 (n, m) and float32 scales (n, 1): their product is the nearest to it of 255 levels."""
    scale = weight.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
    return (weight.float() / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer with whole numbers for weights: row r of the matrix is weight[r] * scale[r].

    Rounding is to the nearest of 255 levels up to the row's largest value (symmetric, as LLM.int8's rows: Dettmers et
    al. 2022, arXiv 2208.07339, without its outlier columns). Products are made in the input's precision, or in float32
    where the layer was one that stays in it.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.exact = isinstance(linear, Float32Linear)
        weight, scale = rows_in_eight_bits(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def _apply(self, function, recurse: bool = True):
        """.to(), .half() and the like move the scale, but leave it in float32."""
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
    """The network with every linear layer in 8 bits, changed in place, a layer at a time."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return network
