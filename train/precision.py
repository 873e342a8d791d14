"""Mixed precision: in which arithmetic the networks compute; weights, losses and averages stay float32."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.models.attention import AxialAttention
from latte.models.block import AdaLN
from latte.models.condition import TimeEmbed

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Within it, a forward's products and convolutions on that device are of that type."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def check_precision(precision: str, device: torch.device) -> None:
    """ValueError: the device has no such arithmetic."""
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 is for CUDA; {device.type} has fp32 and bf16")


def keep_in_float32(network: nn.Module) -> None:
    """What few numbers go through and all others depend on stays in float32 under autocast.

    The timestep's embedding (in bfloat16, 1000 timesteps are 507), the modulation of the norms, the last layer. On a
    CPU attention too, whose bfloat16 backward is five times slower there.
    """
    for name, module in network.named_modules():
        if isinstance(module, TimeEmbed | AdaLN) or name.rpartition(".")[2] in ("final_linear", "time_modulation"):
            module.forward = partial(in_float32, module.forward)
    if next(network.parameters()).device.type == "cpu":
        attend_in_float32(network)


def in_float32(forward: Callable, x: Tensor, *rest):
    """forward(x, ...) outside autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float() if x.is_floating_point() else x, *rest)


def attend_in_float32(network: nn.Module) -> None:
    """Keep a network's attention in float32 under a CPU's autocast."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float())

    for module in network.modules():
        if isinstance(module, AxialAttention):
            module.attend = attend
