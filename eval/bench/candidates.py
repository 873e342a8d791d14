"""The candidates of `latte bench speed`: networks by precision and compilation, pipeline settings, their timing."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from latte.eval.bench.original_blocks import check_has_original, original_blocks
from latte.eval.bench.pab_cost import parse_ranges
from latte.eval.bench.products import fastest
from latte.eval.bench.resources import OperationCount, seconds_of, working_memory
from latte.fast.switch import fast_paths
from latte.models.denoiser import denoiser_of
from latte.pipeline import LattePipeline
from latte.weights.tensors import DTYPES

SIDES = {"cuda": 8192, "cpu": 1024}  # of the square matrices whose product gives the machine's rate
LEAST = 0.1  # seconds for which a short call is repeated

SetUp = Callable[[LattePipeline], AbstractContextManager]


@dataclass(frozen=True)
class Candidate:
    """One way to compute.

    Attributes:
        name: Its name in tables.
        set_up: Returns a context in which the pipeline computes this way.
        dtype: The type of the network's weights.
        compiled: Whether the blocks of the network are compiled by torch.compile.
        recorded: Whether steps are recorded as CUDA graphs.
    """

    name: str
    set_up: SetUp
    dtype: str = "float32"
    compiled: bool = False
    recorded: bool = False

    @property
    def countable(self) -> bool:
        """Whether PyTorch's dispatcher sees every operation, so that they and their memory can be counted."""
        return not (self.compiled or self.recorded)


@contextmanager
def broadcasting(ranges: str, pipe: LattePipeline) -> Iterator[None]:
    """Within this context, a pipeline uses Pyramid Attention Broadcast with ranges such as "2/3/6"."""
    pipe.enable_pyramid_attention_broadcast(**parse_ranges(ranges))
    try:
        yield
    finally:
        pipe.disable_pyramid_attention_broadcast()


@contextmanager
def with_network(network: nn.Module, fast: bool, pipe: LattePipeline) -> Iterator[None]:
    """Within this context, a pipeline uses another network, in its fast form or as it is written."""
    own, pipe.transformer = pipe.transformer, network
    try:
        with fast_paths(fast):
            yield
    finally:
        pipe.transformer = own


@contextmanager
def with_original(network: nn.Module, pipe: LattePipeline) -> Iterator[None]:
    """Within this context, a pipeline uses another network, whose blocks compute as the original's."""
    with with_network(network, False, pipe), original_blocks(network):
        yield


def exact_candidates(
    pipe: LattePipeline, dtypes: Sequence[str], compiled: bool, original: bool = False
) -> list[Candidate]:
    """The readable network and its fast form in each precision; compiled ones last. The first is the reference.

    Raises:
        ValueError: The network is to be compared with the original code, which has no such network.
    """
    own = str(next(pipe.transformer.parameters()).dtype).removeprefix("torch.")
    found = []
    for dtype in dtypes:
        network = pipe.transformer if dtype == own else copy.deepcopy(pipe.transformer).to(DTYPES[dtype])
        suffix = "" if dtype == dtypes[0] else f", {dtype}"
        for name, is_fast in (("readable", False), ("fast", True)):
            found.append(Candidate(name + suffix, partial(with_network, network, is_fast), dtype))
        if original:
            check_has_original(network)
            found.append(Candidate(f"original{suffix}", partial(with_original, network), dtype))
        if compiled:
            network = copy.deepcopy(network)
            compile_blocks(network)
            found.append(Candidate(f"compiled{suffix}", partial(with_network, network, False), dtype, compiled=True))
    return found


def compile_blocks(network: nn.Module) -> None:
    """Let torch.compile compile the blocks of a network one by one: blocks of one kind share what is compiled."""
    for block in denoiser_of(network).blocks:
        block.compile(fullgraph=True)


@contextmanager
def planned(name: str, pipe: LattePipeline) -> Iterator[None]:
    """Within this context, a pipeline follows a plan: a file, a name in the model's folder, or rules."""
    pipe.enable_plan(name)
    try:
        yield
    finally:
        pipe.disable_plan()


def caches(ranges: Sequence[str], plans: Sequence[str], dtype: str) -> list[Candidate]:
    """The inexact settings of the pipeline, one candidate each. They use the fast form where it supports them."""
    found = [Candidate(f"PAB {text}", partial(broadcasting, text), dtype) for text in ranges]
    return found + [Candidate(f"plan {name}", partial(planned, name), dtype) for name in plans]


def interleaved(work: dict[str, Callable[[], float]], rounds: int, warm_up: bool) -> dict[str, list[float]]:
    """Time each kind of work once a round, in turn.

    Args:
        work: By name, functions that return the seconds that they took.
        rounds: How often each is timed. Every second round goes backwards, so that drift of the machine averages out.
        warm_up: Whether each is called once beforehand.

    Returns:
        The seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for i in range(-1 if warm_up else 0, rounds):
        for name in list(work)[:: -1 if i % 2 else 1]:
            took = work[name]()
            if i >= 0:
                seconds[name].append(took)
    return seconds


def product_timer(dtype: str, device: torch.device) -> tuple[Callable[[], float], int]:
    """A function that times a product of square matrices, computed the fastest way, and the operations of one."""
    side = SIDES.get(device.type, SIDES["cpu"])
    a, b = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
    return partial(seconds_of, fastest(torch.ops.aten.mm.default, (a, b)), device, LEAST), 2 * side**3


@dataclass(frozen=True)
class Entry:
    """One row of a comparison.

    Attributes:
        name: The name of the row.
        dtype: The type of the network's weights.
        compiled: Whether the network is compiled, ours block by block and diffusers' as a whole.
        time: Computes, and returns the seconds that it took.
        inspect: Computes once more, and returns the output, the operations and the bytes that it takes besides the
            weights; unknown ones are None.
        peer: Whether it is diffusers' row.
    """

    name: str
    dtype: str
    compiled: bool
    time: Callable[[], float]
    inspect: Callable[[], tuple[Tensor | None, int | None, int | None]]
    peer: bool = False


def inspect(
    call: Callable[[], Tensor], fresh: Callable[[], object], countable: bool, device: torch.device
) -> tuple[Tensor, int | None, int | None]:
    """Entry.inspect for one of our calls; `fresh` also recreates what the call would reuse."""
    if not countable:
        return call(), None, None
    with OperationCount() as count:
        out = call()
    return out, count.total, working_memory(fresh, device)


def compare(
    entries: Sequence[Entry], device: torch.device, rounds: int, warm_up: bool = True
) -> tuple[dict[str, dict], dict[str, Tensor]]:
    """Time entries in turn with products of matrices, and inspect them.

    Args:
        entries: The entries to compare. The first is the reference.
        device: Where they compute.
        rounds: How often each is timed.
        warm_up: Whether each computes once beforehand, which takes too long for long computations. Compiled ones do so
            in any case.

    Returns:
        The rows by name, and the outputs by name. A row holds "dtype", "compiled", for compiled ones the
        "first_seconds" of wall-clock time of the first call, the "seconds" of each round, their "min" and "median",
        "flops" and their "share" of the machine's rate, "peak_mb" besides the weights in 10^6 bytes, the relative
        "error", the "ratio" of the reference's time to its own, and "over_peer", the ratio for each peer of its
        precision. Ratios are those of the least times. Unknown values are None.
    """
    compiled = [entry for entry in entries if entry.compiled]
    if compiled:
        torch.compiler.reset()  # so that code is made for these shapes, not for all shapes seen so far
    first_calls = {entry.name: first_seconds(entry) for entry in compiled}
    work = {entry.name: entry.time for entry in entries}
    operations = {}
    for dtype in dict.fromkeys(entry.dtype for entry in entries):
        work[f"matmul {dtype}"], operations[dtype] = product_timer(dtype, device)
    seconds = interleaved(work, rounds, warm_up)
    rates = {dtype: count / min(seconds[f"matmul {dtype}"]) for dtype, count in operations.items()}
    outputs, rows = {}, {}
    for entry in entries:
        out, flops, peak = entry.inspect()
        if out is not None:
            outputs[entry.name] = out
        first = entries[0].name
        flops = rows[first]["flops"] if flops is None else flops
        least = min(seconds[entry.name])
        rows[entry.name] = {
            "dtype": entry.dtype,
            "compiled": entry.compiled,
            "first_seconds": first_calls.get(entry.name),
            "seconds": seconds[entry.name],
            "min": least,
            "median": median(seconds[entry.name]),
            "flops": flops,
            "matmul_gflops": rates[entry.dtype] / 1e9,
            "share": flops / least / rates[entry.dtype],
            "peak_mb": None if peak is None else peak / 1e6,
            "error": None if out is None else relative_error(out, outputs[first]),
            "ratio": min(seconds[first]) / least,
        }
    for row in rows.values():
        like = [entry for entry in entries if entry.peer and entry.dtype == row["dtype"]]
        row["over_peer"] = {entry.name: rows[entry.name]["min"] / row["min"] for entry in like}
    return rows, outputs


def first_seconds(entry: Entry) -> float:
    """Wall-clock seconds of an entry's first call. Its CPU time would leave out the processes that compile."""
    start = time.perf_counter()
    entry.time()
    return time.perf_counter() - start


def relative_error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return float((a.double() - b.double()).norm() / b.double().norm())
