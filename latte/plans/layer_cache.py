"""A cache of the layer outputs that a plan reuses in later evaluations."""

from collections.abc import Callable, Mapping

from torch import Tensor

from latte.plans.records import Evaluation, Plan, Reuse, Threshold
from latte.plans.tracks import Layer, Tracks


class LayerCache:
    """Outputs of a run's layers, by kind and index, newest first.

    Attributes:
        k: Index of the current evaluation.
        kept: The cached outputs.

    Args:
        plan: The plan, which says what is kept and for how long.
        blocks: See Tracks.
        same_halves: See Tracks.
    """

    def __init__(self, plan: Plan, blocks: Mapping[Layer, int], same_halves: bool = False):
        self.plan, self.tracks, self.k = plan, Tracks(plan, blocks, same_halves), 0
        self.after_gate = plan.after_gate
        self.kept: dict[Layer, list[Tensor]] = {}
        tests = [reuse.threshold for evaluation in plan.evaluations for reuse in evaluation.reuse.values()]
        self.watch = next((ChangeWatch() for test in tests if test is not None), None)

    def begin(self, k: int) -> None:
        """Begin evaluation k of the plan."""
        self.k = k

    def rule(self, kind: str, place: int) -> Reuse | None:
        """How a layer's output is formed in this evaluation; None if the layer computes."""
        return self.tracks[kind, place].made[self.k]

    def keeps(self, kind: str, place: int) -> int:
        """How many of a layer's outputs are kept, including the current one; 0 if the current one is not kept."""
        track = self.tracks[kind, place]
        return track.depth if track.kept[self.k] else 0

    def look(self, tokens: Callable[[], Tensor]) -> None:
        """Show a threshold the network's first modulated tokens; a plan without a threshold never computes them."""
        if self.watch is not None:
            reuse = self.rule("network", 0)
            self.watch.look(tokens(), None if reuse is None else reuse.threshold)

    def reused(self, kind: str, place: int, rows: int) -> Tensor | None:
        """A layer's output for the first rows of the batch, formed from earlier ones; None if it must compute."""
        reuse = self.rule(kind, place)
        if reuse is None or (self.watch is not None and not self.watch.unchanged):
            return None
        kept = [output[:rows] for output in self.kept[kind, place]]
        if reuse.weights == (1.0,):
            return kept[0]
        made = kept[0] * reuse.weights[0]
        for weight, output in zip(reuse.weights[1:], kept[1:]):
            made.add_(output, alpha=weight)
        return made

    def slot(self, kind: str, place: int, like: Tensor) -> Tensor | None:
        """A buffer shaped like `like` to write the current output into; None if no later evaluation needs it."""
        depth = self.keeps(kind, place)
        if not depth:
            return None
        outputs = self.kept.setdefault((kind, place), [])
        same = len(outputs) >= depth and outputs[-1].shape == like.shape and outputs[-1].dtype == like.dtype
        slot = outputs.pop() if same else like.new_empty(like.shape)
        self.kept[kind, place] = [slot, *outputs][:depth]
        return slot

    def keep(self, kind: str, place: int, output: Callable[[], Tensor]) -> None:
        """Keep the current output if a later evaluation needs it; it must not be modified afterwards."""
        if depth := self.keeps(kind, place):
            self.kept[kind, place] = [output(), *self.kept.get((kind, place), [])][:depth]


class GrowingCache(LayerCache):
    """A cache for a run whose evaluations are not known in advance: each says what it reuses when it begins.

    Each layer's last output is kept, whether or not it will be needed.

    Args:
        after_gate: See Plan.
        first: For each kind, how many of its first layers are ever reused. None means all.
    """

    def __init__(self, after_gate: bool, first: Mapping[str, int | None]):
        super().__init__(Plan((), after_gate), {})
        self.evaluation, self.first = Evaluation(0), first

    def begin_with(self, evaluation: Evaluation) -> None:
        """Begin another evaluation."""
        self.evaluation = evaluation

    def rule(self, kind: str, place: int) -> Reuse | None:
        """See LayerCache; a layer without a cached output computes."""
        return self.evaluation.reused(kind, place) if (kind, place) in self.kept else None

    def keeps(self, kind: str, place: int) -> int:
        """See LayerCache."""
        first = self.first.get(kind)
        return int(first is None or place < first)


class ChangeWatch:
    """The sum of changes that a threshold tests: see latte.plans.records.Threshold.

    Attributes:
        unchanged: Whether the last output may be reused now.
    """

    def __init__(self) -> None:
        self.before: Tensor | None = None
        self.sum, self.unchanged = 0.0, False

    def look(self, tokens: Tensor, threshold: Threshold | None) -> None:
        """Look at the first modulated tokens (b, f, s, d) of an evaluation; without a threshold it always computes."""
        before, self.before = self.before, tokens.clone()
        self.unchanged = False
        if threshold is not None and before is not None:
            rows = min(len(before), len(tokens))
            size = before[:rows].abs().mean()
            change = ((tokens[:rows] - before[:rows]).abs().mean() / size).item()
            self.sum += polynomial(threshold.polynomial, change)
            self.unchanged = self.sum < threshold.limit
        if not self.unchanged:
            self.sum = 0.0


def polynomial(coefficients: tuple[float, ...], x: float) -> float:
    """The value of a polynomial with these coefficients, highest power first."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
