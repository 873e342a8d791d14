"""The cost of a computation: seconds, floating-point operations, bytes of weights, and the peak memory of its tensors.

Nothing from the package is imported here, since peer_program.py runs with a copy of this file.
"""

import math
import time
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


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


def clock(device: torch.device) -> float:
    """Seconds on the clock that times a computation: CPU time for one thread, which other load does not affect."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def seconds_of(work: Callable[[], object], device: torch.device, least: float = 0.0) -> float:
    """The seconds of one call of a function, by `clock`.

    Args:
        work: The function. It is called without arguments.
        device: Where it computes.
        least: Short calls are repeated for this many seconds, and averaged.
    """
    calls, start, now = 0, clock(device), 0.0
    while not calls or now - start < least:
        work()
        calls, now = calls + 1, clock(device)
    return (now - start) / calls


class OperationCount(FlopCounterMode):
    """A context that counts floating-point operations of products and attention, two for each multiplication.

    Attributes:
        total: Operations so far. PyTorch's own counter leaves out attention on a CPU, oneDNN's linear layers, and
            products that end in GELU or in an addition in place.
    """

    def __init__(self) -> None:
        unknown = {
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
            torch.ops.aten._addmm_activation: added_flops,
            torch.ops.aten.addmm_: added_flops,
        }
        if torch.backends.mkldnn.is_available():
            unknown[torch.ops.mkldnn._linear_pointwise] = linear_flops
        super().__init__(display=False, custom_mapping=unknown)

    @property
    def total(self) -> int:
        """Operations so far."""
        return self.get_total_flops()


def attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    """Operations of attention, from the shapes (b, h, n, e) of queries, keys and values."""
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def linear_flops(x: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
    """Operations of a linear layer, from the shapes of its input and output."""
    return 2 * math.prod(x) * out_shape[-1]


def added_flops(added: torch.Size, a: torch.Size, b: torch.Size, *_: object, **__: object) -> int:
    """Operations of a product that is added to something, from the shapes of what it is added to and its factors."""
    return 2 * math.prod(a) * b[-1]


def working_memory(work: Callable[[], object], device: torch.device) -> int:
    """The peak bytes that a call takes besides those allocated before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveTensors() as memory:
        work()
    return memory.peak


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
        inputs = {id(memory_of(leaf)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id(memory_of(leaf)) not in self.known | inputs:
                self.count_until_freed(memory_of(leaf))
        return out

    def count_until_freed(self, storage: torch.UntypedStorage | Tensor) -> None:
        key = id(storage)
        size = storage.numel() * storage.element_size() if isinstance(storage, Tensor) else storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def memory_of(tensor: Tensor) -> torch.UntypedStorage | Tensor:
    """The owner of a tensor's bytes: its storage, or itself if it has none, as in oneDNN's layouts."""
    return tensor.untyped_storage() if tensor.layout == torch.strided else tensor


def weight_bytes(networks: Iterable[nn.Module]) -> int:
    """The bytes of all parameters and buffers of some networks."""
    tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    return sum(tensor.nbytes for tensor in tensors)
