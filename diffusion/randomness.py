"""Randomness as a function: what is drawn depends on (seed, path) alone, never on what was drawn before.

A path names a place: a sample and a step, or a step and a slot of its batch. So video i is the same at any batch
size, and a run that was stopped and resumed, or spread over other workers, sees the same numbers.
"""

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from torch import Tensor


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator of its own for the place `path` (non-negative integers) under `seed`."""
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    low, high = np.random.SeedSequence(seed, spawn_key=path).generate_state(2, np.uint32).tolist()
    return torch.Generator().manual_seed(high << 32 | low)


def normal(shape: tuple[int, ...], seed: int, *path: int) -> Tensor:
    """Standard normal float32 noise for one place; drawn on the CPU, so that every device gets the same."""
    return torch.randn(shape, generator=generator(seed, *path))


def draws(
    count: int,
    shape: tuple[int, int, int, int],
    generator: torch.Generator | list[torch.Generator] | None,
    seed: int | None,
    latents: Tensor | None,
    first: int = 0,
) -> Callable[[int, slice], Tensor]:
    """Unit noise (b, f, c, h, w) of a step, -1 for what sampling begins with, and of some of the videos.

    On the CPU or the generator's device; a generator draws nothing in place of given latents. first: the number of the
    first video under a seed. ValueError: two sources of it, or latents or generators that do not fit.
    """
    if generator is not None and seed is not None:
        raise ValueError("give a generator or a seed, not both")
    if generator is not None and first:
        raise ValueError("first numbers the videos of a seed: it does nothing with a generator")
    order = "b c f h w -> b f c h w"
    drawn = (shape[1], shape[0], *shape[2:])  # diffusers' order: in float32 the same generator gives the same noise
    if latents is not None and latents.shape != (count, *drawn):
        raise ValueError(f"latents have shape {tuple(latents.shape)}; expected {(count, *drawn)}, (b, c, f, h, w)")
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(f"{len(generator)} generators for {count} videos: give one, or one each")
    one, begun = isinstance(generator, torch.Generator), latents
    if one and latents is None:
        begun = torch.randn((count, *drawn), generator=generator, device=generator.device)

    def draw(step: int, rows: slice) -> Tensor:
        if step == -1 and begun is not None:
            return rearrange(begun[rows].float(), order)
        numbers = range(count)[rows]
        if generator is None:
            return torch.stack([normal(shape, seed or 0, first + i, step + 1) for i in numbers])
        if one:
            parts = torch.randn((len(numbers), *drawn), generator=generator, device=generator.device)
        else:
            parts = torch.stack([torch.randn(drawn, generator=g, device=g.device) for g in generator[rows]])
        return rearrange(parts, order)

    return draw
