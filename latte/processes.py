"""The processes that torchrun starts for one command. Without torchrun there is one process, of rank 0."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

# Gloo's threads need Python's global lock to free their last tensors. destroy_process_group holds that lock while it
# waits for them, which deadlocks unless they have finished; sleeping first hands them the lock.
GLOO_CLEANUP_SECONDS = 0.2

# How long processes wait for work that only the first one does, such as a sample grid or an FVD.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


class Launch(NamedTuple):
    """What torchrun's environment variables say of this process; one that it did not start is the only one.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
        local_size: The number of processes on this machine.
    """

    rank: int
    size: int
    local_size: int


def launch() -> Launch:
    """Read torchrun's environment variables. No process group is needed, and none is joined."""
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    return Launch(*(int(os.environ.get(name, default)) for name, default in defaults.items()))


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
        """Add a tensor of every process in place, and return it."""
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

    def broadcast(self, value: T) -> T:
        """Return process 0's value in every process. What the others pass is ignored."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]


@contextmanager
def processes(device: torch.device) -> Iterator[Ranks]:
    """Join the process group that torchrun's environment variables describe, for the length of the block.

    Args:
        device: What this process computes on: with CUDA, tensors are exchanged by NCCL, otherwise by Gloo.

    Yields:
        This process's rank and the number of processes; rank 0 of 1 if the variables are not set.
    """
    if "RANK" not in os.environ:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    # processes that torchrun restarts must not find the addresses of their predecessors
    attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield Ranks(rank, size)
    finally:
        time.sleep(GLOO_CLEANUP_SECONDS)
        dist.destroy_process_group()


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
