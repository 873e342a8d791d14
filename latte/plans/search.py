"""Choose which evaluations to compute, given the error of each gap between two of them (LeMiCa: Gao et al. 2025).

Evaluations are nodes, and an edge from i to j computes i and reuses it up to j - 1. A plan is a path from the first
evaluation to the end.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

Edges = Mapping[tuple[int, int], float]


def best_path(errors: Edges, costs: Sequence[int], budget: int) -> list[int]:
    """Choose evaluations within a budget so that the error of the worst gap is minimal.

    Among paths with the same worst gap the second worst decides, and so on: the gaps, sorted from the worst, are
    compared lexicographically. The two parts of a path can be optimised separately, so it suffices to keep the best
    path to every node at every cost.

    Args:
        errors: The error of each edge (i, j) with j > i. An edge that is missing cannot be taken, except (i, i + 1),
            which reuses nothing and has no error.
        costs: The cost of computing each evaluation, integers of 1 or more.
        budget: The maximum total cost of the computed evaluations.

    Returns:
        The indices of the computed evaluations, in order; the first is 0.

    Raises:
        ValueError: No path is within the budget.
    """
    end = len(costs)
    best: list[dict[int, tuple[tuple[float, ...], list[int]]]] = [{} for _ in range(end + 1)]
    best[0][0] = ((), [])
    into: dict[int, list[tuple[int, float]]] = {j: [(j - 1, 0.0)] for j in range(1, end + 1)}
    for (i, j), error in errors.items():
        if j > i + 1:
            into[j].append((i, error))
    for j in range(1, end + 1):
        for i, error in into[j]:
            for spent, (gaps, path) in best[i].items():
                cost = spent + costs[i]
                if cost > budget:
                    continue
                longer = tuple(sorted((*gaps, error), reverse=True)) if error else gaps
                if cost not in best[j] or longer < best[j][cost][0]:
                    best[j][cost] = (longer, [*path, i])
    if not best[end]:
        raise ValueError(f"no plan costs {budget} or less of {sum(costs)}: allow longer gaps or a larger budget")
    return min(best[end].values())[1]


def between(samples: Mapping[tuple[int, int], float], end: int) -> dict[tuple[int, int], float]:
    """Interpolate the errors of all gaps from measured ones, linearly in the first evaluation and in the length.

    Args:
        samples: Measured errors by edge.
        end: Number of evaluations.

    Returns:
        The errors of all edges up to the longest measured length.
    """
    lengths = sorted({j - i for i, j in samples})
    found: dict[tuple[int, int], float] = {}
    for length in lengths:
        known = sorted((i, error) for (i, j), error in samples.items() if j - i == length)
        for i in range(end - length + 1):
            found[i, i + length] = linear(known, i)
    for short, long in zip([1, *lengths], lengths):
        for length in range(short + 1, long):
            share = (length - short) / (long - short)
            for i in range(end - length + 1):
                low = found.get((i, i + short), 0.0)
                high = found.get((i, i + long), found.get((end - long, end), low))
                found[i, i + length] = low + share * (high - low)
    return found


def linear(known: Sequence[tuple[float, float]], at: float) -> float:
    """Interpolate linearly between known points, sorted by position; outside them, take the nearest value."""
    for (a, low), (b, high) in pairwise(known):
        if a <= at <= b:
            return low + (high - low) * (at - a) / (b - a)
    return known[0][1] if at < known[0][0] else known[-1][1]
