"""Quality and variety, separately: precision and recall, density and coverage of two sets of features.

A Fréchet distance does not say whether generated clips are bad or all alike; these scores do. Around each feature lies
a ball that reaches to its k-th nearest neighbour in its own set. The balls of a set stand for the region it covers.

Precision and recall are Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 1 and 2; density and coverage are Naeem et al.
2020 (arXiv 2002.09797), which a single outlier among the real features does not inflate. Balls are closed, as in eq. 1.
Distances are computed in float64 from differences, block by block, so that equal distances come out equal.
"""

import torch
from torch import Tensor

BLOCK = 1024  # features at once: 8 MB of distances
NEIGHBOURS = 5  # as in Naeem et al.; Kynkäänniemi et al. take 3
MANIFOLD_SCORES = ("precision", "recall", "density", "coverage")


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m) between features (n, d) and (m, d), identical for identical pairs."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def radii(x: Tensor, neighbours: int, block: int) -> Tensor:
    """The distance of each feature (n, d) to its k-th nearest neighbour among the others: (n,)."""
    found = []
    for some in x.split(block):
        nearest = some.new_empty(len(some), 0)
        for others in x.split(block):
            near = torch.cat([nearest, distances(some, others)], 1)
            nearest = near.topk(min(neighbours + 1, near.shape[1]), largest=False).values  # one is itself, at 0
        found.append(nearest[:, neighbours])
    return torch.cat(found)


def manifold_scores(
    real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS, block: int = BLOCK
) -> dict[str, float]:
    """Improved precision and recall, density and coverage. They depend on the numbers of features.

    Args:
        real: Features (n, d).
        generated: Features (m, d).
        neighbours: k; a ball around a feature reaches to its k-th nearest neighbour in its own set.
        block: Features at once.

    Returns:
        `precision`: The fraction of generated features that lie in a ball of a real one, in [0, 1]: quality.
        `recall`: The fraction of real features that lie in a ball of a generated one, in [0, 1]: variety.
        `density`: The number of real balls that a generated feature lies in, divided by k; the mean over them. Above 1
            where generated features are crowded at the densest real ones.
        `coverage`: The fraction of real balls that a generated feature lies in, in [0, 1].

    Raises:
        ValueError: They are not two sets of one width, a set has k features or fewer or some that are not finite, or k
            is less than 1.
    """
    real, generated = (features.detach().cpu().double() for features in (real, generated))
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}; it must be 1 or more")
    shapes = f"{[*real.shape]} and {[*generated.shape]}"
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"expected features (n, d) and (m, d), not {shapes}")
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(f"{neighbours} nearest neighbours need more features than that on each side, not {shapes}")
    if not (real.isfinite().all() and generated.isfinite().all()):
        raise ValueError("some features are not finite: they have no nearest neighbours")
    around_real, around_generated = (radii(features, neighbours, block) for features in (real, generated))
    inside = torch.zeros(len(generated), dtype=torch.long)  # real balls that each generated feature lies in
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool)
    for rows in torch.arange(len(real)).split(block):
        for columns in torch.arange(len(generated)).split(block):
            apart = distances(real[rows], generated[columns])
            in_real = apart <= around_real[rows, None]
            inside[columns] += in_real.sum(0)
            covered[rows] |= in_real.any(1)
            recalled[rows] |= (apart <= around_generated[columns]).any(1)
    values = (inside > 0, recalled, inside / neighbours, covered)
    return {name: float(value.double().mean()) for name, value in zip(MANIFOLD_SCORES, values)}
