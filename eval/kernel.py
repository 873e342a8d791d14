"""The kernel distance between two sets of features: the squared maximum mean discrepancy with a polynomial kernel.

On Inception features of images it is KID (Binkowski et al. 2018, arXiv 1801.01401), on I3D features of videos KVD: a
cubic kernel and the unbiased estimate, whose expectation does not depend on the number of clips, unlike a Fréchet
distance's. It is computed in float64, block by block.
"""

from typing import NamedTuple

from torch import Tensor

BLOCK = 1024  # rows of features at once: 8 MB of kernel values


class Discrepancy(NamedTuple):
    """An estimate, and its standard error by the jackknife over the clips of both sides; `float` is the estimate."""

    value: float
    error: float

    def __float__(self) -> float:
        return self.value


def kernel_sums(x: Tensor, y: Tensor, degree: int, offset: float, block: int) -> tuple[Tensor, Tensor]:
    """Sums of k(x_i, y_j) = (x_i . y_j / d + offset)^degree: over j for each i, and over i for each j."""
    rows, columns = x.new_zeros(len(x)), y.new_zeros(len(y))
    for some, row in zip(x.split(block), rows.split(block)):
        for others, column in zip(y.split(block), columns.split(block)):
            kernel = (some @ others.T / x.shape[1] + offset) ** degree
            row += kernel.sum(1)
            column += kernel.sum(0)
    return rows, columns


def mean_kernel(pairs: Tensor, same: Tensor, n: int, unbiased: bool) -> Tensor:
    """The mean over n clips, from the sums over pairs of different clips and of each clip with itself."""
    return pairs / (n * (n - 1)) if unbiased else (pairs + same) / n**2


def mmd2(
    x: Tensor, y: Tensor, degree: int = 3, offset: float = 1.0, unbiased: bool = True, block: int = BLOCK
) -> Discrepancy:
    """Squared maximum mean discrepancy, by default as in KID and KVD.

    Args:
        x: Features (n, d).
        y: Features (m, d).
        degree: Degree of the polynomial kernel.
        offset: Offset of the polynomial kernel.
        unbiased: Whether pairs of a clip with itself are left out (a U-statistic); then values below 0 occur.
        block: Rows of features at once.

    Returns:
        The value, and the standard error for newly drawn clips on both sides. Where both sides have the same
        distribution, the error is too large by a factor of 1.4 to 1.5.

    Raises:
        ValueError: They are not two sets of one width, have fewer than three clips, or are not finite.
    """
    x, y = (features.detach().cpu().double() for features in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise ValueError(f"expected features (n, d) and (m, d) of 3 clips or more, not {[*x.shape]} and {[*y.shape]}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("some features are not finite: they have no kernel distance")
    sides = []
    for own, cross in zip((x, y), kernel_sums(x, y, degree, offset, block)):
        same = (own.square().mean(1) + offset) ** degree
        sides.append((kernel_sums(own, own, degree, offset, block)[0] - same, same, cross))
    inner = [mean_kernel(pairs.sum(), same.sum(), len(pairs), unbiased) for pairs, same, _ in sides]
    total, variance = sides[0][2].sum(), 0.0
    for (pairs, same, cross), other, count in zip(sides, reversed(inner), (len(y), len(x))):
        left = len(pairs) - 1  # clips when one is left out, each in turn
        own = mean_kernel(pairs.sum() - 2 * pairs, same.sum() - same, left, unbiased)
        variance += left * (own + other - 2 * (total - cross) / (left * count)).var(correction=0)
    return Discrepancy((sum(inner) - 2 * total / (len(x) * len(y))).item(), variance.sqrt().item())
