"""How far a Fréchet distance can be trusted: its value for endlessly many clips, an interval, and the floor.

A distance of n clips is too large by about c / n, and c depends on the model: two models cannot be ranked by their
distances at equal n alone (Chong & Forsyth 2020, arXiv 1911.07023). So the distance is taken of shares of the clips
and followed to 1 / share = 0. A bootstrap would not do for the interval: clips drawn twice make the bias larger, and
all of the interval may lie above the truth. Here whole groups of clips are left out in turn (the delete-a-group
jackknife), which draws none twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.frechet import Moments, distance

SHARES = (0.25, 0.375, 0.5, 0.75, 1.0)  # of the clips, by which the distance is followed; of each, 1 / share subsets
GROUPS = 10  # of clips, of which one is left out
FLOORS = GROUPS  # choices of real clips
LEAST = 4 * GROUPS  # clips that a side must have
LEAST_REAL = 4  # of which halves can be compared
# 97.5 % points of Student's distribution, by degrees of freedom from 1 on
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.95996


def student_95(freedom: int) -> float:
    """Half the width of a two-sided 95 % interval, in standard errors that have these degrees of freedom.

    Beyond the table by Cornish and Fisher's expansion, which is right to 0.1 % there.
    """
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, error: float) -> "Estimate":
        """Of a value with this standard error, itself estimated from GROUPS numbers."""
        return cls(value, *(value + side * student_95(GROUPS - 1) * error for side in (-1, 1)))


class Subsets:
    """Features (n, d) in orders that stay: a subset is the first of one, and a clip less changes one clip."""

    def __init__(self, features: Tensor, unbiased: bool, seed: int, side: int):
        n = len(features)
        if n < LEAST:
            raise ValueError(f"{n} clips are too few to say how sure a distance is: {LEAST} or more are needed")
        self.features, self.unbiased = features.double(), unbiased
        repeats = max(round(1 / share) for share in SHARES)
        self.orders = [torch.randperm(n, generator=generator(seed, side, i)) for i in range(repeats)]
        self.group = torch.randperm(n, generator=generator(seed, side, repeats)) % GROUPS

    def subset(self, order: int, share: float, without: int | None) -> Moments:
        """Moments of a share of the clips that are left without a group."""
        rows = self.orders[order]
        if without is not None:
            rows = rows[self.group[rows] != without]
        return Moments.of(self.features[rows[: round(share * len(rows))]], self.unbiased)


class Fixed:
    """Moments that are given, of which no part can be taken."""

    def __init__(self, moments: Moments):
        self.moments = moments

    def subset(self, order: int, share: float, without: int | None) -> Moments:
        return self.moments


def intercept(shares: Sequence[float], values: Sequence[float]) -> float:
    """Where a straight line through the values over 1 / share meets 0; each value weighs as much as its share."""
    x, y, w = 1 / np.array(shares), np.array(values), np.array(shares)
    x0, y0 = (w @ x) / w.sum(), (w @ y) / w.sum()
    return float(y0 - x0 * (w * (x - x0)) @ (y - y0) / ((w * (x - x0)) @ (x - x0)))


def followed(a: Subsets | Fixed, b: Subsets | Fixed, without: int | None = None) -> float:
    """The distance for endlessly many clips, by subsets of both sides."""
    points = [(share, i) for share in SHARES for i in range(round(1 / share))]
    values = [distance(a.subset(i, share, without), b.subset(i, share, without)) for share, i in points]
    return intercept([share for share, _ in points], values)


def at_infinity(a: Tensor | Moments, b: Tensor | Moments, unbiased: bool = False, seed: int = 0) -> Estimate:
    """The distance of endlessly many clips, out of features (n, d) of each side, with its 95 % interval.

    Moments in place of features stay as they are: neither their bias nor their share of the doubt is in the result.
    ValueError: fewer than LEAST features.
    """
    sides = [
        Fixed(side) if isinstance(side, Moments) else Subsets(side, unbiased, seed, i) for i, side in enumerate((a, b))
    ]
    left = np.array([followed(*sides, without=group) for group in range(GROUPS)])
    error = float(np.sqrt((GROUPS - 1) / GROUPS * ((left - left.mean()) ** 2).sum()))
    return Estimate.around(followed(*sides), error)


def floor(real: Tensor, count: int, unbiased: bool = False, seed: int = 0) -> Estimate:
    """What `count` clips of a perfect model would score against real ones, by their features (n, d).

    The distance of some real clips from as many others, `half` at most, over FLOORS random choices; scaled, as its
    bias falls with their numbers, to n real and `count` other clips. ValueError: fewer than LEAST_REAL real clips, or
    than two others.
    """
    if len(real) < LEAST_REAL:
        raise ValueError(f"{len(real)} real clips are too few to compare some with others")
    half = min(count, len(real) // 2)
    values = []
    for i in range(FLOORS):
        order = torch.randperm(len(real), generator=generator(seed, 2, i))
        parts = real[order[:half]], real[order[half : 2 * half]]
        values.append(distance(*(Moments.of(part, unbiased) for part in parts)))
    values = np.array(values) * half * (1 / len(real) + 1 / count) / 2
    estimate = Estimate.around(float(values.mean()), float(values.std(ddof=1)))
    return replace(estimate, low=max(estimate.low, 0.0))  # no distance is less
