"""Blocks that train faster, attached to a network from outside: the same weights, the same results up to rounding."""

from functools import partial

import torch
from torch import Tensor, nn

from latte.fast.norm_modulate import gelu, norm_modulate
from latte.models.block import Block, Mlp


def attach(network: nn.Module) -> None:
    """Make every block and MLP in a network use its faster form from now on, forward and backward.

    Args:
        network: Changed in place: `forward` of these modules is replaced on the instances. Attach it before anything
            that wraps the same method, such as latte.parallel.sequence.
    """
    for module in network.modules():
        if type(module) is Block:
            module.forward = partial(block_forward, module)
        elif isinstance(module, Mlp):
            module.forward = partial(mlp_forward, module)


def block_forward(
    block: Block, x: Tensor, c: Tensor, text: Tensor | None = None, bias: Tensor | None = None, temporal: bool = True
) -> Tensor:
    """Like Block.forward."""
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
    """Like Mlp.forward."""
    return mlp.fc2(gelu(mlp.fc1(x)))
