"""Token routing in training (TREAD: Krause et al. 2025, arXiv 2501.04765): some tokens skip some of the blocks.

A random share of the tokens leaves before a block and joins the others again after a later one, as it was. So the
blocks between are trained on fewer tokens, which saves their time, and no token is lost. Sampling uses all tokens.

In a video, the tokens of the same places leave in every frame of a clip and of its still images. What is left is then
a grid of frames and places: both attentions stay as they are, temporal attention sees every frame of a place, and a
place that skips the blocks cannot be guessed from its neighbours in time. The tokens of the condition always stay.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.models.denoiser import Condition, Denoiser
from latte.parallel.sequence import temporal_runs
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.objectives.recorded_blocks import attached


def route(config: LatentTrainConfig, denoiser: Denoiser) -> range:
    """The numbers of the blocks that tokens skip.

    Args:
        config: The settings, of which route_start and route_end are used.
        denoiser: The network.

    Raises:
        ValueError: There are none, or several processes share the work between two of them.
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
        Their numbers in ascending order (slots, n), on the CPU.

    Raises:
        ValueError: The share is less than half a token, or leaves none.
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
    """Inside it, only the tokens of some places pass some of a denoiser's blocks.

    Args:
        denoiser: The denoiser.
        skipped: The numbers of these blocks.
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
            x = denoiser.add_temporal_position(x)  # the others got theirs on the way
        x = x.to(part.dtype).scatter(2, index, part)
        return plain(x, condition, temporal, range(skipped.stop, len(denoiser.blocks)))

    with attached(denoiser, through_blocks):
        yield
