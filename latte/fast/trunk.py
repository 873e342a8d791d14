"""The fast forward of a denoiser: the same weights, the same results up to rounding, in less time and memory."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from latte.fast.blocks import EVERYTHING, Branch, Exchange, FastCross, Slices, branches, in_runs, of, parts
from latte.fast.float8_products import Float8Linear
from latte.fast.kernels import add_gated, modulated
from latte.models.attention import AxialAttention, CrossAttention, SplitAttention
from latte.models.block import Block, FeedForward
from latte.models.denoiser import Condition, Denoiser
from latte.plans.layer_cache import LayerCache
from latte.plans.tracks import layers_of
from latte.replaced_methods import replaced_methods

PART = 1 << 20  # values of the widest tensor of a part on a CPU: see docs/performance/fast-form.md
MOST_PACKED = 1 << 30  # bytes of weights that may be copied, repacked, to compute faster


@dataclass(frozen=True)
class Prepared:
    """What the blocks need from a condition, computed once.

    Attributes:
        modulations: For each block, for each of its norms: shift, 1 + scale and gate. Each is (d,), if it is the same
            for all tokens, or (b or 1, 1 or f, 1, d).
        texts: For each block with cross-attention, keys and values; else None.
        bias: See Condition.
    """

    modulations: list[list[list[Tensor]]]
    texts: list[tuple[Tensor, Tensor] | None]
    bias: Tensor | None


class FastBlocks:
    """Replaces Denoiser.through_blocks, for inference.

    Args:
        network: The denoiser, whose weights it reads in place.
        exchange: If processes share the frames, how they exchange tokens.
    """

    def __init__(self, network: Denoiser, exchange: Exchange | None = None):
        self.network, self.plain, self.exchange = network, type(network).through_blocks, exchange
        blocks: list[Any] = list(network.blocks)
        size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
        joined = [] if exchange is None else exchange.runs
        self.first, self.last = {run[0] for run in joined}, {run[-1] for run in joined}  # of blocks in one exchange
        alone = [all(i not in run for run in joined) for i in range(len(blocks))]  # each layer exchanges by itself
        self.layers = [
            branches(block, size <= MOST_PACKED, exchange if by_itself else None)
            for block, by_itself in zip(blocks, alone)
        ]
        self.runs = [in_runs(layers) for layers in self.layers]
        self.runs_in_exchange = [
            in_runs([whole_in_time(branch) for branch in layers]) if by_itself else runs
            for layers, runs, by_itself in zip(self.layers, self.runs, alone)
        ]
        self.widths = [block.mlp.fc1.out_features for block in blocks]
        self.places = {module: layer for layer, module in layers_of(network).items()}  # split heads are not among them

    def __call__(self, x: Tensor, condition: Condition, temporal: bool) -> Tensor:
        """Tokens (b, f, s, d) through all blocks; the readable network computes what has no fast form."""
        if not temporal or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return self.plain(self.network, x, condition, temporal)
        return self.run(x.contiguous(), self.prepare(condition))

    @property
    def exchanges(self) -> bool:
        """Whether processes split the frames in the current call."""
        return self.exchange is not None and self.exchange.is_needed

    def prepare(self, condition: Condition) -> Prepared:
        """The modulations, keys and values of a condition, for every block."""
        return Prepared(self.modulations(condition.blocks), self.texts(condition), condition.bias)

    def modulations(self, embedding: Tensor) -> list[list[list[Tensor]]]:
        """The modulations of every block's norms for an embedded condition (n, 1 or f, k): see Prepared."""
        blocks: list[Any] = list(self.network.blocks)
        return [[with_one(norm) for norm in block.modulation(embedding)] for block in blocks]

    def texts(self, condition: Condition) -> list[tuple[Tensor, Tensor] | None]:
        """Keys and values of every block's cross-attention."""
        found: list[tuple[Tensor, Tensor] | None] = []
        for layers in self.layers:
            cross = next((branch.compute for branch in layers if isinstance(branch.compute, FastCross)), None)
            found.append(None if cross is None else cross.text(condition.text))
        return found

    def run(
        self, x: Tensor, prepared: Prepared, cache: LayerCache | None = None, frames: Tensor | None = None,
        halves: int = 1,
    ) -> Tensor:  # fmt: skip
        """Tokens through all blocks.

        Args:
            x: Tokens (b, f, s, d), which are overwritten.
            prepared: The prepared condition for halves * b videos.
            cache: The cache of outputs for later evaluations.
            frames: The position embeddings of the frames (1, f, 1, d), if they are known.
            halves: 2 for both halves of guidance, which start from the same tokens.

        Returns:
            Tokens (halves * b, f, s, d).
        """
        runs_of_blocks = self.runs_in_exchange if self.exchanges else self.runs
        axis, (first, *_) = runs_of_blocks[0][0]
        alike = first.norm is not None and prepared.modulations[0][first.norm][1].ndim == 1  # for all videos
        layers_kept = cache is not None and any(kind not in ("network", "clean") for kind in cache.plan.kinds)
        shared = halves > 1 and not layers_kept and alike and self.network.first_temporal != 0
        if shared:  # until they meet the text, both halves are equal
            self.run_layers(x, [first], axis, 0, prepared, None)
        x = x if halves == 1 else x.repeat(halves, 1, 1, 1)
        for i, runs in enumerate(runs_of_blocks):
            if i == self.network.first_temporal:
                if frames is None:
                    frames = self.network.add_temporal_position(x.new_zeros(1, x.shape[1], 1, x.shape[3]))
                x.add_(frames)
            if i in self.first:
                x = self.exchange.all_frames(x).contiguous()
            added = None if cache is None else cache.reused("block", i, len(x))
            if added is not None:
                x.add_(added)
                continue
            slot = None if cache is None else cache.slot("block", i, x)
            before = None if slot is None else slot.copy_(x)
            for axis, layers in runs:
                left = [layer for layer in layers if not (shared and layer is first)]
                self.run_layers(x, left, axis, i, prepared, cache)
            if before is not None:
                torch.sub(x, before, out=slot)
            if i in self.last:
                x = self.exchange.all_patches(x).contiguous()
        return x

    def run_layers(
        self, x: Tensor, layers: list[Branch], axis: int | None, block: int, prepared: Prepared,
        cache: LayerCache | None,
    ) -> None:  # fmt: skip
        """Run some layers of a block, part by part."""
        steps = []
        for branch in layers:
            place = self.places.get(branch.layer)
            reused = None if cache is None or place is None else cache.reused(*place, len(x))
            slot = None if cache is None or place is None or reused is not None else cache.slot(*place, x)
            steps.append((branch, reused, slot))
        whole = axis is None and self.exchanges  # all processes exchange at once, whatever their shares
        rows = sys.maxsize if whole else tokens_at_once(x.device, self.widths[block])
        for where in parts(x.shape, axis, rows):
            for branch, reused, slot in steps:
                gated = cache is not None and cache.after_gate
                add(branch, x if where is EVERYTHING else x[where], where, prepared, block, reused, slot, gated)


def tokens_at_once(device: torch.device, width: int) -> int:
    """How many tokens a block computes at once, if its widest layer has this width.

    A CPU computes as many as fit its cache. Other devices compute all of them: small parts would leave them idle.
    """
    return max(1, PART // width) if device.type == "cpu" else sys.maxsize


def whole_in_time(branch: Branch) -> Branch:
    """A layer that may not be cut by places: see latte.fast.blocks.Branch."""
    return replace(branch, axis=None) if branch.axis == 2 else branch


def with_one(norm: list) -> list[Tensor]:
    """Shift, scale and gate as the fast blocks take them: 1 is added to the scale once."""
    shift, scale, gate = norm
    return [shift, 1 + scale, gate]


def add(
    branch: Branch, x: Tensor, where: Slices, prepared: Prepared, block: int, reused: Tensor | None,
    slot: Tensor | None, gated: bool,
) -> None:  # fmt: skip
    """Add a layer's output to some tokens, in place: computed now, or reused."""
    shift, scale, gate = (None, None, 1.0) if branch.norm is None else prepared.modulations[block][branch.norm]
    gate = gate if isinstance(gate, float) else of(gate, where)
    if reused is not None:
        add_gated(x, reused[where], 1.0 if gated else gate)
        return
    if branch.norm is None:
        k, v = (of(z, where) for z in prepared.texts[block])
        given = (x, k, v, None if prepared.bias is None else of(prepared.bias, where))
    else:
        given = (modulated(x, of(shift, where), of(scale, where)),)
    if slot is None:
        branch.compute.add_to(x, gate, *given)
        return
    y = branch.compute(*given)
    slot[where] = y * gate if gated else y
    add_gated(x, y, gate)  # as add_to does; adding the slot's product would round differently


def has_fast_form(network: nn.Module, known: Mapping[tuple[nn.Module, str], Callable] | None = None) -> bool:
    """Whether a network is one of ours, unchanged: no hooks, no layers of other kinds, no replaced methods.

    Linear layers may compute in 8-bit floating point. Replacements in `known`, by module and name of the method, are
    those that the fast form makes, too.
    """
    known = known or {}
    if not isinstance(network, Denoiser) or network.training:
        return False
    for module in network.modules():
        hooked = module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None
        methods = ((name, value) for name, value in vars(module).items() if callable(getattr(type(module), name, None)))
        if hooked or any(name != "attend" and known.get((module, name)) is not value for name, value in methods):
            return False
    layers = (AxialAttention, SplitAttention, CrossAttention, FeedForward, nn.Linear, Float8Linear)
    own = (
        part for block in network.blocks for name, part in block.named_modules() if not name.startswith("modulation")
    )
    return all(type(part) in (Block, nn.ModuleList, *layers) for part in own)


@contextmanager
def fast(network: Denoiser) -> Iterator[None]:
    """Within the context, the network computes its blocks by their fast forms, in inference.

    Args:
        network: The denoiser. Its weights and its state_dict do not change.
    """
    with replaced_methods([(network, "through_blocks", FastBlocks(network))]):
        yield
