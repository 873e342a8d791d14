"""Linear layers for training in float32 on CPUs where oneDNN's products are faster than those behind nn.Linear."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from latte.fast.onednn import onednn_is_faster, onednn_product

LEAST_PRODUCTS = 1 << 21  # multiplications of a layer from which oneDNN's start, some 10 microseconds, does not matter


class Product(torch.autograd.Function):
    """A linear layer (..., in) -> (..., out); oneDNN computes its output and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        of_x = onednn_product(gradient, weight.t().contiguous()) if for_x else None
        if not for_weight:
            return of_x, None, gradient.flatten(0, -2).sum(0) if for_bias else None
        rows = (z.flatten(0, -2).contiguous().to_mkldnn() for z in (gradient, x))
        of_weight, of_bias = torch.ops.aten.mkldnn_linear_backward_weights(*rows, weight, for_bias)
        return of_x, of_weight.to_dense(), of_bias.to_dense() if for_bias else None


def linear_forward(layer: nn.Linear, x: Tensor) -> Tensor:
    """Like nn.Linear.forward, but large float32 products on a CPU are oneDNN's, if it is faster; not under autocast."""
    weight, bias = layer.weight, layer.bias
    plain = type(x) is Tensor and type(weight) is nn.Parameter and x.device.type == weight.device.type == "cpu"
    exact = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if plain and exact and x.ndim > 1 and x.numel() * len(weight) >= LEAST_PRODUCTS and onednn_is_faster():
        return Product.apply(x, weight, bias)
    return F.linear(x, weight, bias)
