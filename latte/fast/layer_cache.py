"""The outputs of layers that a plan keeps for later evaluations."""

from torch import Tensor

from latte.plans.plan import Plan


class LayerCache:
    """Outputs of a run's layers, by kind and place, the newest first.

    Args:
        plan: It says what is kept, and for how long.
        after_gate: Keep what a block adds to its tokens, after its gate, and not what the layer gives.
    """

    def __init__(self, plan: Plan, after_gate: bool = False):
        self.plan, self.after_gate, self.k = plan, after_gate, 0
        self.kept: dict[tuple[str, int], list[Tensor]] = {}

    def begin(self, k: int) -> None:
        """Begin evaluation k of the plan."""
        self.k = k

    def reused(self, kind: str, place: int, rows: int) -> Tensor | None:
        """The output of a layer for the first rows of the batch, made of earlier ones; None if it is to compute."""
        reuse = self.plan[self.k].reused(kind, place)
        if reuse is None:
            return None
        kept = [output[:rows] for output in self.kept[kind, place]]
        if reuse.weights == (1.0,):
            return kept[0]
        weights = reuse.weights if len(kept) >= len(reuse.weights) else (1.0,)
        return sum(weight * output for weight, output in zip(weights, kept))

    def slot(self, kind: str, place: int, like: Tensor) -> Tensor | None:
        """Where an output that is computed now is to be written, shaped like a tensor; None if nobody needs it."""
        if not self.plan.keeps(self.k, kind, place):
            return None
        outputs = self.kept.setdefault((kind, place), [])
        depth = self.depth(kind, place)
        same = len(outputs) >= depth and outputs[-1].shape == like.shape
        slot = outputs.pop() if same else like.new_empty(like.shape)
        self.kept[kind, place] = [slot, *outputs][:depth]
        return slot

    def depth(self, kind: str, place: int) -> int:
        """How many outputs of a layer the plan ever needs at once."""
        asked = (evaluation.reused(kind, place) for evaluation in self.plan.evaluations)
        return max(len(reuse.weights) for reuse in asked if reuse is not None)
