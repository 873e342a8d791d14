"""A sampling run with the fast blocks: its timesteps are known, so what depends only on them is computed once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latte.fast.blocks import Exchange
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
        exchange: If processes share the frames, how they exchange tokens. The latents of a call are then those of this
            process's frames.
    """

    def __init__(
        self, network: Denoiser, condition: Condition, timesteps: int, cache: LayerCache | None = None,
        exchange: Exchange | None = None,
    ):  # fmt: skip
        self.network, self.blocks, self.cache = network, FastBlocks(network, exchange), cache
        by_time = lambda z: z.unflatten(0, (timesteps, -1))
        self.embedded, self.final = by_time(condition.blocks), by_time(condition.final)
        self.tokens = None if condition.tokens is None else by_time(condition.tokens)
        self.texts, self.bias = self.blocks.texts(condition), condition.bias
        self.patch_positions: Tensor | None = None  # (s, d); known from the first call on
        self.frame_positions: Tensor | None = None  # (1, f, 1, d); None also if processes share the frames
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

    def __call__(self, x: Tensor, k: int, halves: int = 1, videos: slice | None = None) -> Tensor:
        """Predict at the timestep with index k.

        Args:
            x: Noisy latents (b, f, c, h, w).
            k: Index of the timestep.
            halves: How often the latents are repeated; 2 for guidance.
            videos: The videos of the condition, halves * b; None means the first ones.

        Returns:
            The output (halves * b, f, channels, h, w).
        """
        network = self.network
        videos = slice(halves * x.shape[0]) if videos is None else videos
        chosen = partial(rows_of, videos=videos)
        tokens = None if self.tokens is None else chosen(self.tokens[k])
        condition = Condition(chosen(self.embedded[k]), chosen(self.final[k]), tokens)
        if tokens is not None and halves > 1:
            x, halves = x.repeat(halves, 1, 1, 1, 1), 1
        embedded = self.embed(x, tokens)
        positions = self.frame_positions
        compute = lambda: self.blocks.run(embedded, self.prepared(k, videos), self.cache, positions, halves)
        out = compute() if self.cache is None else self.reuse_or(compute, k, embedded, halves, condition, self.cache)
        return network.predict(out, condition, x.shape[3] // network.patch_size)

    def prepared(self, k: int, videos: slice) -> Prepared:
        """What the blocks need at timestep k, for some videos."""
        chosen = partial(rows_of, videos=videos)
        if self.tables is None:
            modulations = self.blocks.modulations(chosen(self.embedded[k]))
        else:
            modulations = [[[at_timestep(z, k, videos) for z in norm] for norm in block] for block in self.tables]
        texts = [None if text is None else (chosen(text[0]), chosen(text[1])) for text in self.texts]
        return Prepared(modulations, texts, None if self.bias is None else chosen(self.bias))

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
            if self.blocks.exchange is None:
                self.frame_positions = network.add_temporal_position(x.new_zeros(1, x.shape[1], 1, x.shape[3]))
        x.add_(self.patch_positions)
        return x if tokens is None else torch.cat([tokens.expand(-1, x.shape[1], -1, -1), x], 2)


def rows_of(z: Tensor, videos: slice) -> Tensor:
    """The rows of some videos; a single row belongs to all."""
    return z if z.shape[0] == 1 else z[videos]


def at_timestep(table: Any, k: int, videos: slice) -> Any:
    """The rows of a table of modulations for timestep k and some videos: (d,) if all tokens have the same one."""
    if isinstance(table, float) or table.ndim == 1:
        return table
    row = rows_of(table[k], videos)
    return row.view(-1) if row.shape[0] == row.shape[1] == 1 else row
