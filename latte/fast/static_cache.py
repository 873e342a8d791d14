"""The layer cache of a plan in memory that never moves, so that a CUDA graph can hold it."""

from collections.abc import Hashable, Sequence

from torch import Tensor

from latte.fast.layer_cache import LayerCache
from latte.plans.plan import Plan

Place = tuple[str, int]  # kind of layer, and number among the layers of its kind


class StaticCache(LayerCache):
    """A LayerCache whose outputs lie in fixed slots: which slot each evaluation fills and reads follows from the plan.

    Args:
        plan: See LayerCache.
        places: All layers, and all blocks, that a plan may speak of.
        after_gate: See LayerCache.

    Raises:
        ValueError: Both halves of guidance would reuse what was computed for the conditional half alone.
    """

    def __init__(self, plan: Plan, places: Sequence[Place], after_gate: bool = False):
        super().__init__(plan, after_gate)
        self.moved = 0  # how often a slot was replaced, after which an older graph writes to one that nobody reads
        self.memory: dict[tuple[str, int, int], Tensor] = {}
        self.filled: list[dict[Place, int]] = []  # for each evaluation, by place, the slot that it fills
        self.read: list[dict[Place, tuple[int, ...]]] = []  # and the slots that it reads, the newest first
        self.depths = {place: self.most_reused(*place) for place in places}
        kept: dict[Place, list[int]] = {place: [] for place in places}
        for k, evaluation in enumerate(plan.evaluations):
            filled, read = {}, {}
            for place in places:
                if evaluation.reused(*place) is not None:
                    self.check_halves(k, place)
                    read[place] = tuple(kept[place])
                elif plan.keeps(k, *place):
                    depth = self.depths[place]
                    free = next(i for i in range(depth) if i not in kept[place][: depth - 1])
                    filled[place] = free
                    kept[place] = [free, *kept[place]][:depth]
            self.filled.append(filled)
            self.read.append(read)

    def most_reused(self, kind: str, place: int) -> int:
        """How many outputs of a layer the plan ever needs at once; 0 if none."""
        asked = (evaluation.reused(kind, place) for evaluation in self.plan.evaluations)
        return max((len(reuse.weights) for reuse in asked if reuse is not None), default=0)

    def check_halves(self, k: int, place: Place) -> None:
        """Raise ValueError if evaluation k needs both halves of an output that was last computed for one."""
        if self.plan[k].branch != "both":
            return
        for earlier in range(k - 1, -1, -1):
            if self.plan[earlier].reused(*place) is None and self.plan.keeps(earlier, *place):
                if self.plan[earlier].branch != "both":
                    raise ValueError(f"evaluation {k} reuses a {place[0]} layer for both halves of guidance, of one")
                return

    def kind(self, k: int) -> Hashable:
        """What decides which operations evaluation k consists of: equal for all that can share a graph."""
        evaluation = self.plan[k]
        weights = {place: evaluation.reused(*place).weights for place in self.read[k]}
        return (evaluation.branch, *(tuple(sorted(z.items())) for z in (self.filled[k], self.read[k], weights)))

    def reused(self, kind: str, place: int, rows: int) -> Tensor | None:
        slots = self.read[self.k].get((kind, place))
        if slots is None:
            return None
        kept = [self.memory[kind, place, slot][:rows] for slot in slots]
        weights = self.plan[self.k].reused(kind, place).weights
        if weights == (1.0,):
            return kept[0]
        return sum(weight * output for weight, output in zip(weights if len(kept) >= len(weights) else (1.0,), kept))

    def slot(self, kind: str, place: int, like: Tensor) -> Tensor | None:
        slot = self.filled[self.k].get((kind, place))
        if slot is None:
            return None
        before = self.memory.get((kind, place, slot))
        grows = before is not None
        if before is None or before.shape[0] < like.shape[0] or before.shape[1:] != like.shape[1:]:
            before = self.memory[kind, place, slot] = like.new_empty(like.shape)
            self.moved += grows
        return before[: like.shape[0]]
