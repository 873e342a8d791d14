"""A sampling run with the fast blocks: its timesteps are known, so what depends only on them is computed once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latte.fast.trunk import FastBlocks, Prepared
from latte.models.denoiser import Condition, Denoiser
from latte.plans.layer_cache import LayerCache
from latte.plans.readable import first_modulated

MOST_TABLED = 1 << 25  # values of modulations that are computed before a run, for all of its timesteps at once


class FastRun:
    """A denoiser for one condition, at timesteps known in advance: what does not depend on x is computed once.

    Args:
        network: The denoiser.
        condition: Its rows are those of all videos of the batch at the first timestep, then at the second, and so on.
            Rows that all videos share may appear once per timestep; text has one row per video.
        timesteps: The number of timesteps.
        cache: The cache of outputs for later evaluations.
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
        """Predict at the timestep with index k.

        Args:
            x: Noisy latents (b, f, c, h, w).
            k: Index of the timestep.
            halves: How often the latents are repeated, for the first halves * b videos of the condition; 2 for
                guidance.

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
        """Tokens x (b, f, s, d) after the blocks, (halves * b, f, s, d); or with the residual that these added
        before."""
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
        """Like Denoiser.embed; positions are computed in the first call."""
        network = self.network
        h, w = (side // network.patch_size for side in x.shape[3:])
        x = network.embed_patches(x)
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
