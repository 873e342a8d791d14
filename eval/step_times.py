"""The cost of a plan in seconds, from the measured time of each kind of evaluation."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from statistics import median

from latte.plans.cost import Cost
from latte.plans.records import Plan
from latte.plans.tracks import Tracks

LEAST = 3  # how often a kind of evaluation is timed, at least


class StepTimes:
    """How long a plan's evaluations take. Each kind is timed once, and then looked up.

    Attributes:
        table: The median seconds of each kind of evaluation.

    Args:
        cost: The network's cost, which knows its layers.
        seconds_of: Measures the seconds of each evaluation of a plan. It is called for plans with a kind of evaluation
            that is not in the table, until each kind was timed LEAST times.
    """

    def __init__(self, cost: Cost, seconds_of: Callable[[Plan], list[float]]):
        self.cost, self.seconds_of = cost, seconds_of
        self.table: dict[Hashable, float] = {}

    def of_plan(self, plan: Plan) -> list[float]:
        """The seconds of each evaluation of a plan, like Cost.of_plan."""
        kinds = evaluation_kinds(plan, self.cost)
        missing = set(kinds) - self.table.keys()
        samples: dict[Hashable, list[float]] = defaultdict(list)
        while any(len(samples[kind]) < LEAST for kind in missing):
            for kind, seconds in zip(kinds, self.seconds_of(plan)):
                samples[kind].append(seconds)
        self.table |= {kind: median(samples[kind]) for kind in missing}
        return [self.table[kind] for kind in kinds]


def evaluation_kinds(plan: Plan, cost: Cost) -> list[Hashable]:
    """A key for each evaluation of a plan: those that do the same work have the same key.

    It says which halves of guidance run, how many layers of each kind compute, are reused or are kept, and from how
    many outputs the plan forms the reused ones.
    """
    tracks, away = Tracks(plan, cost.holds), cost.weaker_at(plan)
    places = [("clean", 0), ("network", 0), *(("block", i) for i in range(len(cost.blocks))), *cost.layers]
    reuses = [reuse for evaluation in plan.evaluations for reuse in evaluation.reuse.values()]
    outputs = max((len(reuse.weights) for reuse in reuses), default=0)
    kinds: list[Hashable] = []
    for k, evaluation in enumerate(plan.evaluations):
        work: Counter[tuple[str, str]] = Counter()
        for place in places:
            track = tracks[place]
            work[place[0], "computed"] += track.computes(k)
            work[place[0], "reused"] += track.made[k] is not None
            work[place[0], "kept"] += track.kept[k]
        reused = any(count for (_, what), count in work.items() if what == "reused")
        kinds.append((evaluation.halves, k in away, frozenset(work.items()), outputs if reused else 0))
    return kinds
