"""The processes that torchrun starts for one command. Without torchrun there is one process, of rank 0."""

import os
import pickle
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from latte.launch import ADVICE, launch

T = TypeVar("T")

# Gloo's threads need Python's GIL to free their last tensors. destroy_process_group holds the GIL while it waits for
# them, which deadlocks unless they have finished; sleeping first lets them take it.
GLOO_CLEANUP_SECONDS = 0.2

# How long processes wait for work that only the first one does, such as a sample grid or an FVD.
COLLECTIVE_TIMEOUT = timedelta(hours=2)

# How long they wait for each other at the start, in seconds, since a process may never have been started; and after
# which time they report that they are waiting.
START_TIMEOUT, START_NOTICE = 300.0, 20.0


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a command. Every method must be called by all of them.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes the files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes get here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, what: str, value: str) -> None:
        """Check that all processes have the same value.

        Args:
            what: The name of the value, for the message.
            value: This process's value.

        Raises:
            ValueError: In every process, if the values differ.
        """
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        if different := [rank for rank in range(self.size) if values[rank] != values[0]]:
            raise ValueError(f"process {different[0]} has different {what} from process 0; give all processes the same")

    @contextmanager
    def first_inside(self, context: Callable[[], AbstractContextManager]) -> Iterator[None]:
        """Enter a context, such as a lock, in process 0 only. If it cannot be entered, all processes fail."""
        with ExitStack() as stack:
            self.first_only(lambda: bool(stack.enter_context(context())))
            yield

    def broadcast(self, value: T) -> T:
        """Return process 0's value in every process. What the others pass is ignored."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def first_only(self, work: Callable[[], T]) -> T:
        """Do something in process 0, and return its result in every process.

        Args:
            work: The function to run. Its result must be small, and pickle must be able to copy it.

        Returns:
            What `work` returned in process 0.

        Raises:
            Exception: What `work` raised in process 0, in every process: none waits for one that has ended.
        """
        if self.size == 1:
            return work()
        outcome: tuple[Any, Exception | None] = attempt(work) if self.first else (None, None)
        result, error = self.broadcast(outcome)
        if error is not None:
            raise error
        return result

    def share(self, count: int, work: Callable[[int], T], block: int = 16) -> Iterator[T]:
        """Do `count` pieces of work, an equal share in each process, and yield all results in every process.

        Args:
            count: The number of pieces, which are numbered from 0 and yielded in this order.
            work: Does the piece with this number. Pickle must be able to copy its result.
            block: How many pieces a process does before the results are exchanged.

        Raises:
            Exception: What `work` raised in one process, in every process: none waits for one that has ended.
        """
        if self.size == 1:
            yield from map(work, range(count))
            return
        for first in range(0, count, block * self.size):
            own = range(first + self.rank, min(first + block * self.size, count), self.size)
            outcomes: list[Any] = [None] * self.size
            dist.all_gather_object(outcomes, attempt(partial(list, map(work, own))))
            for _, error in outcomes:
                if error is not None:
                    raise error
            shares = [results for results, _ in outcomes]
            yield from (shares[i % self.size][i // self.size] for i in range(sum(map(len, shares))))


def attempt(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The result of some work, or the error that it raised, in a form that other processes can raise too."""
    try:
        return work(), None
    except Exception as caught:
        return None, can_be_sent(caught)


def can_be_sent(error: Exception) -> Exception:
    """An error that other processes can raise too: itself, unless pickle cannot copy it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def processes(device: torch.device) -> Iterator[Ranks]:
    """Join the process group that torchrun's environment variables describe, for the length of the block.

    Nested blocks do nothing.

    Args:
        device: What this process computes on: with CUDA, tensors are exchanged by NCCL, otherwise by Gloo.

    Yields:
        This process's rank and the number of processes; rank 0 of 1 if the variables are not set.

    Raises:
        ValueError: The variables contradict each other, or some processes did not join within START_TIMEOUT seconds.
    """
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if "RANK" not in os.environ:
        if launch().size > 1:
            raise ValueError(f"WORLD_SIZE is {launch().size} and RANK is not set: {ADVICE}")
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = launch()
    store = meet(ranks.rank, ranks.size)
    backend, soon = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timedelta(seconds=START_TIMEOUT)
    try:
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=soon)
    except RuntimeError as error:
        raise ValueError(
            f"process {ranks.rank} of {ranks.size} lost contact with the others during start-up: {error}"
        ) from error
    _set_pg_timeout(COLLECTIVE_TIMEOUT)
    try:
        yield Ranks(ranks.rank, ranks.size)
    finally:
        time.sleep(GLOO_CLEANUP_SECONDS)
        dist.destroy_process_group()


def make_mesh(device_type: str, shape: tuple[int, ...], names: tuple[str, ...]) -> DeviceMesh:
    """Arrange all processes in a mesh, whose groups wait as long for each other as all processes do."""
    mesh = init_device_mesh(device_type, shape, mesh_dim_names=names)
    for name in names:
        _set_pg_timeout(COLLECTIVE_TIMEOUT, mesh.get_group(name))
    return mesh


def meet(rank: int, size: int) -> dist.Store:
    """Wait until all processes have joined at the address in MASTER_ADDR and MASTER_PORT.

    Args:
        rank: The number of this process.
        size: The number of processes.

    Returns:
        The store that they share.

    Raises:
        ValueError: The variables are wrong, or a process did not join. The message names the address.
    """
    if not 0 <= rank < size:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE is {size}: {ADVICE}")
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise ValueError(f"RANK is set, and MASTER_ADDR is {host!r} and MASTER_PORT {port!r}: {ADVICE}")
    start, told = time.monotonic(), False
    store, missing, reason = None, "process 0" if rank else "the other processes", ""
    while (waited := time.monotonic() - start) < START_TIMEOUT:
        try:
            store = store or open_store(host, int(port), rank, size)
            if not (absent := absent_ranks(store, rank, size)):
                store.set_timeout(timedelta(seconds=START_TIMEOUT))
                return store
            missing = f"process {', '.join(map(str, absent[:8]))}{' and more' if len(absent) > 8 else ''}"
        except (OSError, RuntimeError) as error:
            store, reason = None, f" ({str(error).splitlines()[0]})"
            if "EADDRINUSE" in str(error):
                raise ValueError(f"{host}:{port} is in use by another program: give another MASTER_PORT") from error
        if waited > START_NOTICE and not told:
            told = True
            warnings.warn(f"process {rank} of {size} waits at {host}:{port} for {missing}", stacklevel=3)
        time.sleep(0.1)
    where = f"process {rank} of {size} waited {START_TIMEOUT:g} seconds at {host}:{port} for {missing}"
    raise ValueError(f"gave up: {where}{reason}: {ADVICE}")


def open_store(host: str, port: int, rank: int, size: int) -> dist.Store:
    """Open the store that all processes share, and announce this process in it.

    torchrun's agent serves it, or else process 0. The attempts to connect are short, so that Ctrl-C ends the waiting.

    Raises:
        OSError: Nobody serves it yet.
        RuntimeError: It cannot be served, or another program serves at this address.
    """
    serves, short = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True", timedelta(seconds=5)
    if not serves:
        socket.create_connection((host, port), timeout=short.seconds).close()  # PyTorch prints a trace if that fails
    store = dist.TCPStore(host, port, size, serves, short, wait_for_workers=False, multi_tenant=True)
    # processes that torchrun restarts must not find the addresses of their predecessors
    attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    attempt.set(f"here-{rank}", "")
    return attempt


def absent_ranks(store: dist.Store, rank: int, size: int) -> list[int]:
    """The processes that have not joined yet."""
    if store.check([f"here-{other}" for other in range(size)]):
        return []
    return [other for other in range(size) if not store.check([f"here-{other}"])]


def local_device(name: str) -> str:
    """Return this process's own device: for "cuda" under torchrun, the GPU of its local rank.

    Raises:
        ValueError: If RANK is set and LOCAL_RANK is not.
    """
    if name != "cuda" or "RANK" not in os.environ:
        return name
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("RANK is set and LOCAL_RANK is not; start the processes with torchrun")
    return f"cuda:{os.environ['LOCAL_RANK']}"
