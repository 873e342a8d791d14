"""The processes that torchrun started together; without it, there is one."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

# gloo's threads need Python's lock to let go of their last tensors, and a group that is destroyed before they have
# waits for them with that lock held, for ever: so the main thread first sleeps, which gives them the lock
LETTING_GO = 0.2

PATIENCE = timedelta(hours=2)  # with which processes wait for what one does alone: samples, a distance


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes the run's files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a vector over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, what: str, value: str) -> None:
        """ValueError, in all processes: they do not have the same."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        if other := [rank for rank in range(self.size) if values[rank] != values[0]]:
            raise ValueError(f"process {other[0]} has other {what} than process 0: give all of them the same")

    def broadcast(self, value):
        """What the first process has, in all of them."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]


@contextmanager
def processes(device: torch.device) -> Iterator[Ranks]:
    """The processes that were started together; one alone where none of the launcher's variables is set."""
    if "RANK" not in os.environ:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    # processes that torchrun restarts must not find the addresses of those before them
    attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Ranks(rank, size)
    finally:
        time.sleep(LETTING_GO)
        dist.destroy_process_group()


def local_device(name: str) -> str:
    """The device of this process among those that torchrun started on a machine. ValueError: which one is not said."""
    if name != "cuda" or "RANK" not in os.environ:
        return name
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("RANK is set and LOCAL_RANK is not: start the processes with torchrun")
    return f"cuda:{os.environ['LOCAL_RANK']}"
