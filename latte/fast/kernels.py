"""The operations that the fast forward is made of, chosen by device and precision. Each equals its plain form."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GELU_ROWS = 128 * 1024  # values that pass GELU's four steps at once: they stay in the first caches of a processor


def linear(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """What computes a linear layer fastest, without a copy of its weights.

    oneDNN's product is up to 1.15 times as fast as the one behind torch.nn.functional.linear in float32 where a layer
    widens its input; elsewhere the two are equal. See docs/performance.md.

    Args:
        layer: The layer; its weights may change later.

    Returns:
        A function (..., in_features) -> (..., out_features).
    """
    weight, bias = layer.weight, layer.bias
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    widens = weight.shape[0] > weight.shape[1] and weight.device.type == "cpu" and weight.dtype == torch.float32
    if type(layer).forward is not nn.Linear.forward or hooked:
        return layer  # somebody's own linear layer, such as an adapter
    if not (widens and torch.backends.mkldnn.is_available()) or torch.is_grad_enabled():
        return layer
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def gelu_(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, in place.

    x / 2 * (1 + tanh(u)) = x * sigmoid(2 u) with u = sqrt(2 / pi) * (x + 0.044715 x^3). On a CPU, PyTorch's sigmoid
    takes half as long as its tanh, in float32.

    Args:
        x: Contiguous (..., d).

    Returns:
        x itself.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or not x.is_contiguous():
        return torch._C._nn.gelu_(x, approximate="tanh")
    slope = x.new_tensor(1.5957691216057308)  # 2 * sqrt(2 / pi)
    for part in x.view(-1).split(GELU_ROWS):
        gate = torch.addcmul(slope, part, part, value=0.07135481627260025)  # 2 * sqrt(2 / pi) * 0.044715
        part.mul_(gate.mul_(part).sigmoid_())
    return x


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """latte.models.block.modulate in one pass where shift and scale are common to all tokens, else in two.

    Args:
        x: Tokens (b, f, s, d).
        shift: (d,), or broadcasts to x.
        scale: Likewise, with 1 already added.

    Returns:
        The modulated tokens, a new contiguous tensor (b, f, s, d).
    """
    if shift.numel() == x.shape[-1]:
        return F.layer_norm(x, x.shape[-1:], scale.flatten(), shift.flatten(), eps=1e-6)
    y = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift, y, scale, out=y)
