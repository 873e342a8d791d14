"""Blocks that train faster, attached to a network from outside: the same weights, the same numbers to rounding."""

from functools import partial

import torch
from torch import Tensor, nn

from latte.fast.norm_modulate import gelu, norm_modulate
from latte.models.attention import AxialAttention, CrossAttention, attend
from latte.models.block import Block, Mlp

SHORT = 32  # keys, up to which attention on a CPU is faster written out: 2x at 16 of them, forward and backward


def attach(network: nn.Module) -> None:
    """Let every block, attention and MLP in a network compute by its faster form from now on, forward and backward.

    Args:
        network: Changed in place: `forward` or `attend` of these modules is replaced on the instances. Attach it
            before what wraps the same method, such as latte.parallel.sequence.
    """
    for module in network.modules():
        if type(module) is Block:
            module.forward = partial(block_forward, module)
        elif isinstance(module, Mlp):
            module.forward = partial(mlp_forward, module)
        elif isinstance(module, (AxialAttention, CrossAttention)):
            module.attend = attend_short


def block_forward(
    block: Block, x: Tensor, c: Tensor, text: Tensor | None = None, bias: Tensor | None = None, temporal: bool = True
) -> Tensor:
    """As Block.forward."""
    attention, mlp = block.modulation(c)
    for attn in block.attentions(temporal):
        x = add(attn, x, attention)
    if block.cross is not None:
        x = x + block.cross(x, text, bias)
    return add(block.mlp, x, mlp)


def add(layer: nn.Module, x: Tensor, modulation: list[Tensor]) -> Tensor:
    """x + gate * layer(modulated norm of x)."""
    shift, scale, gate = modulation
    y = layer(norm_modulate(x, shift, scale))
    return x + y if isinstance(gate, float) else torch.addcmul(x, gate, y)


def mlp_forward(mlp: Mlp, x: Tensor) -> Tensor:
    """As Mlp.forward."""
    return mlp.fc2(gelu(mlp.fc1(x)))


def attend_short(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """As latte.models.attention.attend. On a CPU, attention to few keys is written out: its products are small."""
    if k.shape[-2] > SHORT or q.device.type != "cpu":
        return attend(q, k, v, mask)
    scores = q * q.shape[-1] ** -0.5 @ k.mT
    return (scores if mask is None else scores + mask).softmax(-1) @ v
