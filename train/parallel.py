"""Several processes, one training: who takes which slots of a step, and how gradients and weights come together.

torchrun (or SLURM, with the same variables) starts the processes; without it there is one. Every process sees the same
random numbers, which belong to (seed, step, slot), so that their number changes no more than the order of a sum; with
deterministic_reduce not even that.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from latte.processes import Ranks
from latte.train.config import TrainConfig
from latte.train.precision import autocast

FIXED = 2.0**40  # of fixed-point gradients: steps of 1e-12, sums up to LARGEST
LARGEST = 2.0**22


def micro_batches(config: TrainConfig, ranks: Ranks) -> list[range]:
    """The slots of a step that go through this process's network at once, one range after the other.

    Raises:
        ValueError: The processes cannot share a step evenly.
    """
    micro = config.micro_batch_size or max(1, config.global_batch_size // ranks.size)
    if config.global_batch_size % (micro * ranks.size):
        raise ValueError(
            f"global_batch_size {config.global_batch_size} in units of {micro} cannot be shared by {ranks.size} "
            f"processes: make it a multiple of {micro * ranks.size}"
        )
    starts = range(ranks.rank * micro, config.global_batch_size, ranks.size * micro)
    return [range(start, start + micro) for start in starts]


class Loss(nn.Module):
    """An objective of a network, in some precision, as one module: (step, slots) -> scalar, numbers to log."""

    def __init__(self, objective: Callable, network: nn.Module, precision: str):
        super().__init__()
        self.objective, self.network, self.precision = objective, network, precision

    def forward(self, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(self.precision, next(self.network.parameters()).device):
            return self.objective(self.network, step, slots)


class Replicas:
    """Every process has the whole network; where there are several, DDP sums their gradients in the last unit."""

    def __init__(self, loss: Loss, ranks: Ranks):
        self.loss = DistributedDataParallel(loss) if ranks.size > 1 else loss
        self.size = ranks.size

    def add(self, step: int, slots: range, share: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Add `share` of the gradient of these slots' loss; the loss and the numbers to log."""
        with nullcontext() if last or self.size == 1 else self.loss.no_sync():
            value, terms = self.loss(step, slots)
            (share * self.size * value).backward()  # of the processes' gradients DDP takes the mean
        return value, terms

    def finish(self) -> None:
        """Nothing is left to do after the last unit."""


class Shards:
    """FSDP2: every process has its share of each weight, and gathers a block's when it computes."""

    def __init__(self, loss: Loss, ranks: Ranks):
        self.loss, self.size = loss, ranks.size

    def add(self, step: int, slots: range, share: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self.loss.network.set_requires_gradient_sync(last)
        value, terms = self.loss(step, slots)
        (share * self.size * value).backward()  # the mean, here too
        return value, terms

    def finish(self) -> None:
        """Nothing is left to do after the last unit."""


class FixedPoint:
    """Every process has the whole network; units' gradients are summed as whole multiples of 1 / FIXED.

    Whole numbers have one sum in any order: the number of processes changes no bit. Gradients that are not finite, or
    so large that their sum might be no int64, make it NaN.
    """

    def __init__(self, loss: Loss, ranks: Ranks):
        self.loss, self.ranks = loss, ranks
        self.parameters = [parameter for parameter in loss.parameters() if parameter.requires_grad]
        self.sums = [torch.zeros_like(parameter, dtype=torch.int64) for parameter in self.parameters]
        self.bound = torch.zeros(1, dtype=torch.int64, device=self.sums[0].device)  # no sum is larger

    def add(self, step: int, slots: range, share: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        value, terms = self.loss(step, slots)
        gradients = torch.autograd.grad(share * value, self.parameters, allow_unused=True)
        largest = torch.zeros_like(self.bound)
        for total, gradient in zip(self.sums, gradients):
            if gradient is None:
                continue
            exact = gradient.double().nan_to_num(LARGEST).clamp(-LARGEST, LARGEST)
            largest = torch.maximum(largest, exact.abs().max().ceil().long())
            total += (exact * FIXED).round().long()
        self.bound += largest
        return value, terms

    def finish(self) -> None:
        """The sum over all processes becomes the parameters' gradients."""
        for total in (*self.sums, self.bound):
            self.ranks.sum(total)
        spoilt = self.bound >= LARGEST
        for parameter, total in zip(self.parameters, self.sums):
            gradient = (total.double() / FIXED).to(parameter.dtype)
            parameter.grad = torch.where(spoilt, torch.nan, gradient)
            total.zero_()
        self.bound.zero_()


def shard(network: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Split a network's weights over the processes, in place, block by block. ValueError: torchrun started none."""
    if not dist.is_initialized():
        raise ValueError("shard splits the weights over processes: start them with torchrun")
    mesh = init_device_mesh(device.type, (ranks.size,))
    for block in blocks(network):
        fully_shard(block, mesh=mesh)
    return fully_shard(network, mesh=mesh)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of its outermost lists of modules."""
    for child in network.children():
        yield from child if isinstance(child, nn.ModuleList) else blocks(child)


def gather_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors by name, on the CPU, in the first process; in others, of split weights, nothing."""
    return dcp.get_model_state_dict(network, options=dcp.StateDictOptions(full_state_dict=True, cpu_offload=True))


def gather_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's tensors, likewise, named "WEIGHT.KIND", such as "blocks.0.norm.weight.exp_avg"."""
    options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = dcp.get_optimizer_state_dict(network, optimizer, options=options).get("state", {})
    return {f"{name}.{kind}": tensor for name, kinds in state.items() for kind, tensor in kinds.items()}


def scatter_weights(network: nn.Module, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Give a network the tensors that the first process has, in whatever way it is split."""
    options = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=ranks.size > 1)
    dcp.set_model_state_dict(network, tensors, options=options)


def scatter_optimizer(
    network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], ranks: Ranks
) -> None:
    """The inverse of gather_optimizer."""
    if not ranks.broadcast(len(tensors)):
        return  # it had taken no step yet
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, kind = key.rsplit(".", 1)
        state.setdefault(name, {})[kind] = tensor
    groups = [{**group, "params": [name for name, _ in network.named_parameters()]} for group in optimizer.param_groups]
    options = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=ranks.size > 1)
    dcp.set_optimizer_state_dict(network, optimizer, {"state": state, "param_groups": groups}, options=options)
