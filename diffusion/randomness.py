"""Randomness as a function: what is drawn depends on (seed, path) alone, never on what was drawn before.

A path names a place: a sample and a step, or a step and a slot of its batch. So video i is the same at any batch
size, and a run that was stopped and resumed, or spread over other workers, sees the same numbers.
"""

import numpy as np
import torch
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
