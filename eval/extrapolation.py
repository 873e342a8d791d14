"""The uncertainty of a Fréchet distance: its extrapolation to infinite N, a 95 % interval, and the real-vs-real floor.

The distance of N clips is too large by about c / N, where c depends on the model, so two models cannot be ranked by
their distances at equal N alone (Chong & Forsyth 2020, arXiv 1911.07023). It is therefore computed on shares of the
clips and extrapolated to 1 / share = 0. A bootstrap would not give the interval: clips drawn twice increase the bias,
and the whole interval may lie above the truth. Instead, groups of clips are left out in turn (the delete-a-group
jackknife), which draws no clip twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.frechet import Moments, distance

SHARES = (0.25, 0.375, 0.5, 0.75, 1.0)  # of the clips; the distance is averaged over 1 / share subsets of each
GROUPS = 10  # of clips, for the jackknife
FLOORS = GROUPS  # random splits of the real clips
LEAST = 4 * GROUPS  # clips per side, for an interval
LEAST_REAL = 4  # clips, for two halves with a covariance each
ENOUGH = 3  # clips for each number of the features: with fewer, the bias does not fall as 1 / N yet
# 97.5 % points of Student's distribution, by degrees of freedom from 1 on
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.95996


def student_95(freedom: int) -> float:
    """Half the width of a two-sided 95 % interval, in standard errors with this many degrees of freedom.

    Beyond the table it uses Cornish and Fisher's expansion, which is accurate to 0.1 % there.
    """
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def clips_needed(width: int) -> int:
    """The fewest clips per side from which a distance between features of that width can be extrapolated."""
    return max(LEAST, ENOUGH * width)


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, error: float) -> "Estimate":
        """The interval around a value with this standard error, itself estimated from GROUPS numbers."""
        return cls(value, *(value + side * student_95(GROUPS - 1) * error for side in (-1, 1)))


class Subsets:
    """Features (n, d) in fixed random orders; a subset is the start of one, so leaving out a clip changes one clip."""

    def __init__(self, features: Tensor, unbiased: bool, seed: int, side: int):
        n = len(features)
        if n < LEAST:
            raise ValueError(f"{n} clips are too few for an interval: {LEAST} or more are needed")
        self.features, self.unbiased = features.double(), unbiased
        repeats = max(round(1 / share) for share in SHARES)
        self.orders = [torch.randperm(n, generator=generator(seed, side, i)) for i in range(repeats)]
        self.group = torch.randperm(n, generator=generator(seed, side, repeats)) % GROUPS

    def subset(self, order: int, share: float, without: int | None) -> Moments:
        """Moments of a share of the clips, after a group of them is left out."""
        rows = self.orders[order]
        if without is not None:
            rows = rows[self.group[rows] != without]
        return Moments.of(self.features[rows[: round(share * len(rows))]], self.unbiased)


class Fixed:
    """Given moments, which have no subsets."""

    def __init__(self, moments: Moments):
        self.moments = moments

    def subset(self, order: int, share: float, without: int | None) -> Moments:
        return self.moments


def intercept(shares: Sequence[float], values: Sequence[float]) -> float:
    """The value at 1 / share = 0 of a straight line through the values, weighted by their shares."""
    x, y, w = 1 / np.array(shares), np.array(values), np.array(shares)
    x0, y0 = (w @ x) / w.sum(), (w @ y) / w.sum()
    return float(y0 - x0 * (w * (x - x0)) @ (y - y0) / ((w * (x - x0)) @ (x - x0)))


def extrapolate(a: Subsets | Fixed, b: Subsets | Fixed, without: int | None = None) -> float:
    """The distance at infinite N, by subsets of both sides, after a group of clips is left out."""
    points = [(share, i) for share in SHARES for i in range(round(1 / share))]
    values = [distance(a.subset(i, share, without), b.subset(i, share, without)) for share, i in points]
    return intercept([share for share, _ in points], values)


def at_infinity(a: Tensor | Moments, b: Tensor | Moments, unbiased: bool = False, seed: int = 0) -> Estimate:
    """Extrapolate the Fréchet distance to infinite N.

    Args:
        a: Features (n, d) of one side. Moments are used as they are: their bias remains in the result, and the interval
            does not cover their uncertainty.
        b: Likewise, of the other side.
        unbiased: Whether covariances are divided by n - 1.
        seed: For the random subsets.

    Returns:
        The distance and its 95 % interval.

    Raises:
        ValueError: There are fewer than LEAST features.
    """
    sides = [
        Fixed(side) if isinstance(side, Moments) else Subsets(side, unbiased, seed, i) for i, side in enumerate((a, b))
    ]
    left = np.array([extrapolate(*sides, without=group) for group in range(GROUPS)])
    error = float(np.sqrt((GROUPS - 1) / GROUPS * ((left - left.mean()) ** 2).sum()))
    return Estimate.around(extrapolate(*sides), error)


def real_floor(real: Tensor, count: int, unbiased: bool = False, seed: int = 0) -> Estimate:
    """The real-vs-real floor: the distance that `count` clips of a perfect model would have from the real ones.

    It is measured between two disjoint random sets of real clips, of `count` or half of all, whichever is less, and
    averaged over FLOORS splits. It is then scaled to n real and `count` other clips, since the bias falls as 1 / N.

    Args:
        real: Features (n, d) of real clips.
        count: Clips of the perfect model, 2 or more.
        unbiased: Whether covariances are divided by n - 1.
        seed: For the random splits.

    Raises:
        ValueError: There are fewer than LEAST_REAL real clips, or fewer than two others.
    """
    if len(real) < LEAST_REAL:
        raise ValueError(f"{len(real)} real clips are too few for a real-vs-real floor: {LEAST_REAL} are needed")
    half = min(count, len(real) // 2)
    values = []
    for i in range(FLOORS):
        order = torch.randperm(len(real), generator=generator(seed, 2, i))
        parts = real[order[:half]], real[order[half : 2 * half]]
        values.append(distance(*(Moments.of(part, unbiased) for part in parts)))
    values = np.array(values) * half * (1 / len(real) + 1 / count) / 2
    estimate = Estimate.around(float(values.mean()), float(values.std(ddof=1)))
    return replace(estimate, low=max(estimate.low, 0.0))  # no distance is negative
