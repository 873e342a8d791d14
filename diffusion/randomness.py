"""Randomness as a function: what is drawn depends on (seed, path) alone, never on what was drawn before.

A path names a sample and a step, or a step and a slot of its batch. So video i is the same at any batch size, and a run
draws the same numbers if it is stopped and resumed, or has a different number of workers.
"""

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

Noise = Callable[[int, Sequence[int]], Tensor]
START = -1  # the step of the noise that sampling starts from
DIFFUSERS_ORDER = "b c f h w -> b f c h w"  # from diffusers' axis order, in which generators draw, to ours


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator for one path (non-negative integers) under a seed.

    Raises:
        ValueError: The seed is negative, or not a whole number.
    """
    if not isinstance(seed, Integral):
        raise ValueError(f"seed is {seed!r}; it must be a whole number, 0 or more")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    low, high = np.random.SeedSequence(seed, spawn_key=path).generate_state(2, np.uint32).tolist()
    return torch.Generator().manual_seed(high << 32 | low)


def normal(shape: tuple[int, ...], seed: int, *path: int) -> Tensor:
    """Standard normal float32 noise for one path, drawn on the CPU, so that every device gets the same numbers."""
    return torch.randn(shape, generator=generator(seed, *path))


def noise_source(
    count: int,
    shape: tuple[int, int, int, int],
    random: torch.Generator | Sequence[torch.Generator] | None = None,
    seed: int | None = None,
    latents: Tensor | None = None,
    first: int = 0,
) -> Noise:
    """The noise source of a sampling run: a seed, torch generators, or given latents.

    Args:
        count: Number of videos.
        shape: Latents of one video, (f, c, h, w).
        random: One generator for all videos, or one per video; diffusers draws the same noise from the same generators.
            A single generator draws a step's noise for all videos at once, and the noise of other batches is kept.
        seed: Used instead of generators (default 0): video i gets the noise of (seed, first + i).
        latents: Initial latents (b, c, f, h, w); generators then draw only the noise of later steps.
        first: Number of the first video under the seed.

    Returns:
        noise(step, rows) -> (len(rows), f, c, h, w) for some of the videos, on the CPU or on the generator's device; a
        video that is named twice gets the same noise twice. The step START is the noise that sampling starts from.

    Raises:
        ValueError: Both a generator and a seed are given, or latents or generators do not fit.
    """
    if random is not None and seed is not None:
        raise ValueError("give a generator or a seed, not both")
    if random is not None and first:
        raise ValueError("first numbers the videos of a seed: it does nothing with a generator")
    drawn = (shape[1], shape[0], *shape[2:])
    if latents is not None:
        check_latents(latents, (count, *drawn))
    if random is not None and not isinstance(random, torch.Generator):
        if not isinstance(random, Sequence) or not all(isinstance(each, torch.Generator) for each in random):
            raise ValueError(f"generator is a {type(random).__name__}: expected a torch.Generator, or a list of them")
        if len(random) != count:
            raise ValueError(f"{len(random)} generators for {count} videos: give one, or one per video")
    of_all: dict[int, Tensor] = {}  # by step, a single generator's noise for all videos, kept until the last is served

    def noise(step: int, rows: Sequence[int]) -> Tensor:
        if step == START and latents is not None:
            return rearrange(latents[list(rows)].float(), DIFFUSERS_ORDER)
        if random is None:
            return torch.stack([normal(shape, seed or 0, first + i, step + 1) for i in rows])
        if isinstance(random, torch.Generator):
            if step not in of_all:
                of_all[step] = torch.randn((count, *drawn), generator=random, device=random.device)
            parts = of_all[step][list(rows)]
            if count - 1 in rows:
                del of_all[step]
        else:
            once = {i: torch.randn(drawn, generator=random[i], device=random[i].device) for i in dict.fromkeys(rows)}
            parts = torch.stack([once[i] for i in rows])
        return rearrange(parts, DIFFUSERS_ORDER)

    return noise


def check_latents(latents: Tensor, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless these are finite latents of a shape (b, c, f, h, w)."""
    if not isinstance(latents, Tensor) or latents.is_meta or latents.layout != torch.strided:
        kind = type(latents).__name__ if not isinstance(latents, Tensor) else "tensor without memory, or a sparse one"
        raise ValueError(f"latents are a {kind}: expected a dense torch.Tensor (b, c, f, h, w)")
    if latents.shape != expected:
        raise ValueError(f"latents have shape {tuple(latents.shape)}; expected {expected}, (b, c, f, h, w)")
    if not latents.isfinite().all():
        raise ValueError("latents contain NaN or infinite values; they must be finite")
