"""Pyramid Attention Broadcast (Zhao et al. 2024, arXiv 2408.12588): outputs of layers, reused over denoising steps.

Nothing in models/ knows of it. It needs layers that declare their `kind` ("spatial", "temporal", "cross", "mlp") and
a network that is called once an evaluation, both halves of guidance together.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from latte.models.block import Block

KINDS = ("spatial", "temporal", "cross", "mlp")


@dataclass(frozen=True)
class Broadcast:
    """A layer computes in every skip_range-th evaluation of a run, and in all outside the window low < t < high.

    ValueError: no such rule.
    """

    skip_range: int
    window: tuple[float, float] = (100, 800)

    def __post_init__(self):
        if not isinstance(self.skip_range, int) or self.skip_range < 1:
            raise ValueError(f"skip_range is {self.skip_range!r}; it must be a whole number, 1 or more")
        pair = isinstance(self.window, tuple | list) and len(self.window) == 2
        if not pair or not self.window[0] <= self.window[1]:
            raise ValueError(f"the timestep range is {self.window!r}; it must be two numbers, the lower first")

    def reuses(self, count: int, t: float, before: float | None) -> bool:
        """Whether evaluation `count` of a run, at timestep t after one at `before`, may take the last output."""
        return count % self.skip_range != 0 and self.window[0] < t < self.window[1]


@dataclass(frozen=True)
class Spans:
    """From each start on, for `length` timesteps, a layer computes in the first evaluation alone.

    The defaults are VideoSys's for MLPs: with 50 steps of 20 timesteps it computes at a start and reuses twice, in the
    first ten blocks, which in Latte-1 are five spatial and five temporal ones. Counted in timesteps, other numbers of
    steps do as well.
    """

    starts: tuple[float, ...] = (720, 640, 560, 480, 400)
    length: float = 60
    first: int | None = 10  # of the layers of the kind, in their order, only so many are reused; None: all

    def reuses(self, count: int, t: float, before: float | None) -> bool:
        """As Broadcast.reuses: the evaluation before was in the same span."""
        return before is not None and any(start - self.length < t <= before <= start for start in self.starts)


@dataclass
class BroadcastState:
    """Where a run is, and the outputs that it may take again."""

    count: int = -1  # of evaluations, the present one's index
    t: float | None = None
    before: float | None = None  # the evaluation before's t
    rows: int | None = None  # of the batch
    kept: dict[nn.Module, Tensor] = field(default_factory=dict)

    def forget(self) -> None:
        """The next evaluation is the first of a run."""
        self.__init__()

    def advance(self, t: float, rows: int) -> None:
        """Another evaluation, of so many rows; noise that rises can only be another run's.

        Where guidance begins or ends, the batch changes: outputs of the one cannot stand in for those of the other.
        """
        if self.t is not None and t > self.t:
            self.forget()
        if rows != self.rows:
            self.kept.clear()
            self.rows = rows
        self.count, self.t, self.before = self.count + 1, t, self.t

    def remembering(self, rule: Broadcast | Spans, layer: nn.Module, function: Callable) -> Callable:
        """function, whose last output stands in for it where the rule says so."""

        @torch.compiler.disable(recursive=False)
        def call(*args, **kwargs) -> Tensor:
            if layer not in self.kept or not rule.reuses(self.count, self.t, self.before):
                self.kept[layer] = function(*args, **kwargs)
            return self.kept[layer]

        return call


@contextmanager
def pyramid_attention_broadcast(
    model: nn.Module,
    rules: dict[str, Broadcast | Spans],
    timestep: Callable[[], float | Tensor] | None = None,
    after_gate: bool = False,
) -> Iterator[BroadcastState]:
    """Inside it, the layers of `model` follow the rule of their kind; a kind without one always computes.

    timestep: what the current one is, asked once an evaluation; None: the second argument of the model's calls, (b,).
    What is kept is a layer's output before the block's gate, so that reuse has the present gate (as in diffusers), or,
    with after_gate, what the block adds (as in VideoSys). Cross-attention has no gate. Yields the BroadcastState,
    and nothing of
    it remains afterwards. ValueError: a rule for a kind that the model has not, or no gate of its own to wait for.
    """
    run, places = BroadcastState(), Counter()
    followed: dict[nn.Module, Callable] = {}
    for layer in model.modules():
        kind = getattr(layer, "kind", None)
        rule, place = rules.get(kind), places[kind]
        places[kind] += 1
        computes_always = rule is None or getattr(rule, "skip_range", None) == 1
        first = getattr(rule, "first", None)
        if not computes_always and (first is None or place < first):
            followed[layer] = rule
    if absent := [kind for kind in rules if not places[kind]]:
        known = ", ".join(kind for kind in KINDS if places[kind])
        raise ValueError(f"this model has no {absent[0]!r} layers to broadcast; it has {known}")
    shadowed = shadows(model, run, followed, after_gate)
    tick = model.register_forward_pre_hook(
        lambda _, args, kwargs: run.advance(
            now(timestep() if timestep else kwargs["t"] if "t" in kwargs else args[1]),
            len(kwargs["x"] if "x" in kwargs else args[0]),
        ),
        with_kwargs=True,
    )
    try:
        for module, name, function in shadowed:
            setattr(module, name, function)
        yield run
    finally:
        tick.remove()
        run.forget()
        for module, name, _ in shadowed:
            delattr(module, name)


def now(t: float | Tensor) -> float:
    """A timestep as a number; of a batch's, which agree, the first."""
    return t.flatten()[0].item() if isinstance(t, Tensor) else float(t)


def shadows(
    model: nn.Module, run: BroadcastState, followed: dict[nn.Module, Broadcast | Spans], after_gate: bool
) -> list[tuple[nn.Module, str, Callable]]:
    """(module, method, what is to stand before it on this instance); see pyramid_attention_broadcast."""
    if not after_gate:
        return [(layer, "forward", run.remembering(rule, layer, layer.forward)) for layer, rule in followed.items()]
    found, left = [], dict(followed)
    for block in (module for module in model.modules() if isinstance(module, Block)):
        gated = {layer: left.pop(layer) for layer in (*block.attns, block.mlp) if layer in left}
        calls = {layer: run.remembering(rule, layer, block.branch) for layer, rule in gated.items()}
        found.append((block, "branch", lambda layer, *rest, b=block.branch, c=calls: c.get(layer, b)(layer, *rest)))
        if (cross := block.cross) in left:
            found.append((cross, "forward", run.remembering(left.pop(cross), cross, cross.forward)))
    if left:
        raise ValueError("split heads share one gate: their outputs can only be kept before it (after_gate=False)")
    return found


class PyramidAttentionBroadcastMixin:
    """Pyramid Attention Broadcast for a pipeline of your own.

    The pipeline needs `transformer`, a network that pyramid_attention_broadcast takes, and `current_timestep`, set
    before every evaluation of the network. Its loop over the steps runs inside `with self.broadcasting():`.
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
        with pyramid_attention_broadcast(self.transformer, rules, lambda: self.current_timestep, after_gate):
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
        """Reuse outputs from the next call on; a kind without a skip range computes always.

        mlp_spans: Spans() broadcasts MLPs as VideoSys does, in place of mlp_skip_range. after_gate: see
        pyramid_attention_broadcast. ValueError: nothing is to be broadcast, a range is none, or both ways for MLPs.
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
        rules = {kind: Broadcast(every, window) for kind, (every, window) in asked.items() if every is not None}
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
        """Compute everything again."""
        self._broadcast = None


def broadcast_ranges(words: list[str]) -> dict[str, int]:
    """ "spatial=2" and the like as options of enable_pyramid_attention_broadcast. ValueError: no such word."""
    ranges = {}
    for word in words:
        kind, _, every = word.partition("=")
        if kind not in KINDS or not every.isdecimal():
            raise ValueError(f"--pab {word}: expected KIND=RANGE, such as spatial=2; the kinds are {', '.join(KINDS)}")
        name = f"{kind}_skip_range" if kind == "mlp" else f"{kind}_attn_skip_range"
        if name in ranges:
            raise ValueError(f"--pab {word}: there is another range of {kind}")
        ranges[name] = int(every)
    return ranges
