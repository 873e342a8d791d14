"""What a computation costs: seconds, bytes of weights, and the peak memory of its tensors."""

import time
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Time several calls of a function.

    Args:
        work: the function. It is called without arguments.
        device: where it computes. On CUDA, each call is timed until its kernels have finished.
        repeats: how often to call it.

    Returns:
        The seconds of each call, in order.
    """
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


class LiveTensors(TorchDispatchMode):
    """A context that counts the bytes of the tensors allocated inside it.

    The count is exact and the same on every machine, but counting is slow. It does not include what a kernel allocates
    internally, or tensors that existed before.

    Attributes:
        live: bytes that are allocated now.
        peak: the largest value that `live` has had.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in self.known | inputs:
                self.count_until_freed(leaf.untyped_storage())
        return out

    def count_until_freed(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def weight_bytes(networks: Iterable[nn.Module]) -> int:
    """The bytes of all parameters and buffers of some networks."""
    tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    return sum(tensor.nbytes for tensor in tensors)
