"""A plan's layer cache in memory that never moves, so that CUDA graphs can use it."""

from collections.abc import Hashable, Mapping, Sequence

from torch import Tensor

from latte.plans.layer_cache import LayerCache
from latte.plans.records import Plan
from latte.plans.tracks import Layer


class StaticCache(LayerCache):
    """A LayerCache whose outputs lie in fixed slots: which slot each evaluation fills and reads follows from the plan.

    Args:
        plan: See LayerCache.
        blocks: See latte.plans.tracks.Tracks.
        places: All that a plan may refer to: all layers, all blocks and the network.

    Raises:
        ValueError: The plan depends on the data, so what is computed is not known in advance.
    """

    def __init__(self, plan: Plan, blocks: Mapping[Layer, int], places: Sequence[Layer]):
        super().__init__(plan, blocks)
        if self.watch is not None:
            raise ValueError("a plan with a threshold depends on the data, so it cannot run as CUDA graphs")
        self.moved = 0  # how often a slot was replaced: older graphs write to a slot that is no longer read
        self.memory: dict[tuple[str, int, int], Tensor] = {}
        self.filled: list[dict[Layer, int]] = []  # for each evaluation, by place, the slot that it fills
        self.read: list[dict[Layer, tuple[int, ...]]] = []  # and the slots that it reads, the newest first
        kept: dict[Layer, list[int]] = {place: [] for place in places}
        for k in range(len(plan)):
            filled, read = {}, {}
            for place in places:
                track = self.tracks[place]
                if (made := track.made[k]) is not None:
                    read[place] = tuple(kept[place][: len(made.weights)])
                elif track.kept[k]:
                    free = next(i for i in range(track.depth) if i not in kept[place][: track.depth - 1])
                    filled[place] = free
                    kept[place] = [free, *kept[place]][: track.depth]
            self.filled.append(filled)
            self.read.append(read)

    def kind(self, k: int) -> Hashable:
        """A key for the operations of evaluation k: equal for all evaluations that can share a graph."""
        weights = {place: self.tracks[place].made[k].weights for place in self.read[k]}
        return (self.plan[k].halves, *(tuple(sorted(z.items())) for z in (self.filled[k], self.read[k], weights)))

    def reused(self, kind: str, place: int, rows: int) -> Tensor | None:
        """See LayerCache.reused."""
        slots = self.read[self.k].get((kind, place))
        if slots is None:
            return None
        self.kept[kind, place] = [self.memory[kind, place, slot] for slot in slots]
        return super().reused(kind, place, rows)

    def slot(self, kind: str, place: int, like: Tensor) -> Tensor | None:
        """See LayerCache.slot."""
        slot = self.filled[self.k].get((kind, place))
        if slot is None:
            return None
        before = self.memory.get((kind, place, slot))
        grows = before is not None
        if before is None or before.shape[0] < like.shape[0] or before.shape[1:] != like.shape[1:]:
            before = self.memory[kind, place, slot] = like.new_empty(like.shape)
            self.moved += grows
        return before[: like.shape[0]]
