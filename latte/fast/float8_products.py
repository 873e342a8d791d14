"""Matrix products in 8-bit floating point, for a GPU that has them: faster, and not exact.

Rows of tokens and of weights are scaled so that their largest value is the largest of float8_e4m3fn, 448, and rounded
to its 3 bits of mantissa, which changes each number by up to 6 %. Products are summed in float32. Both the readable
network and its fast form compute with them, so CUDA graphs do too.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from latte.models.block import Block

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0  # of FLOAT8


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and round each row of numbers.

    Args:
        x: Rows (n, d).

    Returns:
        The rows in FLOAT8 (n, d), and the float32 scales (n, 1) that multiply them back to x.
    """
    largest = torch.linalg.vector_norm(x, float("inf"), 1, keepdim=True).float()
    scale = largest.clamp(min=1e-12) / LARGEST
    return (x / scale).to(FLOAT8), scale


def multiplies_in_float8(device: torch.device) -> bool:
    """Whether a device has products of FLOAT8 with a scale for each row: NVIDIA's, from compute capability 9.0 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def product(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer with quantised weights.

    Args:
        x: (..., d), of at least one row.
        weight: In FLOAT8 (n, d).
        scale: The scales of the weights (n, 1).
        bias: (n,).

    Returns:
        (..., n) in x's precision. The hardware's product is rounded to bfloat16, the only precision that it has for
        scaled rows everywhere; without the hardware, the same quantised numbers are multiplied in float32.
    """
    rows, own = quantised(x.reshape(-1, x.shape[-1]))
    if multiplies_in_float8(x.device) and not any(size % 16 for size in weight.shape):
        bias = None if bias is None else bias.bfloat16()
        factors = (rows, weight.t(), own, scale.t())
        out = torch._scaled_mm(*factors, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)
    else:
        out = (rows.float() @ weight.float().t()) * own * scale.t()
        out = out if bias is None else out + bias.float()
    return out.to(x.dtype).view(*x.shape[:-1], -1)


class Float8Linear(nn.Linear):
    """What `to_float8` makes of an nn.Linear: (..., in_features) -> (..., out_features).

    Attributes:
        quantised: The quantised weight and its scales.
    """

    quantised: tuple[Tensor, Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """See `product`."""
        return product(x, *self.quantised, self.bias)


def to_float8(network: nn.Module) -> list[nn.Linear]:
    """Let the linear layers in a network's blocks compute in FLOAT8, without gradients; not exact.

    Modulations, embeddings, the last layer, attention scores and the residual keep their precision. Blocks that were
    compiled before are compiled again.

    Args:
        network: The denoiser, on the device where it computes. Its weights and its state_dict do not change.

    Returns:
        The changed layers.
    """
    found = []
    for block in (module for module in network.modules() if isinstance(module, Block)):
        for name, layer in block.named_modules():
            if type(layer) is nn.Linear and not name.startswith("modulation"):
                found.append(layer)
    with torch.no_grad():
        weights = [quantised(layer.weight) for layer in found]  # first, since this may run out of memory
    for layer, weight in zip(found, weights):
        layer.quantised, layer.__class__ = weight, Float8Linear
    return found


@contextmanager
def float8_products(network: nn.Module) -> Iterator[None]:
    """Within the context, a network's blocks compute in FLOAT8: see `to_float8`."""
    layers = to_float8(network)
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
            del layer.quantised
