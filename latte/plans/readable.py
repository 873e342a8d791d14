"""Run the readable network by a plan: its methods are replaced from outside and restored afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from latte.models.block import Block, modulate
from latte.models.denoiser import Condition, Denoiser
from latte.plans.layer_cache import LayerCache
from latte.plans.tracks import Layer, blocks_of, layers_of
from latte.replaced_methods import Replacement, replaced_methods


@contextmanager
def following(model: nn.Module, cache: LayerCache, kinds: list[str]) -> Iterator[None]:
    """Within the context, a network's layers take reused outputs from a cache, and store the outputs that it asks for.

    Args:
        model: A network whose layers declare their `kind`. Blocks can be reused if they are latte.models.block.Block;
            the network as a whole, if it is a latte.models.denoiser.Denoiser.
        cache: The cache of outputs. The caller of the network begins each evaluation.
        kinds: The kinds that are ever reused.

    Raises:
        ValueError: The cache is for gated outputs, but several layers share one gate.
    """
    with replaced_methods([*layer_methods(model, cache, kinds), *larger_methods(model, cache, kinds)]):
        yield


def layer_methods(model: nn.Module, cache: LayerCache, kinds: list[str]) -> list[Replacement]:
    """The replacements of layer methods: `forward`, or `branch` of their blocks if gated outputs are cached."""
    layers = {module: layer for layer, module in layers_of(model).items() if layer[0] in kinds}
    if not cache.after_gate:
        return [(module, "forward", answering(cache, layer, module.forward)) for module, layer in layers.items()]
    found: list[Replacement] = []
    for block in blocks_of(model):
        gated = {module: layers.pop(module) for module in (*block.attns, block.mlp) if module in layers}
        calls = {module: answering(cache, layer, block.branch) for module, layer in gated.items()}
        found.append((block, "branch", lambda layer, *rest, b=block.branch, c=calls: c.get(layer, b)(layer, *rest)))
        if (cross := block.cross) in layers:
            found.append((cross, "forward", answering(cache, layers.pop(cross), cross.forward)))
    if layers:
        raise ValueError("split heads share one gate: their outputs can only be cached before it (after_gate=False)")
    return found


def answering(cache: LayerCache, layer: Layer, function: Callable) -> Callable:
    """Wrap `function`: take its output from the cache if it is reused; otherwise compute it, and keep it if needed."""

    @torch.compiler.disable(recursive=False)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        output = cache.reused(*layer, len(tensors[0]))
        if output is None:
            output = function(*args, **kwargs)
            cache.keep(*layer, lambda: output)
        return output

    return call


def larger_methods(model: nn.Module, cache: LayerCache, kinds: list[str]) -> list[Replacement]:
    """The replacements of `forward` of blocks and of `through_blocks` of a denoiser."""
    found: list[Replacement] = []
    if "block" in kinds:
        blocks = enumerate(blocks_of(model))
        found += [(block, "forward", adding(cache, ("block", i), block.forward)) for i, block in blocks]
    if "network" in kinds:
        network = next(module for module in model.modules() if isinstance(module, Denoiser))
        found.append((network, "through_blocks", through_blocks(cache, network)))
    return found


def adding(cache: LayerCache, layer: Layer, function: Callable) -> Callable:
    """Wrap `function`, tokens (b, f, s, d) -> tokens: if its output is reused, add the cached residual."""

    @torch.compiler.disable(recursive=False)
    def call(x: Tensor, *rest: Any) -> Tensor:
        added = cache.reused(*layer, len(x))
        if added is not None:
            return x + added
        y = function(x, *rest)
        cache.keep(*layer, lambda: y - x)
        return y

    return call


def through_blocks(cache: LayerCache, network: Denoiser) -> Callable:
    """Wrap Denoiser.through_blocks as in `adding`; the cache may look at the tokens first."""
    call = adding(cache, ("network", 0), network.through_blocks)

    @torch.compiler.disable(recursive=False)
    def look_and_call(x: Tensor, condition: Condition, temporal: bool) -> Tensor:
        cache.look(lambda: first_modulated(network, x, condition))
        return call(x, condition, temporal)

    return look_and_call


def first_modulated(network: Denoiser, x: Tensor, condition: Condition) -> Tensor:
    """The normalised and modulated tokens (b, f, s, d) that the first layer of a network reads."""
    first: Block = network.blocks[0]  # type: ignore[assignment]
    (shift, scale, _), _ = first.modulation(condition.blocks)
    return modulate(x, shift, scale)
