"""The operations of the fast forward, chosen by device and precision. Each equals its plain form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GELU_VALUES = 1 << 17  # values that pass GELU's four steps at once: they stay in a core's own cache
WORTH_IT = 1 << 24  # number of multiplications from which oneDNN's product is faster


class FastLinear:
    """A linear layer that uses oneDNN's product where that is faster: (..., in_features) -> (..., out_features).

    On a CPU, in float32, and in bfloat16 where the CPU has units for it, it is up to 1.18 times as fast as the product
    behind nn.Linear, but has an overhead of some 50 microseconds. See docs/performance.md.

    Args:
        layer: The layer; its weights may change later.
        pack: Keep a copy of the weights in oneDNN's layout, which makes up a quarter of the gain.
    """

    def __init__(self, layer: nn.Linear, pack: bool):
        self.layer, self.pack = layer, pack
        weight = layer.weight
        on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and not weight.is_inference()
        self.applies = on_cpu and (
            weight.dtype == torch.float32
            or (weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
        self.least, self.version = WORTH_IT // layer.out_features, (-1, -1)  # values of x from which it pays

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        if not self.applies or x.numel() < self.least:
            return F.linear(x, weight, bias)
        if self.pack and self.version != (version := (weight._version, weight.data_ptr())):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), x.numel() // x.shape[-1])
            self.version = version
        return torch.ops.mkldnn._linear_pointwise(x, self.packed if self.pack else weight, bias, "none", [], "")


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
    for part in x.view(-1).split(GELU_VALUES):
        gate = torch.addcmul(slope, part, part, value=0.07135481627260025)  # 2 * sqrt(2 / pi) * 0.044715
        part.mul_(gate.mul_(part).sigmoid_())
    return x


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """latte.models.block.modulate in one pass if all tokens share shift and scale, otherwise in two.

    Args:
        x: Tokens (b, f, s, d).
        shift: (d,), or broadcasts to x.
        scale: Likewise, with 1 already added.

    Returns:
        The modulated tokens, a new contiguous tensor (b, f, s, d).
    """
    if shift.numel() == x.shape[-1]:
        return F.layer_norm(x, x.shape[-1:], scale.view(-1), shift.view(-1), eps=1e-6)
    y = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift, y, scale, out=y)
