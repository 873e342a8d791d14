"""Pyramid Attention Broadcast (Zhao et al. 2024, arXiv 2408.12588): layers reuse their outputs over denoising steps.

It attaches to a network from outside. It needs layers that declare their `kind` ("spatial", "temporal", "cross", "mlp")
and a network that is called once per evaluation, with both halves of guidance in one batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from latte.arguments import check_choice
from latte.models.block import Block
from latte.plans.plan import Evaluation, Plan, Reuse

KINDS = ("spatial", "temporal", "cross", "mlp")


@dataclass(frozen=True)
class Broadcast:
    """A rule: inside a window of timesteps, a layer computes only in every skip_range-th evaluation of a run.

    Attributes:
        skip_range: 1 or more; 1 computes always.
        window: Timesteps (low, high); outside of low < t < high the layer computes always.

    Raises:
        ValueError: The numbers are not such.
    """

    skip_range: int
    window: tuple[float, float] = (100, 800)

    def __post_init__(self) -> None:
        if not isinstance(self.skip_range, int) or self.skip_range < 1:
            raise ValueError(f"skip_range is {self.skip_range!r}; it must be a whole number, 1 or more")
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
        starts: Timesteps at which spans start, going down.
        length: Length of a span in timesteps.
        first: Only so many layers of the kind, in their order, follow the rule; None, all of them.
    """

    starts: tuple[float, ...] = (720, 640, 560, 480, 400)
    length: float = 60
    first: int | None = 10

    def reuses(self, count: int, t: float, before: float | None) -> bool:
        """See Broadcast.reuses; true if the previous evaluation was in the same span."""
        return before is not None and any(start - self.length < t <= before <= start for start in self.starts)


@dataclass
class BroadcastState:
    """Where a run over the denoising steps is, and the outputs that are cached.

    Attributes:
        count: Index of the present evaluation.
        t: Its timestep.
        before: Timestep of the previous evaluation.
        rows: Rows of the batch.
        cache: Last output of each layer.
    """

    count: int = -1
    t: float | None = None
    before: float | None = None
    rows: int | None = None
    cache: dict[nn.Module, Tensor] = field(default_factory=dict)

    def reset(self) -> None:
        """Start over: the next evaluation is the first of a run."""
        self.count, self.t, self.before, self.rows = -1, None, None, None
        self.cache.clear()

    def advance(self, t: float, rows: int) -> None:
        """Begin another evaluation. A timestep that rises means that another run has begun.

        Where guidance begins or ends, the batch changes, and cached outputs no longer fit.
        """
        if self.t is not None and t > self.t:
            self.reset()
        if rows != self.rows:
            self.cache.clear()
            self.rows = rows
        self.count, self.t, self.before = self.count + 1, t, self.t

    def cached(self, rule: Broadcast | Spans, layer: nn.Module, function: Callable) -> Callable:
        """`function`, which returns its last output instead of computing where the rule says so."""

        @torch.compiler.disable(recursive=False)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            if layer not in self.cache or self.t is None or not rule.reuses(self.count, self.t, self.before):
                self.cache[layer] = function(*args, **kwargs)
            return self.cache[layer]

        return call


@contextmanager
def pyramid_attention_broadcast(
    model: nn.Module,
    rules: dict[str, Broadcast | Spans],
    timestep: Callable[[], float | Tensor] | None = None,
    after_gate: bool = False,
) -> Iterator[BroadcastState]:
    """Inside it, the layers of `model` follow the rule of their kind; a kind without a rule computes always.

    Args:
        model: A network whose layers declare their `kind`.
        rules: A rule per kind.
        timestep: Returns the current timestep; called once per evaluation. None takes the second argument of the
            model's calls, t (b,).
        after_gate: What is cached. False: a layer's output before the block's gate, which is then the present gate, as
            in diffusers. True: what the block adds to the residual, as in VideoSys. Cross-attention has no gate.

    Yields:
        The state of the run. Nothing of it remains afterwards.

    Raises:
        ValueError: A rule is for a kind that the model does not have, or its layers share one gate.
    """
    state = BroadcastState()
    places: Counter[str | None] = Counter()
    followed: dict[nn.Module, Broadcast | Spans] = {}
    for layer in model.modules():
        kind: Any = getattr(layer, "kind", None)
        rule, place = rules.get(kind), places[kind]
        places[kind] += 1
        computes_always = getattr(rule, "skip_range", None) == 1
        first = getattr(rule, "first", None)
        if rule is not None and not computes_always and (first is None or place < first):
            followed[layer] = rule
    if absent := [kind for kind in rules if not places[kind]]:
        known = ", ".join(kind for kind in KINDS if places[kind])
        raise ValueError(f"this model has no {absent[0]!r} layers to broadcast; it has {known}")
    replaced = replacements(model, state, followed, after_gate)
    before = [(module, name, vars(module).get(name)) for module, name, _ in replaced]  # others may have attached first
    tick = model.register_forward_pre_hook(
        lambda _, args, kwargs: state.advance(
            as_number(timestep() if timestep else kwargs["t"] if "t" in kwargs else args[1]),
            len(kwargs["x"] if "x" in kwargs else args[0]),
        ),
        with_kwargs=True,
    )
    try:
        for module, name, function in replaced:
            setattr(module, name, function)
        yield state
    finally:
        tick.remove()
        state.reset()
        for module, name, earlier in before:
            delattr(module, name)
            if earlier is not None:
                setattr(module, name, earlier)


def as_number(t: float | Tensor) -> float:
    """A timestep as a number; the first of a batch's, which agree."""
    return t.flatten()[0].item() if isinstance(t, Tensor) else float(t)


def replacements(
    model: nn.Module, state: BroadcastState, followed: dict[nn.Module, Broadcast | Spans], after_gate: bool
) -> list[tuple[nn.Module, str, Callable]]:
    """(module, name of a method, what replaces it on that instance): see pyramid_attention_broadcast."""
    if not after_gate:
        return [(layer, "forward", state.cached(rule, layer, layer.forward)) for layer, rule in followed.items()]
    found: list[tuple[nn.Module, str, Callable]] = []
    left = dict(followed)
    for block in (module for module in model.modules() if isinstance(module, Block)):
        gated = {layer: left.pop(layer) for layer in (*block.attns, block.mlp) if layer in left}
        calls = {layer: state.cached(rule, layer, block.branch) for layer, rule in gated.items()}
        found.append((block, "branch", lambda layer, *rest, b=block.branch, c=calls: c.get(layer, b)(layer, *rest)))
        if (cross := block.cross) in left:
            found.append((cross, "forward", state.cached(left.pop(cross), cross, cross.forward)))
    if left:
        raise ValueError("split heads share one gate: their outputs can only be cached before it (after_gate=False)")
    return found


def broadcast_plan(plan: Plan, rules: dict[str, Broadcast | Spans]) -> Plan:
    """Let the layers of a plan's evaluations follow rules, as pyramid_attention_broadcast does while it runs.

    Args:
        plan: What is computed without rules.
        rules: A rule per kind.

    Returns:
        The same evaluations, with what each reuses.
    """
    found: list[Evaluation] = []
    count = 0
    for evaluation in plan.evaluations:
        before = found[-1] if found else None
        count = 0 if before is None or evaluation.timestep > before.timestep else count + 1
        fits = count > 0 and before is not None and before.branch == evaluation.branch
        last = before.timestep if before is not None and count else None
        reuse = {
            kind: Reuse(places=first_places(getattr(rule, "first", None)))
            for kind, rule in rules.items()
            if fits and rule.reuses(count, evaluation.timestep, last)
        }
        found.append(replace(evaluation, reuse=reuse))
    return Plan(tuple(found))


def first_places(count: int | None) -> frozenset[int] | None:
    """The first so many layers of a kind; None, all of them."""
    return None if count is None else frozenset(range(count))


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
        """Inside it, for one run over the steps, layers follow the rules of enable_pyramid_attention_broadcast.

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
        """Reuse layers' outputs from the next call on; a kind without a skip range computes always.

        Args:
            spatial_attn_skip_range: Compute spatial attention in every so many-th evaluation; the same for the others.
            spatial_attn_timestep_range: Timesteps (low, high) between which outputs are reused; so are the others.
            mlp_spans: In place of mlp_skip_range: Spans() reuses outputs of MLPs as VideoSys does.
            after_gate: See pyramid_attention_broadcast.

        Raises:
            ValueError: No kind is named, a range is not one, or both ways for MLPs are.
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
