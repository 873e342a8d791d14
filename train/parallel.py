"""Training in several processes: which clips each of them takes, and how gradients and weights are exchanged.

torchrun starts the processes, or SLURM with the same environment variables. Random numbers depend only on (seed, step,
slot), so the number of processes only changes the order in which gradients are summed. With deterministic_reduce, that
order has no effect either.

With sequence_parallel, groups of neighbouring processes take the same clips and split their frames (latte.parallel).
Each of them computes the whole loss; the gradient is the mean of their gradients. Each process holds a copy of the
weights (DDP), a shard (FSDP2), or a shard of a copy that a group of processes shares (HSDP).
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from latte.models.denoiser import Denoiser
from latte.parallel.layout import Layout, training_meshes
from latte.parallel.sequence import attach
from latte.parallel.split import Split
from latte.processes import Ranks
from latte.train.base_config import TrainConfig
from latte.train.precision import autocast

FIXED_POINT = 2.0**40  # fixed-point gradients are multiples of 1 / FIXED_POINT, about 1e-12
LARGEST_SUM = 2.0**22  # of their absolute values: times FIXED_POINT, it fits an int64


def micro_batches(config: TrainConfig, ranks: Ranks) -> list[range]:
    """Split a step into micro-batches, and list those of this process.

    Args:
        config: The run's settings.
        ranks: This process among all.

    Returns:
        The slots of each micro-batch. A slot is the position of a clip in the global batch.

    Raises:
        ValueError: The global batch cannot be split evenly.
    """
    groups, group = ranks.size // config.sequence_parallel, ranks.rank // config.sequence_parallel
    micro = config.micro_batch_size or max(1, config.global_batch_size // groups)
    if config.global_batch_size % (micro * groups):
        shared = f" ({config.sequence_parallel} per clip)" if config.sequence_parallel > 1 else ""
        raise ValueError(
            f"global_batch_size {config.global_batch_size} cannot be split over {ranks.size} processes{shared} in "
            f"micro-batches of {micro}: make it a multiple of {micro * groups}"
        )
    starts = range(group * micro, config.global_batch_size, groups * micro)
    return [range(start, start + micro) for start in starts]


class Loss(nn.Module):
    """An objective as a module, which DistributedDataParallel can wrap.

    Args:
        objective: Computes the loss as objective(network, step, slots).
        network: The network that learns.
        precision: The precision of the forward pass, a key of PRECISIONS.
    """

    def __init__(self, objective: Callable, network: nn.Module, precision: str):
        super().__init__()
        self.objective, self.network, self.precision = objective, network, precision

    def forward(self, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean loss over some slots of a step, and the numbers to log."""
        with autocast(self.precision, next(self.network.parameters()).device):
            return self.objective(self.network, step, slots)


class Gradients:
    """Computes the gradients of a step: call `accumulate` for each micro-batch, then `finish`."""

    def accumulate(self, step: int, slots: range, share: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a micro-batch, and add its gradients.

        Args:
            step: The number of the step, from 0.
            slots: The slots of the micro-batch.
            share: Factor of its loss: its share of the global batch, times the loss scale.
            last: Whether it is the last one of the step in this process.

        Returns:
            The mean loss over the slots, not multiplied by `share`, and the numbers to log.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Complete the gradients of the parameters after the last micro-batch."""


class ReplicatedGradients(Gradients):
    """Every process holds the full network. DDP averages the gradients after the last micro-batch.

    Args:
        loss: The loss.
        ranks: This process among all.
        groups: How many groups of processes take different clips.
    """

    def __init__(self, loss: Loss, ranks: Ranks, groups: int):
        self.loss = DistributedDataParallel(loss) if ranks.size > 1 else loss
        self.size, self.groups = ranks.size, groups

    def accumulate(self, step: int, slots: range, share: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with nullcontext() if last or self.size == 1 else self.loss.no_sync():
            value, terms = self.loss(step, slots)
            (share * self.groups * value).backward()  # DDP takes the mean over processes, and so over groups
        return value, terms


class ShardedGradients(Gradients):
    """FSDP2: every process holds a part of each weight, and gathers the weights of a block while it computes.

    Args: As in ReplicatedGradients.
    """

    def __init__(self, loss: Loss, ranks: Ranks, groups: int):
        self.loss, self.groups = loss, groups

    def accumulate(self, step: int, slots: range, share: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self.loss.network.set_requires_gradient_sync(last)
        value, terms = self.loss(step, slots)
        (share * self.groups * value).backward()  # FSDP takes the mean, as DDP
        return value, terms


class FixedPointGradients(Gradients):
    """Every process holds the full network, and gradients are summed as integer multiples of 1 / FIXED_POINT.

    A sum of integers does not depend on their order, so the number of processes does not change the result. If a
    gradient is not finite, or the sum might overflow an int64, the result is NaN, and the step is skipped.
    """

    def __init__(self, loss: Loss, ranks: Ranks, groups: int = 1):
        self.loss, self.ranks = loss, ranks
        self.parameters = [parameter for parameter in loss.parameters() if parameter.requires_grad]
        self.sums = [torch.zeros_like(parameter, dtype=torch.int64) for parameter in self.parameters]
        self.bound = torch.zeros(1, dtype=torch.int64, device=self.sums[0].device)  # of the absolute values of the sums

    def accumulate(self, step: int, slots: range, share: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        value, terms = self.loss(step, slots)
        gradients = torch.autograd.grad(share * value, self.parameters, allow_unused=True)
        largest = torch.zeros_like(self.bound)
        for total, gradient in zip(self.sums, gradients):
            if gradient is None:
                continue
            exact = gradient.double().nan_to_num(LARGEST_SUM).clamp(-LARGEST_SUM, LARGEST_SUM)
            largest = torch.maximum(largest, exact.abs().max().ceil().long())
            total += (exact * FIXED_POINT).round().long()
        self.bound += largest
        return value, terms

    def finish(self) -> None:
        """Sum over all processes, and set the parameters' gradients."""
        for total in (*self.sums, self.bound):
            self.ranks.sum(total)
        overflowed = self.bound >= LARGEST_SUM
        for parameter, total in zip(self.parameters, self.sums):
            gradient = (total.double() / FIXED_POINT).to(parameter.dtype)
            parameter.grad = torch.where(overflowed, torch.nan, gradient)
            total.zero_()
        self.bound.zero_()


def arrange(config: TrainConfig, ranks: Ranks, device: torch.device) -> tuple[DeviceMesh, DeviceMesh] | None:
    """Return the meshes of clips and of weights (latte.parallel.layout.training_meshes); None for one process.

    Raises:
        ValueError: The settings do not fit the number of processes, or torchrun did not start this one.
    """
    if not dist.is_initialized():
        for name, asked in (("shard=true", config.shard), ("sequence_parallel", config.sequence_parallel > 1)):
            if asked:
                raise ValueError(f"{name} splits the work over processes: start them with torchrun")
        return None
    return training_meshes(device.type, ranks.size, config.sequence_parallel, config.shard_group)


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Split the weights of a network over the processes, block by block, in place, and return it.

    Args:
        network: The network.
        mesh: Copies of the weights x shards of a copy.
    """
    mesh = mesh["shard"] if mesh.size() == mesh["shard"].size() else mesh  # FSDP2, or HSDP
    for block in outermost_blocks(network):
        fully_shard(block, mesh=mesh)
    no_backward = not any(parameter.requires_grad for parameter in network.parameters())  # which would reshard it
    return fully_shard(network, mesh=mesh, reshard_after_forward=no_backward or None)


def share_clips(network: nn.Module, mesh: DeviceMesh) -> None:
    """From now on, let neighbouring processes split the frames of each clip that a network's denoiser is given.

    Args:
        network: The network.
        mesh: Clips at once x processes per clip.
    """
    for denoiser in (module for module in network.modules() if isinstance(module, Denoiser)):
        attach(denoiser, [Layout(frames=Split.of(mesh["sequence"]))])


def outermost_blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules in the network's outermost lists of modules."""
    for child in network.children():
        yield from child if isinstance(child, nn.ModuleList) else outermost_blocks(child)


def gather_weights(network: nn.Module) -> dict[str, Tensor]:
    """Gather the tensors of a network on the CPU of the first process. The others leave out sharded tensors."""
    return dcp.get_model_state_dict(network, options=dcp.StateDictOptions(full_state_dict=True, cpu_offload=True))


def gather_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Gather the state of an optimiser likewise, by names such as "blocks.0.norm.weight.exp_avg"."""
    options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = dcp.get_optimizer_state_dict(network, optimizer, options=options).get("state", {})
    return {f"{name}.{kind}": tensor for name, kinds in state.items() for kind, tensor in kinds.items()}


def scatter_weights(network: nn.Module, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Load the tensors that the first process has into the network of every process, sharded or not."""
    options = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=ranks.size > 1)
    dcp.set_model_state_dict(network, tensors, options=options)


def scatter_optimizer(
    network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], ranks: Ranks
) -> None:
    """Load the state of an optimiser that gather_optimizer returned in the first process."""
    if not ranks.broadcast(len(tensors)):
        return  # the optimiser had not taken a step yet
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, kind = key.rsplit(".", 1)
        state.setdefault(name, {})[kind] = tensor
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = [{**group, "params": [names[each] for each in group["params"]]} for group in optimizer.param_groups]
    options = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=ranks.size > 1)
    dcp.set_optimizer_state_dict(network, optimizer, {"state": state, "param_groups": groups}, options=options)
