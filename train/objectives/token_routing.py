"""Token routing in training (TREAD: Krause et al. 2025, arXiv 2501.04765): some tokens skip some of the blocks.

A random share of the tokens leaves before one block and rejoins the others, unchanged, after a later one. So the blocks
in between are trained on fewer tokens, which saves time, and no token is lost. Sampling uses all tokens.

In a video, the tokens at the same places leave in every frame of a clip and of its still images. The remaining tokens
are then a grid of frames and places: both attentions work as before, temporal attention sees every frame of a place,
and a place that skips the blocks cannot be guessed from its neighbours in time. Condition tokens always stay.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.models.denoiser import Condition, Denoiser
from latte.parallel.sequence import temporal_runs
from latte.replaced_methods import replaced_methods
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw


def route(config: LatentTrainConfig, denoiser: Denoiser) -> range:
    """The indices of the blocks that tokens skip.

    Args:
        config: The settings, of which route_start and route_end are used.
        denoiser: The network.

    Raises:
        ValueError: There are none, or the route divides a run of blocks that sequence_parallel must keep together.
    """
    kinds = [block.kinds for block in denoiser.blocks]
    skipped = range(len(kinds))[config.route_start : config.route_end]
    said = f"route_start {config.route_start} and route_end {config.route_end}"
    if not skipped:
        raise ValueError(f"{said} leave no block of {len(kinds)} for tokens to skip")
    inside = [run for run in temporal_runs(kinds) for edge in (skipped.start, skipped.stop) if edge in run[1:]]
    if inside and config.sequence_parallel > 1:
        run = f"blocks {inside[0].start} to {inside[0].stop - 1}"
        raise ValueError(f"{said} divide {run}, whose tokens sequence_parallel shares: let the route take all or none")
    return skipped


def staying(config: LatentTrainConfig, places: int, step: int, slots: range) -> Tensor:
    """Draw the places whose tokens stay, for each slot of a step.

    Args:
        config: The settings, of which route_share and seed are used.
        places: Tokens of a frame.
        step: The number of the step, from 0.
        slots: The slots.

    Returns:
        The indices of these places in ascending order (slots, n), on the CPU.

    Raises:
        ValueError: route_share rounds to none or all of the tokens.
    """
    count = places - round(config.route_share * places)
    if not 0 < count < places:
        raise ValueError(f"route_share is {config.route_share} of {places} tokens of a frame: that is none or all")
    drawn = [torch.randperm(places, generator=generator(config.seed, step, slot, Draw.ROUTE)) for slot in slots]
    return torch.stack([order[:count].sort().values for order in drawn])


def indices(x: Tensor, places: Tensor) -> Tensor:
    """The indices of tokens in x (b, f, s, d), at some places of each clip (b, n): (b, f, n, d)."""
    return places.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])


def gather_places(x: Tensor, places: Tensor) -> Tensor:
    """The tokens of x (b, f, s, d) at some places of each clip (b, n): (b, f, n, d)."""
    return x.gather(2, indices(x, places))


@contextmanager
def routed(denoiser: Denoiser, skipped: range, places: Tensor) -> Iterator[None]:
    """Within this context, only the tokens at some places go through some of a denoiser's blocks.

    Args:
        denoiser: The denoiser.
        skipped: The indices of these blocks.
        places: The places of each clip (b, n), on the CPU.
    """
    plain = denoiser.through_blocks

    def through_blocks(x: Tensor, condition: Condition, temporal: bool) -> Tensor:
        x = plain(x, condition, temporal, range(skipped.start))
        prefix = 0 if condition.tokens is None else condition.tokens.shape[2]
        ahead = torch.arange(prefix, device=places.device).expand(len(x), -1)
        index = indices(x, torch.cat([ahead, places + prefix], 1))
        part = plain(x.gather(2, index), condition, temporal, skipped)
        if temporal and denoiser.first_temporal in skipped:
            x = denoiser.add_temporal_position(x)  # those that went through the blocks got theirs there
        x = x.to(part.dtype).scatter(2, index, part)
        return plain(x, condition, temporal, range(skipped.stop, len(denoiser.blocks)))

    with replaced_methods([(denoiser, "through_blocks", through_blocks)]):
        yield
