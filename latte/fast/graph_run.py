"""A denoiser's run on a GPU as CUDA graphs: one for each kind of step, replayed without waiting for the host."""

import copy
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from latte.fast.fast_run import FastRun
from latte.fast.static_cache import StaticCache
from latte.models.denoiser import Condition, Denoiser
from latte.plans.records import Plan
from latte.plans.tracks import holding_blocks

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], Any], Tensor]]


def capture_on_cuda(compute: Callable[[], Tensor], pool: Any = None) -> tuple[Callable[[], Any], Tensor]:
    """Record a function's kernels in a CUDA graph.

    Args:
        compute: The function; the memory that it reads and writes must stay in place.
        pool: The memory pool that graphs share: see torch.cuda.graph.

    Returns:
        A function that replays the graph, and the tensor that holds its output after every replay.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        out = compute()
    return graph.replay, out


class GraphRun:
    """Like FastRun, for a plan: a step reads memory that never moves, and each kind of step is captured once.

    The first step of a kind is computed directly, and then captured; the others replay it. What differs between the
    steps of a kind (modulations, and tokens of the condition) is copied on the device before each step.

    Args:
        network: See FastRun.
        condition: See FastRun.
        plan: What each evaluation computes.
        capture: Captures a function, like capture_on_cuda.
    """

    def __init__(self, network: Denoiser, condition: Condition, plan: Plan, capture: Capture | None = None):
        self.run = FastRun(network, condition, len(plan))
        blocks = [("block", i) for i in range(len(network.blocks))]
        places = [*self.run.blocks.places.values(), *blocks, ("network", 0)]
        self.cache = StaticCache(plan, holding_blocks(network), places)
        self.capture, self.pool = capture, None
        self.graphs: dict[Hashable, tuple[Tensor, Callable[[], Any], Tensor]] = {}  # by kind: input, replay, output
        self.rows = pack(self.run, len(plan))
        self.row = self.rows[0].clone()
        self.still = at_one_place(self.run, self.row)
        self.still.cache = FixedStep(self.cache) if self.reuses else None

    @property
    def reuses(self) -> bool:
        """Whether the plan keeps anything."""
        return any(self.cache.filled)

    def capture_in_pool(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        """capture_on_cuda, with one pool of memory for all graphs of this run: they never run at the same time."""
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        return capture_on_cuda(compute, self.pool)

    def replace_text(self, condition: Condition) -> None:
        """Like FastRun.replace_text; for a text of another length, every kind of step is captured anew."""
        before, bias = self.still.texts, self.still.bias
        self.run.replace_text(condition)
        old = [z for text in before if text is not None for z in text] + ([] if bias is None else [bias])
        new = [z for text in self.run.texts if text is not None for z in text]
        new += [] if self.run.bias is None else [self.run.bias]
        if [z.shape for z in old] == [z.shape for z in new]:
            for static, fresh in zip(old, new):
                static.copy_(fresh)
        else:
            self.still.texts, self.still.bias = self.run.texts, self.run.bias
            self.graphs.clear()

    def __call__(self, x: Tensor, k: int, halves: int = 1) -> Tensor:
        """Like FastRun.__call__; the evaluations must be called in the plan's order."""
        self.row.copy_(self.rows[k])
        self.cache.begin(k)
        kind = (self.cache.kind(k), x.shape, x.dtype, halves)
        known = self.graphs.get((*kind, self.cache.moved))
        if known is not None:
            latents, replay, out = known
            latents.copy_(x)
            replay()
            return out.clone()  # the next replay overwrites it, and a sampler may keep it
        latents = x.clone()
        compute = lambda: self.still(latents, 0, halves)
        out = compute().clone()  # this allocates the cache's slots, outside of the graph's own memory
        self.graphs[(*kind, self.cache.moved)] = (latents, *(self.capture or self.capture_in_pool)(compute))
        return out


class FixedStep:
    """A static cache whose evaluation is set by GraphRun, not by FastRun, which always computes its step 0 here."""

    def __init__(self, cache: StaticCache):
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def begin(self, k: int) -> None:
        """Do nothing."""


def by_timestep(run: FastRun) -> list[Tensor]:
    """Everything that a run looks up by timestep (timesteps, ...), in a fixed order."""
    tables = [z for block in run.tables or [] for norm in block for z in norm]
    found = [z for z in tables if not isinstance(z, float) and z.ndim > 1]
    return [*found, run.embedded, run.final, *([] if run.tokens is None else [run.tokens])]


def pack(run: FastRun, timesteps: int) -> Tensor:
    """Everything that a run looks up by timestep, in one table (timesteps, values), so that a step needs one copy."""
    return torch.cat([z.reshape(timesteps, -1) for z in by_timestep(run)], 1)


def at_one_place(run: FastRun, row: Tensor) -> FastRun:
    """A run with a single timestep, whose values are those that a row of `pack` holds at the time of the call."""
    whole, views = by_timestep(run), []
    for z, part in zip(whole, row.split([z[0].numel() for z in whole])):
        views.append(part.view(1, *z.shape[1:]))
    still, rest = copy.copy(run), iter(views)
    if run.tables is not None:
        placed = lambda z: z if isinstance(z, float) or z.ndim == 1 else next(rest)
        still.tables = [[[placed(z) for z in norm] for norm in block] for block in run.tables]
    still.embedded, still.final = next(rest), next(rest)
    still.tokens = None if run.tokens is None else next(rest)
    return still
