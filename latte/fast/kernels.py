"""The operations of the fast forward, chosen by device and precision. Each equals its plain form."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.fast.onednn import multiplies_bfloat16, onednn_product, packed
from latte.models.block import NORM_EPS

GELU_VALUES = 1 << 17  # values that pass GELU's four steps at once: they stay in a core's own cache
WORTH_IT = {"AVX512": 3 << 19}  # number of multiplications from which oneDNN's product is faster, by the CPU's vectors
WORTH_IT_ELSEWHERE = 1 << 24
SLOPE = 2 * math.sqrt(2 / math.pi)  # GELU's tanh approximation is x * sigmoid(SLOPE * x + CUBIC * x^3)
CUBIC = SLOPE * 0.044715
MANY_TOKENS = 4  # as many tokens for each column of a weight make up for scaling its rows


def adds_in_product(device: torch.device) -> bool:
    """Whether a product adds to a residual while it writes its output."""
    return device.type != "cpu"


def has_tanh_epilogue(device: torch.device) -> bool:
    """Whether torch._addmm_activation computes GELU in its tanh approximation; except on CUDA, it is the exact GELU."""
    return device.type == "cuda"


def fuses_gelu_on_cpu() -> bool:
    """Whether oneDNN's product with GELU takes less time than the product and then GELU: with AVX-512."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class FastLinear:
    """A linear layer, alone or with what follows it, in as few passes as the device allows: (..., in) -> (..., out).

    On a CPU, in float32, and in bfloat16 where oneDNN has it, oneDNN's product is up to 2.3 times as fast as the one
    behind nn.Linear, but takes longer to start: 11 microseconds with AVX-512, some 50 without. See
    docs/performance/fast-form.md.

    Args:
        layer: The layer; its weights may change later, and it may become a latte.fast.float8_products.Float8Linear.
        pack: Keep a copy of the weights in oneDNN's layout, which makes up a quarter of the gain.
    """

    def __init__(self, layer: nn.Linear, pack: bool):
        self.layer, self.pack = layer, pack
        weight = layer.weight
        on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and not weight.is_inference()
        self.applies = on_cpu and (
            weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and multiplies_bfloat16())
        )
        worth_it = WORTH_IT.get(torch.backends.cpu.get_cpu_capability(), WORTH_IT_ELSEWHERE)
        self.least, self.version = worth_it // layer.out_features, (-1, -1)  # values of x from which it pays

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x, ("none", "")) if self.pays(x) else self.layer(x)

    def pays(self, x: Tensor) -> bool:
        """Whether oneDNN's product is the faster one for an input."""
        return self.applies and x.numel() >= self.least and type(self.layer) is nn.Linear

    def product(self, x: Tensor, activation: tuple[str, str]) -> Tensor:
        """oneDNN's product, followed by an activation: see latte.fast.onednn.onednn_product."""
        weight = self.layer.weight
        if self.pack and self.version != (version := (weight._version, weight.data_ptr())):
            self.packed = packed(weight.detach(), x.numel() // x.shape[-1])
            self.version = version
        return onednn_product(x, self.packed if self.pack else weight, self.layer.bias, activation)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the output, in its tanh approximation, computed before the output is written where that pays."""
        weight, bias = self.layer.weight, self.layer.bias
        if self.pays(x) and fuses_gelu_on_cpu():
            return self.product(x, ("gelu", "tanh"))
        if not has_tanh_epilogue(x.device) or type(self.layer) is not nn.Linear or bias is None:
            return gelu_(self(x))
        return torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True).unflatten(0, x.shape[:-1])

    def add_to(self, residual: Tensor, x: Tensor, gate: Tensor | float) -> None:
        """residual += gate * self(x), in place; off the CPU, the product itself adds to the residual where that pays.

        A gate then scales the rows of the weight. This pays with many more tokens than the weight has columns.

        Args:
            residual: (..., out_features).
            x: (..., in_features).
            gate: (out_features,), or broadcasts to the residual, or 1.0.
        """
        weight, bias = self.layer.weight, self.layer.bias
        usual = type(self.layer) is nn.Linear and bias is not None and residual.is_contiguous()
        many = x.numel() >= MANY_TOKENS * weight.shape[1] ** 2
        pays = isinstance(gate, float) or (gate.ndim == 1 and many)
        if not (adds_in_product(x.device) and usual and pays):
            add_gated(residual, self(x), gate)
            return
        scaled = weight if isinstance(gate, float) else (gate[:, None] * weight).to(weight.dtype)
        residual.view(-1, residual.shape[-1]).addmm_(x.flatten(0, -2), scaled.t())
        add_gated(residual, bias, gate)


def add_gated(residual: Tensor, y: Tensor, gate: Tensor | float) -> None:
    """residual += gate * y, in place; a gate that is a number is 1."""
    if isinstance(gate, float):
        residual.add_(y)
    else:
        residual.addcmul_(gate, y)


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
    slope = x.new_tensor(SLOPE)
    for part in x.view(-1).split(GELU_VALUES):
        gate = torch.addcmul(slope, part, part, value=CUBIC)
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
        return F.layer_norm(x, x.shape[-1:], scale.view(-1), shift.view(-1), eps=NORM_EPS)
    y = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    return torch.addcmul(shift, y, scale, out=y)
