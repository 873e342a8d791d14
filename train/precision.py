"""Mixed precision: in which arithmetic the networks compute; weights, losses and averages stay float32."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.models.attention import AxialAttention

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def computing(precision: str, device: torch.device) -> AbstractContextManager:
    """Within it, matrix products and convolutions on that device have that precision."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, PRECISIONS[precision])


def attend_in_float32(network: nn.Module) -> None:
    """Keep a network's attention in float32 under a CPU's autocast, where its bf16 backward is five times slower."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float())

    for module in network.modules():
        if isinstance(module, AxialAttention):
            module.attend = attend
