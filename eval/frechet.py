"""The Fréchet distance between two sets of features, in float64.

It is the squared 2-Wasserstein distance between the Gaussians with the sets' means and covariances: Heusel et al. 2017,
eq. 6 (FID); Unterthiner et al. 2018 (FVD).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of `count` features; float64."""

    mean: Tensor
    cov: Tensor
    count: int

    def __post_init__(self):
        d = len(self.mean) if self.mean.ndim == 1 else -1
        if self.cov.shape != (d, d):
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.cov.shape)}"
            raise ValueError(f"a mean (d,) and a covariance (d, d) are needed, not {shapes}")
        if not (self.mean.isfinite().all() and self.cov.isfinite().all()):
            raise ValueError("the mean or the covariance holds values that are not finite")

    @classmethod
    def of(cls, features: Tensor, unbiased: bool = False) -> "Moments":
        """Compute the moments of features.

        Args:
            features: (n, d).
            unbiased: Whether the covariance is divided by n - 1 instead of n.

        Raises:
            ValueError: There are fewer than two features, or values that are not finite.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"moments need two features (n, d) or more, not {tuple(features.shape)}")
        features = features.double()
        mean = features.mean(0)
        centred = features - mean
        return cls(mean, centred.T @ centred / (len(features) - unbiased), len(features))


def root(cov: Tensor) -> Tensor:
    """A with A A^T = cov, for a symmetric cov (d, d), singular or not; negative eigenvalues (rounding) count as 0."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return vectors * values.clamp(min=0).sqrt()


def distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The trace of that root is the sum of the singular values of A^T B, where S_a = A A^T and S_b = B B^T. So no root of
    an asymmetric matrix is taken, and singular covariances need no special treatment.

    Args:
        a: Moments of one set.
        b: Moments of the other.

    Raises:
        ValueError: Their features have different widths.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared")
    overlap = torch.linalg.svdvals(root(a.cov).T @ root(b.cov)).sum()
    value = float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * overlap)
    return max(value, 0.0)  # rounding may give a negative value
