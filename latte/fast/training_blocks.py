"""Blocks that train faster, attached to a network from outside: the same weights, the same results up to rounding."""

from functools import partial

import torch
from torch import Tensor, nn

from latte.fast.bfloat16_attention import attend_by_products, pays
from latte.fast.norm_modulate import gelu, norm_modulate
from latte.fast.training_products import linear_forward
from latte.fast.trunk import FastBlocks
from latte.models.attention import AxialAttention, CrossAttention, attend
from latte.models.block import Block, Mlp
from latte.models.denoiser import denoiser_of
from latte.replaced_methods import replace_methods


def attach(network: nn.Module, device: str | None = None) -> None:
    """Make every block and MLP in a network use its faster form from now on, forward and backward.

    On a CPU this includes attention and, where it is faster, linear layers.

    Args:
        network: Changed in place: methods of these modules are replaced on the instances. Attach it before anything
            that wraps the same methods, such as latte.parallel.sequence and latte.train.precision.
        device: The type of the device that computes. None: that of the network's parameters.
    """
    on_cpu = (device or next(network.parameters()).device.type) == "cpu"
    for module in network.modules():
        if type(module) is nn.Linear and on_cpu:
            module.forward = partial(linear_forward, module)
        elif isinstance(module, (AxialAttention, CrossAttention)) and on_cpu:
            module.attend = attend_on_cpu
        elif type(module) is Block:
            module.forward = partial(block_forward, module)
        elif isinstance(module, Mlp):
            module.forward = partial(mlp_forward, module)


def attach_frozen(network: nn.Module, autocast: bool) -> None:
    """Make a network that never learns, such as a teacher, use faster forms from now on, without gradients.

    Args:
        network: Changed in place, as by `attach`. Its weights must neither change nor move any more.
        autocast: Whether it will be called under autocast. Otherwise its blocks compute as in inference: faster still.
    """
    if autocast:
        attach(network)
        return
    denoiser = denoiser_of(network)
    replace_methods([(denoiser, "through_blocks", FastBlocks(denoiser))])


def attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Like latte.models.attention.attend, with float32 scores: in bfloat16 by products, or all in float32."""
    if pays(q, k, v, mask):
        return attend_by_products(q, k, v, mask)
    if not torch.is_autocast_enabled("cpu"):
        return attend(q, k, v, mask)
    with torch.autocast("cpu", enabled=False):
        return attend(q.float(), k.float(), v.float(), mask if mask is None else mask.float())


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
