"""The fast forward of a denoiser: the same weights, the same numbers to rounding, in less time and memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from latte.fast.blocks import EVERYTHING, Branch, FastCross, Slices, branches, in_runs, of, parts
from latte.fast.kernels import modulated
from latte.models.attention import AxialAttention, CrossAttention, SplitAttention
from latte.models.block import Block, FeedForward
from latte.models.denoiser import Condition, Denoiser, patchify
from latte.plans.layer_cache import LayerCache
from latte.plans.readable import first_modulated
from latte.plans.tracks import layers_of

PART = 1 << 20  # values of the widest tensor of a part: see docs/performance.md
MOST_TABLED = 1 << 25  # values of modulations that are computed before a run, for all of its timesteps at once
MOST_PACKED = 1 << 30  # bytes of weights of which a second copy is made to compute faster


@dataclass(frozen=True)
class Prepared:
    """What the blocks need of a condition, computed once.

    Attributes:
        modulations: For each block, for each of its norms: shift, 1 + scale and gate. Each is (d,), if it is the same
            for all tokens, or (b or 1, 1 or f, 1, d).
        texts: For each block with cross-attention, keys and values; else None.
        bias: As Condition's.
    """

    modulations: list[list[list[Tensor]]]
    texts: list[tuple[Tensor, Tensor] | None]
    bias: Tensor | None


class FastBlocks:
    """Takes the place of Denoiser.through_blocks, for inference.

    Args:
        network: The denoiser, whose weights it reads in place.
    """

    def __init__(self, network: Denoiser):
        self.network, self.plain = network, type(network).through_blocks
        blocks: list[Any] = list(network.blocks)
        size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
        self.layers = [branches(block, size <= MOST_PACKED) for block in blocks]
        self.runs = [in_runs(layers) for layers in self.layers]
        self.rows = [max(1, PART // block.mlp.fc1.out_features) for block in blocks]
        self.places = {module: layer for layer, module in layers_of(network).items()}  # split heads are not among them

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
            prepared: For halves * b videos.
            cache: See FastRun.
            frames: The positions of frames (1, f, 1, d), if they are known.
            halves: 2 for both halves of guidance, which begin with the same tokens.

        Returns:
            Tokens (halves * b, f, s, d).
        """
        axis, (first, *_) = self.runs[0][0]
        alike = first.norm is not None and prepared.modulations[0][first.norm][1].ndim == 1  # for all videos
        layers_kept = cache is not None and any(kind not in ("network", "clean") for kind in cache.plan.kinds)
        shared = halves > 1 and not layers_kept and alike and self.network.first_temporal != 0
        if shared:  # until they meet the text, both halves are equal
            self.run_layers(x, [first], axis, 0, prepared, None)
        x = x if halves == 1 else x.repeat(halves, 1, 1, 1)
        for i, runs in enumerate(self.runs):
            if i == self.network.first_temporal:
                if frames is None:
                    frames = self.network.add_temporal_position(x.new_zeros(1, x.shape[1], 1, x.shape[3]))
                x.add_(frames)
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
        return x

    def run_layers(
        self, x: Tensor, layers: list[Branch], axis: int | None, block: int, prepared: Prepared,
        cache: LayerCache | None,
    ) -> None:  # fmt: skip
        """Some layers of a block, part by part."""
        steps = []
        for branch in layers:
            place = self.places.get(branch.layer)
            reused = None if cache is None or place is None else cache.reused(*place, len(x))
            slot = None if cache is None or place is None or reused is not None else cache.slot(*place, x)
            steps.append((branch, reused, slot))
        for where in parts(x.shape, axis, self.rows[block]):
            for branch, reused, slot in steps:
                gated = cache is not None and cache.after_gate
                add(branch, x if where is EVERYTHING else x[where], where, prepared, block, reused, slot, gated)


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
        by_time = lambda z: z.unflatten(0, (timesteps, -1))
        self.embedded, self.final = by_time(condition.blocks), by_time(condition.final)
        self.tokens = None if condition.tokens is None else by_time(condition.tokens)
        self.texts, self.bias = self.blocks.texts(condition), condition.bias
        self.patch_positions: Tensor | None = None  # (s, d); known from the first call on
        self.frame_positions: Tensor | None = None  # (1, f, 1, d)
        self.tables: list[list[list[Any]]] | None = None  # modulations at all timesteps, if they take little memory
        rows, width = len(condition.blocks), network.patch_embed.out_features
        if rows * width * len(network.blocks) * 6 <= MOST_TABLED:
            self.tables = [
                [[z if isinstance(z, float) or z.ndim == 1 else by_time(z) for z in norm] for norm in block]
                for block in self.blocks.modulations(condition.blocks)
            ]

    def replace_text(self, condition: Condition) -> None:
        """Attend to another text from now on."""
        self.texts, self.bias = self.blocks.texts(condition), condition.bias

    def __call__(self, x: Tensor, k: int, halves: int = 1) -> Tensor:
        """Predict at timestep number k.

        Args:
            x: Noisy latents (b, f, c, h, w).
            k: Number of the timestep.
            halves: How often the latents are taken, one after the other, for the first halves * b of the condition's
                videos; 2 for guidance.

        Returns:
            The output (halves * b, f, channels, h, w).
        """
        network, count = self.network, halves * x.shape[0]
        first = partial(first_rows, count=count)
        tokens = None if self.tokens is None else first(self.tokens[k])
        condition = Condition(first(self.embedded[k]), first(self.final[k]), tokens)
        if tokens is not None and halves > 1:
            x, halves = x.repeat(halves, 1, 1, 1, 1), 1
        embedded = self.embed(x, tokens)
        positions = self.frame_positions
        compute = lambda: self.blocks.run(embedded, self.prepared(k, count), self.cache, positions, halves)
        out = compute() if self.cache is None else self.reuse_or(compute, k, embedded, halves, condition, self.cache)
        return network.predict(out, condition, x.shape[3] // network.patch_size)

    def prepared(self, k: int, count: int) -> Prepared:
        """What the blocks need at timestep k, for the first `count` videos."""
        first = partial(first_rows, count=count)
        if self.tables is None:
            modulations = self.blocks.modulations(first(self.embedded[k]))
        else:
            modulations = [[[at_timestep(z, k, count) for z in norm] for norm in block] for block in self.tables]
        texts = [None if text is None else (first(text[0]), first(text[1])) for text in self.texts]
        return Prepared(modulations, texts, None if self.bias is None else first(self.bias))

    def reuse_or(
        self, compute: Callable[[], Tensor], k: int, x: Tensor, halves: int, condition: Condition, cache: LayerCache
    ) -> Tensor:
        """Tokens (halves * b, f, s, d), of x (b, f, s, d), through the blocks; or with what these added before."""
        cache.begin(k)
        repeated = lambda: x.repeat(halves, 1, 1, 1)
        cache.look(lambda: first_modulated(self.network, repeated(), condition))
        added = cache.reused("network", 0, halves * x.shape[0])
        if added is not None:
            return repeated().add_(added)
        if not cache.keeps("network", 0):
            return compute()
        before = repeated()
        slot = cache.slot("network", 0, before)
        out = compute()
        torch.sub(out, before, out=slot)
        return out

    def embed(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        """As Denoiser.embed; positions are computed in the first call."""
        network, p = self.network, self.network.patch_size
        h, w = (side // p for side in x.shape[3:])
        x = network.patch_embed(patchify(x, p, network.tubelet).to(network.patch_embed.weight.dtype))
        if self.patch_positions is None:
            self.patch_positions = network.spatial_position(x, h, w).to(x.dtype)
            self.frame_positions = network.add_temporal_position(x.new_zeros(1, x.shape[1], 1, x.shape[3]))
        x.add_(self.patch_positions)
        return x if tokens is None else torch.cat([tokens.expand(-1, x.shape[1], -1, -1), x], 2)


def first_rows(z: Tensor, count: int) -> Tensor:
    """The rows of the first videos; a single row belongs to all."""
    return z if z.shape[0] == 1 else z[:count]


def at_timestep(table: Any, k: int, count: int) -> Any:
    """The row of a table of modulations for timestep k and the first videos: (d,) if all tokens have the same one."""
    if isinstance(table, float) or table.ndim == 1:
        return table
    row = first_rows(table[k], count)
    return row.view(-1) if row.shape[0] == row.shape[1] == 1 else row


def has_fast_form(network: nn.Module) -> bool:
    """Whether a network is one of ours as it is: no hooks, no layers of other kinds, no methods that were replaced."""
    if not isinstance(network, Denoiser) or network.training:
        return False
    for module in network.modules():
        hooked = module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None
        replaced = (name for name in vars(module) if name != "attend" and callable(getattr(type(module), name, None)))
        if hooked or any(replaced):
            return False
    ours = (Block, AxialAttention, SplitAttention, CrossAttention, FeedForward, nn.Linear, nn.ModuleList)
    own = (
        part for block in network.blocks for name, part in block.named_modules() if not name.startswith("modulation")
    )
    return all(type(part) in ours for part in own)


@contextmanager
def fast(network: Denoiser) -> Iterator[None]:
    """Inside it, the network computes its blocks by their fast forms, in inference.

    Args:
        network: The denoiser. Its weights and its state_dict do not change.
    """
    vars(network)["through_blocks"] = FastBlocks(network)
    try:
        yield
    finally:
        del vars(network)["through_blocks"]
