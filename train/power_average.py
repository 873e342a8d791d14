"""Averages of the weights whose length can be chosen after training (EDM2: Karras et al. 2023, arXiv 2312.02696).

A power-function average gives the weights of step t, of T, a share proportional to t ** exponent (section 3.1). Its
length is the standard deviation of that profile, divided by T. A run keeps two such averages, of LENGTHS, and stores
snapshots of both (latte.train.snapshots). An average of another length is approximated by the weighted sum of snapshots
whose profile is closest in the least-squares sense (section 3.2 and appendix C).
"""

import math

import numpy as np
from torch import nn

from latte.train.step import move_towards

LENGTHS = (0.05, 0.10)  # of the averages that are kept, as in the paper
LONGEST = 0.288  # just below 1 / sqrt(12), the length of a uniform average


def exponent(length: float) -> float:
    """The exponent of an average of this length.

    It is the largest root of (e + 1) / ((e + 2)^2 (e + 3)) = length^2.

    Raises:
        ValueError: The length is not between 0 and LONGEST.
    """
    if not 0 < length <= LONGEST:
        raise ValueError(f"an average's length is a fraction of training, above 0 and up to {LONGEST}, not {length}")
    t = length**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def newest_weight(length: float, step: int) -> float:
    """The share of the newest weights in the average after a step, counted from 0.

    It is 1 - (1 - 1 / t) ** (exponent + 1) with t = step + 1: the first step replaces what the average held before.
    """
    return -math.expm1((exponent(length) + 1) * math.log1p(-1 / (step + 1))) if step else 1.0


def update_power_average(average: nn.Module, network: nn.Module, length: float, step: int) -> None:
    """Update a power-function average of the weights in place, after a step that is counted from 0."""
    move_towards(average, network, newest_weight(length, step))


Profiles = tuple[np.ndarray, np.ndarray]  # of averages: the steps that they were taken after (n,), exponents (n,)


def overlap(profiles: Profiles, others: Profiles) -> np.ndarray:
    """The integrals of the products of n profiles with m others, as an array (n, m).

    The profile after T steps is (e + 1) t^e / T^(e + 1), for t from 0 to T.
    """
    (t, e), (s, f) = (z[:, None] for z in profiles), others
    common = np.minimum(t, s)
    return (e + 1) * (f + 1) / (e + f + 1) * (common / t) ** e * (common / s) ** f / np.maximum(t, s)


def mixture(snapshots: list[tuple[int, float]], step: int, length: float) -> tuple[np.ndarray, float]:
    """The weighted sum of snapshots that comes closest to an average.

    Args:
        snapshots: The step after which each was taken, and its length.
        step: The step after which the average is wanted.
        length: The length of the average.

    Returns:
        The weight of each snapshot, and how far the sum's profile is from the wanted one: the norm of the difference,
        divided by the norm of the wanted profile.
    """
    stored: Profiles = np.array([float(taken) for taken, _ in snapshots]), np.array([exponent(z) for _, z in snapshots])
    wanted: Profiles = np.array([float(step)]), np.array([exponent(length)])
    products, target = overlap(stored, stored), overlap(stored, wanted)[:, 0]
    scale = np.diag(products) ** -0.5  # profiles of norm 1, so that all of them count equally
    weights = scale * np.linalg.lstsq(products * scale * scale[:, None], scale * target, rcond=1e-14)[0]
    norm = float(overlap(wanted, wanted)[0, 0])
    left = norm - 2 * weights @ target + weights @ products @ weights
    return weights, math.sqrt(max(0.0, left) / norm)
