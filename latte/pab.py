"""Pyramid Attention Broadcast (Zhao et al. 2024, arXiv 2408.12588): layers reuse their outputs over denoising steps.

In LattePipeline, its rules make plans. For other pipelines it attaches to a network from outside. It needs layers that
declare their `kind` ("spatial", "temporal", "cross", "mlp") and a network that is called once per evaluation, with both
halves of guidance in one batch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from latte.arguments import check_choice, check_count
from latte.plans.layer_cache import GrowingCache
from latte.plans.readable import following
from latte.plans.records import LAYERS as KINDS
from latte.plans.records import Evaluation, Plan, Reuse
from latte.plans.tracks import layers_of


@dataclass(frozen=True)
class Broadcast:
    """A rule: inside a window of timesteps, a layer computes only in every skip_range-th evaluation of a run.

    Attributes:
        skip_range: 1 or more; with 1, the layer always computes.
        window: Timesteps (low, high); outside of low < t < high the layer always computes.

    Raises:
        ValueError: A value is not valid.
    """

    skip_range: int
    window: tuple[float, float] = (100, 800)

    def __post_init__(self) -> None:
        check_count("skip_range", self.skip_range)
        pair = isinstance(self.window, tuple | list) and len(self.window) == 2
        if not pair or not self.window[0] <= self.window[1]:
            raise ValueError(f"the timestep range is {self.window!r}; it must be two numbers, the lower first")

    def reuses(self, count: int, t: float, before: float | None) -> bool:
        """Whether evaluation `count` of a run, at timestep t after one at `before`, reuses the cached output."""
        return count % self.skip_range != 0 and self.window[0] < t < self.window[1]


@dataclass(frozen=True)
class Spans:
    """A rule: within a span of timesteps, a layer computes only in the first evaluation.

    The defaults are VideoSys's for MLPs. With 50 steps of 20 timesteps, a layer computes at a span's start and reuses
    its output twice, in the first ten blocks: in Latte-1, five spatial and five temporal ones. Spans are given in
    timesteps, so that they suit other numbers of steps too.

    Attributes:
        starts: Timesteps at which spans start; they extend downwards.
        length: Length of a span in timesteps.
        first: Only this many layers of the kind, in network order, follow the rule. None means all of them.
    """

    starts: tuple[float, ...] = (720, 640, 560, 480, 400)
    length: float = 60
    first: int | None = 10

    def reuses(self, count: int, t: float, before: float | None) -> bool:
        """See Broadcast.reuses; true if the previous evaluation was in the same span."""
        return before is not None and any(start - self.length < t <= before <= start for start in self.starts)


def reuse_by_rules(
    rules: Mapping[str, Broadcast | Spans], count: int, t: float, before: float | None
) -> dict[str, Reuse]:
    """What evaluation `count` of a run reuses, at timestep t after one at `before`."""
    found = {}
    for kind, rule in rules.items():
        first = rule.first if isinstance(rule, Spans) else None
        if count and rule.reuses(count, t, before):
            found[kind] = Reuse(places=None if first is None else frozenset(range(first)))
    return found


def broadcast_plan(plan: Plan, rules: Mapping[str, Broadcast | Spans], after_gate: bool = False) -> Plan:
    """Let the layers of a plan's evaluations follow rules.

    Args:
        plan: The plan without rules.
        rules: A rule per kind.
        after_gate: See latte.plans.records.Plan.

    Returns:
        The same evaluations, with what each reuses. Where guidance begins or ends, every layer computes.
    """
    found: list[Evaluation] = []
    count = 0
    for evaluation in plan.evaluations:
        before = found[-1] if found else None
        count = 0 if before is None or evaluation.timestep > before.timestep else count + 1
        fits = before is not None and before.branch == evaluation.branch
        last = None if before is None else before.timestep
        reuse = reuse_by_rules(rules, count, evaluation.timestep, last) if fits else {}
        found.append(evaluation.reusing(**reuse))
    return Plan(tuple(found), after_gate)


class BroadcastState:
    """The position of an unplanned run in its denoising steps, and the cached outputs.

    Attributes:
        count: Index of the current evaluation.
        t: Its timestep.
        rows: Rows of the batch.
        cache: The cache of the last output of each layer.

    Args:
        rules: A rule per kind.
        after_gate: See latte.plans.records.Plan.
    """

    def __init__(self, rules: Mapping[str, Broadcast | Spans], after_gate: bool):
        self.rules, self.count = rules, -1
        self.t: float | None = None
        self.rows: int | None = None
        self.cache = GrowingCache(after_gate, {kind: getattr(rule, "first", None) for kind, rule in rules.items()})

    def reset(self) -> None:
        """Start over: the next evaluation is the first of a run."""
        self.count, self.t, self.rows = -1, None, None
        self.cache.kept.clear()

    def advance(self, t: float, rows: int) -> None:
        """Begin another evaluation. If the timestep rises, a new run has begun.

        Where guidance begins or ends, the batch changes, and cached outputs no longer fit.
        """
        if self.t is not None and t > self.t:
            self.reset()
        if rows != self.rows:
            self.cache.kept.clear()
        self.count, self.rows, before, self.t = self.count + 1, rows, self.t, t
        self.cache.begin_with(Evaluation(t, reuse_by_rules(self.rules, self.count, t, before)))


@contextmanager
def pyramid_attention_broadcast(
    model: nn.Module,
    rules: dict[str, Broadcast | Spans],
    timestep: Callable[[], float | Tensor] | None = None,
    after_gate: bool = False,
) -> Iterator[BroadcastState]:
    """Within the context, the layers of `model` follow the rule of their kind; a kind without a rule always computes.

    Args:
        model: A network whose layers declare their `kind`.
        rules: A rule per kind.
        timestep: Returns the current timestep; called once per evaluation. None takes the second argument of the
            model's calls, t (b,).
        after_gate: What is cached. False: a layer's output before the block's gate, so that the current gate applies,
            as in diffusers. True: what the block adds to the residual stream, as in VideoSys. Cross-attention has no
            gate.

    Yields:
        The state of the run. Afterwards the model is as before.

    Raises:
        ValueError: A rule is for a kind that the model does not have, or its layers share one gate.
    """
    there = {kind for kind, _ in layers_of(model)}
    if absent := [kind for kind in rules if kind not in there]:
        known = ", ".join(kind for kind in KINDS if kind in there)
        raise ValueError(f"this model has no {absent[0]!r} layers to broadcast; it has {known}")
    followed = {kind: rule for kind, rule in rules.items() if getattr(rule, "skip_range", None) != 1}
    state = BroadcastState(followed, after_gate)
    tick = model.register_forward_pre_hook(
        lambda _, args, kwargs: state.advance(
            as_number(timestep() if timestep else kwargs["t"] if "t" in kwargs else args[1]),
            len(kwargs["x"] if "x" in kwargs else args[0]),
        ),
        with_kwargs=True,
    )
    try:
        with following(model, state.cache, list(followed)):
            yield state
    finally:
        tick.remove()
        state.reset()


def as_number(t: float | Tensor) -> float:
    """A timestep as a number; of a batch, the first one, since all agree."""
    return t.flatten()[0].item() if isinstance(t, Tensor) else float(t)


class PyramidAttentionBroadcastMixin:
    """Pyramid Attention Broadcast for a pipeline of your own.

    The pipeline needs `transformer`, a network that pyramid_attention_broadcast takes, and `current_timestep`, set
    before every evaluation of the network. Run its loop over the steps inside `with self.broadcasting():`: nothing is
    cached outside of it.
    """

    transformer: Any
    current_timestep: float | Tensor | None = None
    _broadcast: tuple[dict[str, Broadcast | Spans], bool] | None = None

    @contextmanager
    def broadcasting(self) -> Iterator[None]:
        """Within the context, for one run over the steps, layers follow enable_pyramid_attention_broadcast.

        The cache is empty at the start and freed at the end, also if the run is aborted.
        """
        if self._broadcast is None:
            yield
            return
        rules, after_gate = self._broadcast

        def timestep() -> float | Tensor:
            assert self.current_timestep is not None
            return self.current_timestep

        with pyramid_attention_broadcast(self.transformer, rules, timestep, after_gate):
            yield

    def enable_pyramid_attention_broadcast(
        self,
        spatial_attn_skip_range: int | None = None,
        temporal_attn_skip_range: int | None = None,
        cross_attn_skip_range: int | None = None,
        mlp_skip_range: int | None = None,
        spatial_attn_timestep_range: tuple[float, float] = (100, 800),
        temporal_attn_timestep_range: tuple[float, float] = (100, 800),
        cross_attn_timestep_range: tuple[float, float] = (100, 800),
        mlp_timestep_range: tuple[float, float] = (100, 800),
        mlp_spans: Spans | None = None,
        after_gate: bool = False,
    ) -> None:
        """Reuse layers' outputs from the next call on; a kind without a skip range always computes.

        Args:
            spatial_attn_skip_range: Compute spatial attention once in this many evaluations. The other kinds have the
                same option.
            spatial_attn_timestep_range: Timesteps (low, high) between which outputs are reused. The other kinds have
                the same option.
            mlp_spans: In place of mlp_skip_range: Spans() reuses outputs of MLPs as VideoSys does.
            after_gate: See pyramid_attention_broadcast.

        Raises:
            ValueError: No kind is given, a range is not valid, or both mlp_skip_range and mlp_spans are given.
        """
        asked = {
            "spatial": (spatial_attn_skip_range, spatial_attn_timestep_range),
            "temporal": (temporal_attn_skip_range, temporal_attn_timestep_range),
            "cross": (cross_attn_skip_range, cross_attn_timestep_range),
            "mlp": (mlp_skip_range, mlp_timestep_range),
        }
        for kind, (every, window) in asked.items():
            if every is None and window not in (Broadcast.window, list(Broadcast.window)):
                name = kind if kind == "mlp" else f"{kind}_attn"
                raise ValueError(f"{name}_timestep_range does nothing without {name}_skip_range")
        rules: dict[str, Broadcast | Spans] = {
            kind: Broadcast(every, window) for kind, (every, window) in asked.items() if every is not None
        }
        if mlp_spans is not None:
            if "mlp" in rules:
                raise ValueError("give mlp_skip_range or mlp_spans, not both")
            rules["mlp"] = mlp_spans
        if not rules:
            raise ValueError("nothing to broadcast: give a skip range, such as spatial_attn_skip_range=2")
        if self.transformer is None:
            raise ValueError("this pipeline has no transformer whose outputs could be broadcast")
        with pyramid_attention_broadcast(self.transformer, rules, after_gate=after_gate):
            self._broadcast = rules, after_gate

    def disable_pyramid_attention_broadcast(self) -> None:
        """Compute every layer in every evaluation again."""
        self._broadcast = None


def broadcast_options(ranges: dict[str, int]) -> dict[str, int]:
    """Turn a skip range per kind of layer, such as {"spatial": 2}, into options of enable_pyramid_attention_broadcast.

    Raises:
        ValueError: There is no such kind of layer.
    """
    for kind in ranges:
        check_choice("kind", kind, KINDS)
    return {
        f"{kind}_skip_range" if kind == "mlp" else f"{kind}_attn_skip_range": every for kind, every in ranges.items()
    }
