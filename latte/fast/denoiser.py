"""The fast forward of a denoiser: the same weights, the same numbers to rounding, in less time and memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latte.fast.blocks import Branch, Slices, branches, in_runs, of, parts
from latte.fast.kernels import modulated
from latte.fast.layer_cache import LayerCache
from latte.models.attention import AxialAttention, CrossAttention, SplitAttention
from latte.models.block import Block, FeedForward
from latte.models.denoiser import Condition, Denoiser

PART = 1 << 20  # values of the widest tensor of a part: see docs/performance.md


@dataclass(frozen=True)
class Prepared:
    """What the blocks need of a condition, computed once.

    Attributes:
        modulations: For each block, for each of its norms: shift, 1 + scale and gate, each (b or 1, 1 or f, 1, d).
        texts: For each block with cross-attention, keys and values; else None.
        bias: As Condition's.
    """

    modulations: list[list[list[Tensor]]]
    texts: list[tuple[Tensor, Tensor] | None]
    bias: Tensor | None

    def rows(self, count: int) -> "Prepared":
        """For the first videos of the batch only."""
        cut = lambda z: z if isinstance(z, float) or z.ndim == 1 or len(z) == 1 else z[:count]
        modulations = [[[cut(z) for z in norm] for norm in block] for block in self.modulations]
        texts = [None if text is None else (cut(text[0]), cut(text[1])) for text in self.texts]
        return Prepared(modulations, texts, None if self.bias is None else cut(self.bias))


class FastBlocks:
    """Takes the place of Denoiser.through_blocks, for inference.

    Args:
        network: The denoiser, whose weights it reads in place.
    """

    def __init__(self, network: Denoiser):
        self.network, self.plain = network, type(network).through_blocks
        self.layers = [branches(block) for block in network.blocks]
        self.runs = [in_runs(layers) for layers in self.layers]
        self.rows = [max(1, PART // block.mlp.fc1.out_features) for block in network.blocks]
        self.places, seen = {}, Counter()
        for branch in (branch for layers in self.layers for branch in layers):
            self.places[branch.layer] = (branch.kind, seen[branch.kind])
            seen[branch.kind] += 1

    def __call__(self, x: Tensor, condition: Condition, temporal: bool) -> Tensor:
        """Tokens (b, f, s, d) through all blocks; the readable network computes what has no fast form."""
        if not temporal or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return self.plain(self.network, x, condition, temporal)
        return self.run(x.contiguous(), self.prepare(condition))

    def prepare(self, condition: Condition) -> Prepared:
        """Modulations, keys and values that a condition implies for every block."""
        return Prepared(self.modulations(condition.blocks), self.texts(condition), condition.bias)

    def modulations(self, embedding: Tensor) -> list[list[list[Tensor]]]:
        """What an embedded condition (n, 1 or f, k) makes of every block's norms: see Prepared."""
        return [[with_one(norm) for norm in block.modulation(embedding)] for block in self.network.blocks]

    def texts(self, condition: Condition) -> list[tuple[Tensor, Tensor] | None]:
        """Keys and values of every block's cross-attention."""
        found: list[tuple[Tensor, Tensor] | None] = []
        for layers in self.layers:
            cross = next((branch.compute for branch in layers if branch.kind == "cross"), None)
            found.append(None if cross is None else cross.text(condition.text))
        return found

    def run(self, x: Tensor, prepared: Prepared, cache: LayerCache | None = None) -> Tensor:
        """Contiguous tokens (b, f, s, d) through all blocks, in place."""
        for i, runs in enumerate(self.runs):
            if i == self.network.first_temporal:
                x = self.network.add_temporal_position(x)
            added = None if cache is None else cache.reused("block", i, len(x))
            if added is not None:
                x.add_(added)
                continue
            slot = None if cache is None else cache.slot("block", i, x)
            before = None if slot is None else slot.copy_(x)
            for axis, layers in runs:
                self.run_layers(x, layers, axis, i, prepared, cache)
            if before is not None:
                torch.sub(x, before, out=slot)
        return x

    def run_layers(
        self, x: Tensor, layers: list[Branch], axis: int | None, block: int, prepared: Prepared,
        cache: LayerCache | None,
    ) -> None:  # fmt: skip
        """Some layers of a block, part by part."""
        steps = []
        for branch in layers:
            place = self.places[branch.layer]
            reused = None if cache is None else cache.reused(*place, len(x))
            slot = None if cache is None or reused is not None else cache.slot(*place, x)
            steps.append((branch, reused, slot))
        for where in parts(x.shape, axis, self.rows[block]):
            for branch, reused, slot in steps:
                gated = cache is not None and cache.after_gate
                add(branch, x[where], where, prepared, block, reused, slot, gated)


def with_one(norm: list) -> list[Tensor]:
    """Shift, scale and gate as the fast blocks take them: 1 is added to the scale once."""
    shift, scale, gate = norm
    return [shift, 1 + scale, gate]


def add(
    branch: Branch, x: Tensor, where: Slices, prepared: Prepared, block: int, reused: Tensor | None,
    slot: Tensor | None, gated: bool,
) -> None:  # fmt: skip
    """Add to some tokens, in place, what a layer makes of them, or what it made of them before."""
    shift, scale, gate = (None, None, 1.0) if branch.norm is None else prepared.modulations[block][branch.norm]
    if reused is not None:
        y = reused[where]
    elif branch.norm is None:
        k, v = (of(z, where) for z in prepared.texts[block])
        y = branch.compute(x, k, v, None if prepared.bias is None else of(prepared.bias, where))
    else:
        y = branch.compute(modulated(x, of(shift, where), of(scale, where)))
    if gated and not isinstance(gate, float) and (slot is not None or reused is not None):
        y, gate = y if reused is not None else y * of(gate, where), 1.0
    if slot is not None:
        slot[where] = y
    if isinstance(gate, float):
        x.add_(y)
    else:
        x.addcmul_(of(gate, where), y)


class FastRun:
    """A denoiser on one condition, at timesteps that are known before: what does not depend on x is computed once.

    Args:
        network: The denoiser.
        condition: Its rows are those of all videos of the batch at the first timestep, then at the second, and so on.
            Rows that are common to all videos may stand there once for each timestep; text has one row for each video.
        timesteps: How many timesteps there are.
        cache: What keeps outputs for later evaluations.
    """

    def __init__(self, network: Denoiser, condition: Condition, timesteps: int, cache: LayerCache | None = None):
        self.network, self.blocks, self.cache = network, FastBlocks(network), cache
        self.conditions = [
            condition._replace(
                **{
                    name: getattr(condition, name).unflatten(0, (timesteps, -1))[k]
                    for name in ("blocks", "final", "tokens")
                    if getattr(condition, name) is not None
                }
            )
            for k in range(timesteps)
        ]
        self.texts = self.blocks.texts(condition)
        self.bias = condition.bias

    def replace_text(self, condition: Condition) -> None:
        """Attend to another text from now on."""
        self.texts, self.bias = self.blocks.texts(condition), condition.bias

    def __call__(self, x: Tensor, k: int) -> Tensor:
        """Predict at timestep number k.

        Args:
            x: Noisy latents (b, f, c, h, w), for the first b of the condition's videos.
            k: Number of the timestep.

        Returns:
            The output (b, f, channels, h, w).
        """
        condition, network = self.conditions[k], self.network
        count = len(x)
        cut = lambda z: z if z is None or len(z) == 1 else z[:count]
        condition = Condition._make(map(cut, condition))
        prepared = Prepared(self.blocks.modulations(condition.blocks), self.texts, self.bias).rows(count)
        if self.cache is not None:
            self.cache.begin(k)
        tokens = network.embed(x, condition)
        tokens = self.blocks.run(tokens, prepared, self.cache)
        return network.predict(tokens, condition, x.shape[3] // network.patch_size)


def has_fast_form(network: nn.Module) -> bool:
    """Whether a network is one of ours as it is: no hooks, no layers of other kinds, no methods that were replaced."""
    if not isinstance(network, Denoiser) or network.training:
        return False
    for module in network.modules():
        hooked = module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None
        if hooked or "forward" in vars(module) or "branch" in vars(module) or "through_blocks" in vars(module):
            return False
    ours = (Block, AxialAttention, SplitAttention, CrossAttention, FeedForward)
    layers = (part for block in network.blocks for part in (block, *block.attns, block.cross, block.mlp))
    return all(part is None or type(part) in ours for part in layers)


@contextmanager
def fast(network: Denoiser) -> Iterator[None]:
    """Inside it, the network computes its blocks by their fast forms, in inference.

    Args:
        network: The denoiser. Its weights and its state_dict do not change.
    """
    network.through_blocks = FastBlocks(network)
    try:
        yield
    finally:
        del network.through_blocks
