"""Rules that make plans: each takes a plan, for instance the exact one, and returns one that reuses more.

They can be passed to LattePipeline.enable_plan: pipe.enable_plan(lambda plan: repeat(plan, 17)). Pyramid Attention
Broadcast is another such rule (latte.pab).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from latte.plans.records import Plan, Reuse, Threshold

LATTE_POLYNOMIAL = (-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402)  # TeaCache's, for Latte-1
FASTER_CACHE = {"attention": 16, "guidance": 18, "every": 5, "highs": 45}  # of 50 evaluations, counted from 1


def evenly(count: int, total: int) -> list[int]:
    """Choose `count` of `total` evaluations as evenly as possible: the first and, if count > 1, the last among them."""
    if not 1 <= count <= total:
        raise ValueError(f"the number of computed evaluations is {count}; it must be from 1 to {total}")
    if count == 1:
        return [0]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


def extrapolation(nodes: Sequence[float], at: float, order: int, share: float = 1.0) -> tuple[float, ...]:
    """Weights of earlier outputs in a Taylor expansion around the newest (TaylorSeer: Liu et al. 2025, arXiv
    2503.06923, eq. 7, for unevenly spaced nodes).

    Args:
        nodes: The positions of the earlier outputs, newest first.
        at: The position of the wanted output.
        order: The highest derivative; lower if there are too few nodes.
        share: A factor on all derivatives. D2Cache scales its correction by a ratio of errors; in a plan it is a
            constant, known in advance.

    Returns:
        One weight for each node that is used, newest first.
    """
    order = min(order, len(nodes) - 1)
    unit = lambda i: [float(i == j) for j in range(order + 1)]
    level = [unit(i) for i in range(order + 1)]  # each node's derivative as weights of outputs, order by order
    total, factor = level[0], 1.0
    for derivative in range(1, order + 1):
        differences = [[a - b for a, b in zip(level[i], level[i + 1])] for i in range(len(level) - 1)]
        level = [[value / (nodes[i] - nodes[i + 1]) for value in differences[i]] for i in range(len(differences))]
        factor *= (at - nodes[0]) / derivative
        total = [a + share * factor * b for a, b in zip(total, level[0])]
    return tuple(total)


def repeat(
    plan: Plan, computed: int | Collection[int], kind: str = "network", order: int = 0, share: float = 1.0
) -> Plan:
    """Compute some evaluations, and form the outputs of the others from earlier ones (LeMiCa: Gao et al. 2025).

    Args:
        plan: The plan.
        computed: How many evaluations to compute, evenly spread, or their indices; the first is always computed.
        kind: What is reused: "network", "clean", "block" or a kind of layer.
        order: 0 repeats the last output; 1 or 2 extrapolates it over the timesteps.
        share: See extrapolation.

    Returns:
        The plan with that reuse.
    """
    chosen = {0, *(evenly(computed, len(plan)) if isinstance(computed, int) else computed)}
    if wrong := [k for k in chosen if not 0 <= k < len(plan)]:
        raise ValueError(f"there is no evaluation {wrong[0]} to compute: the plan has {len(plan)}, counted from 0")
    nodes: list[float] = []
    found = []
    for k, evaluation in enumerate(plan.evaluations):
        if k in chosen:
            nodes.insert(0, evaluation.timestep)
        else:
            weights = extrapolation(distinct(nodes), evaluation.timestep, order, share)
            evaluation = evaluation.reusing(**{kind: Reuse(weights)})
        found.append(evaluation)
    return replace(plan, evaluations=tuple(found))


def distinct(nodes: Sequence[float]) -> list[float]:
    """The nodes before the first repeated one: a sampler may evaluate the same timestep twice."""
    count = next((i for i in range(1, len(nodes)) if nodes[i] == nodes[i - 1]), len(nodes))
    return list(nodes[:count])


def repeat_blocks(plan: Plan, window: tuple[float, float], every: int, blocks: Collection[int] | None = None) -> Plan:
    """Reuse what blocks add to their tokens inside a window of timesteps, where it changes least (BWCache: Cui et al.
    2025, arXiv 2509.13789, with its reuse period but without its data-dependent test).

    Args:
        plan: The plan.
        window: Timesteps (low, high); outside of low < t < high every block computes.
        every: Inside the window, blocks compute once in this many evaluations.
        blocks: Indices of the blocks to reuse. None means all.
    """
    places, found, inside = None if blocks is None else frozenset(blocks), [], 0
    for k, evaluation in enumerate(plan.evaluations):
        inside = inside + 1 if window[0] < evaluation.timestep < window[1] else 0
        reuses = k > 0 and inside > 0 and (inside - 1) % every
        found.append(evaluation.reusing(block=Reuse(places=places)) if reuses else evaluation)
    return replace(plan, evaluations=tuple(found))


def gate_guidance(plan: Plan, after: int) -> Plan:
    """From evaluation `after` on, compute only the conditional half, and guide with the last difference of both."""
    found, seen = [], False
    for k, evaluation in enumerate(plan.evaluations):
        both = evaluation.branch == "both"
        found.append(replace(evaluation, branch="difference") if both and seen and k >= after else evaluation)
        seen = seen or (both and "clean" not in evaluation.reuse)
    return replace(plan, evaluations=tuple(found))


def faster_cache(plan: Plan, scale: float = 1.1) -> Plan:
    """FasterCache as its authors run it on Latte (Lv et al. 2024, arXiv 2410.19355), for any number of evaluations.

    In every other evaluation, both attentions are extrapolated by half their last change. In every fifth, the
    unconditional half is computed; in the others it is formed from the conditional half and the last difference, whose
    low frequencies (later, its high ones) are scaled up by `scale` from one evaluation to the next. The numbers are
    FASTER_CACHE's, scaled to the plan's length.
    """
    stretched = {name: round(value * len(plan) / 50) for name, value in FASTER_CACHE.items() if name != "every"}
    found, seen, low, high = [], False, 1.0, 1.0
    for n, evaluation in enumerate(plan.evaluations, 1):
        if n >= stretched["attention"] and n % 2 == 0:
            reuse = Reuse((1.5, -0.5))
            evaluation = evaluation.reusing(spatial=reuse, temporal=reuse)
        if evaluation.branch == "both":
            if seen and n >= stretched["guidance"] and n % FASTER_CACHE["every"]:
                low, high = (low * scale, high) if n < stretched["highs"] else (low, high * scale)
                evaluation = replace(evaluation, branch="difference", bands=(low, high))
            else:
                seen, low, high = True, 1.0, 1.0
        found.append(evaluation)
    return replace(plan, evaluations=tuple(found))


def tea_cache(plan: Plan, limit: float = 0.1, polynomial: Sequence[float] = LATTE_POLYNOMIAL) -> Plan:
    """TeaCache (Liu et al. 2024, arXiv 2411.19108): repeat the network's last output while its input changes little.

    Unlike the other rules, it depends on the data. So it waits for the GPU once per evaluation, and what it saves is
    not known in advance. The first and the last evaluation always compute.

    Args:
        plan: The plan.
        limit: The limit of the summed change: 0.1 is the authors' slow setting for Latte, 0.2 their fast one.
        polynomial: Coefficients, highest power first, of the polynomial that maps the relative change of the first
            modulated tokens to that of the output.
    """
    reuse = Reuse(threshold=Threshold(limit, tuple(polynomial)))
    inner = [evaluation.reusing(network=reuse) for evaluation in plan.evaluations[1:-1]]
    return replace(plan, evaluations=(*plan.evaluations[:1], *inner, *plan.evaluations[1:][-1:]))
