"""The ways to reuse that a calibration tries: what the evaluations that are not computed in full reuse instead."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from latte.plans.cost import Cost
from latte.plans.records import ATTENTION, Plan
from latte.plans.rules import repeat

USUAL = (("network",), ("clean",), ATTENTION)  # calibrated in every case
WHOLE = ("network", "clean")  # reused, they leave no layer to compute


@dataclass(frozen=True)
class Way:
    """What is reused, and how.

    Attributes:
        kinds: What the evaluations that are not computed reuse.
        order: See latte.plans.rules.repeat.
        within: Kinds of layers that every other computed evaluation reuses.
        places: With the kind "block", the blocks that are reused. None means all.
    """

    kinds: tuple[str, ...]
    order: int
    within: tuple[str, ...] = ()
    places: frozenset[int] | None = None

    def __str__(self) -> str:
        blocks = "" if self.places is None else f" {min(self.places)} to {max(self.places)}"
        inner = f", {' + '.join(self.within)} in every other computed step" if self.within else ""
        return f"{' + '.join(self.kinds)}{blocks}, order {self.order}{inner}"

    def plan(self, exact: Plan, computed: Sequence[int]) -> Plan:
        """The plan that computes some evaluations and reuses in the others."""
        made = self.repeated(exact, computed, self.kinds)
        if not self.within:
            return made
        inner = self.repeated(exact, sorted({0, *computed})[::2], self.within)
        chosen = (outer if outer.reuse else own for outer, own in zip(made.evaluations, inner.evaluations))
        return replace(made, evaluations=tuple(chosen))

    def repeated(self, plan: Plan, computed: Sequence[int], kinds: Sequence[str]) -> Plan:
        """The plan with some kinds reused in all evaluations but the computed ones."""
        for kind in kinds:
            plan = repeat(plan, computed, kind, self.order)
        if self.places is None or "block" not in kinds:
            return plan
        some = lambda reuse: {**reuse, "block": replace(reuse["block"], places=self.places)} if reuse else reuse
        return replace(plan, evaluations=tuple(replace(each, reuse=some(each.reuse)) for each in plan.evaluations))

    def usable(self, cost: Cost) -> bool:
        """Whether a model has what is reused; a kind that it lacks would change nothing."""
        there = {"block", *WHOLE, *(kind for kind, _ in cost.layers)}
        return bool(there & set(self.kinds)) and (not self.within or bool(there & set(self.within)))

    def computed_share(self, cost: Cost) -> float:
        """How much of the network a computed evaluation computes, on average."""
        inner = sum(flops for (kind, _), flops in cost.layers.items() if kind in self.within)
        return 1 - inner / cost.total / 2


def ways_of(cost: Cost) -> list[Way]:
    """The ways to reuse one kind, or kinds together, in a model with this cost.

    Reusing all blocks is the same as reusing the network, so the first and the last block compute.
    """
    ways = [Way(kinds, order) for kinds in USUAL for order in (0, 1, 2)]
    ways += [Way(kinds, order) for kinds in (("mlp",), (*ATTENTION, "mlp")) for order in (0, 1)]
    inner = frozenset(range(1, len(cost.blocks) - 1))
    ways += [Way(("block",), order, places=inner) for order in (0, 1)] if inner else []
    return [way for way in ways if way.usable(cost)]


def mixes_of(way: Way, cost: Cost) -> list[Way]:
    """A way that leaves no layer to compute, mixed with reuse of layers in every other computed evaluation."""
    inner = (ATTENTION, ("mlp",), (*ATTENTION, "mlp"))
    return [mix for within in inner if (mix := replace(way, within=within)).usable(cost)]
