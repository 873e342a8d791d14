"""The memory that a training needs in each process, part by part, counted in advance on tensors without values.

The network, its loss and its optimiser are the training's own. They run on fake tensors, which have shapes and types
but take no memory, so a published size is counted on a laptop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from latte.eval.bench.planned import planned_objective
from latte.eval.bench.resources import LiveTensors, OperationCount, weight_bytes
from latte.fast import norm_modulate, training_blocks
from latte.fast.switch import is_enabled
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.processes import Ranks
from latte.train.base_config import TrainConfig
from latte.train.objectives.autoencoder import Reconstruction
from latte.train.objectives.denoising import Denoising
from latte.train.optimizer import make_optimizer
from latte.train.parallel import Loss, micro_batches, outermost_blocks
from latte.train.power_average import LENGTHS
from latte.train.precision import keep_in_float32

CPU = torch.device("cpu")
DEPTHS = {
    "latte": ("depth", 2),
    "t2v": ("num_layers", 1),
}  # the setting of the depth, and the least depth with all kinds of blocks
# settings that act between blocks, which a network of least depth has too few of
BETWEEN = {"route_share": 0.0, "dispersive_weight": 0.0, "align_weight": 0.0}


class Data(NamedTuple):
    """What a training's networks need to know about its data and its VAE."""

    vae: VAEConfig
    classes: int


@dataclass(frozen=True)
class TrainingNeed:
    """Bytes that one process needs.

    Attributes:
        weights: The network's weights.
        gradients: The gradients of its parameters, with what reducing them takes.
        optimizer: The optimiser's state.
        averages: The averaged weights.
        vae: The VAE's weights.
        activations: What the forward pass of a micro-batch keeps for the backward pass.
        working: What a block's forward or backward pass takes besides.
        updating: What the optimiser takes while it updates.
        encoding: What encoding some frames takes, before the forward pass.
        gathered: With shard=true, whole weights of blocks that are being computed.
        accumulates: Whether a step has several micro-batches, so that gradients exist during the forward pass.
        operations: Floating-point operations of the forward pass of a micro-batch.
        clips: Clips in a micro-batch.
        micro_batches: Micro-batches in a step.
        shares: The number of processes that weights, averages and optimiser are split over.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    vae: int
    activations: int
    working: int
    updating: int
    encoding: int
    gathered: int
    accumulates: bool
    operations: int
    clips: int
    micro_batches: int
    shares: int

    @property
    def most(self) -> int:
        """The most bytes at once.

        In a step's only micro-batch, gradients appear as activations are freed, so that the larger of the two counts.
        """
        state = self.weights + self.optimizer + self.averages + self.vae
        both = self.activations + self.gradients
        kept = both if self.accumulates else max(self.activations, self.gradients)
        computing = kept + self.working + self.gathered
        return state + max(computing, self.gradients + self.updating, self.encoding)

    def sharded(self, shares: int, copies: int, gathered: int) -> "TrainingNeed":
        """The need of each process if weights, gradients, averages and optimiser are split.

        Args:
            shares: The number of processes that they are split over.
            copies: How many times the gradients are counted here, of which one remains.
            gathered: Bytes of the weights that are whole while a block computes.
        """
        split = {name: getattr(self, name) // shares for name in ("weights", "averages", "optimizer", "updating")}
        return replace(self, **split, gradients=self.gradients // copies // shares, gathered=gathered, shares=shares)


@contextmanager
def without_values() -> Iterator[None]:
    """A context in which new tensors are fake: they take no memory, and computing with them takes no time."""
    part, norm_modulate.PART = norm_modulate.PART, 1 << 62  # splitting a CPU's passes would only add to the count
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        norm_modulate.PART = part


def kept_bytes(compute: Callable[[], Tensor], network: nn.Module) -> int:
    """The bytes that a computation keeps for its backward pass, besides the network's own. Each storage counts once.

    Args:
        compute: The computation. It returns the loss.
        network: Its parameters and buffers do not count.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no other storage gets their address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = compute()
    count = sum(storage.nbytes() for storage in kept.values())
    del loss
    return count


class Step(NamedTuple):
    """A planned training step."""

    network: nn.Module
    averaged: int  # bytes of an average of the weights
    optimizer: torch.optim.Optimizer
    loss: Callable[[], Tensor]  # the forward pass of a micro-batch


def objective_of(config: TrainConfig, data: Data, device: torch.device) -> Denoising | Reconstruction:
    """The objective of a planned training. The weights that it starts from need not exist."""
    config = replace(config, init="") if config.init else config
    with torch.device("meta"):
        side = VideoVAE(AutoencoderKL(data.vae)).latent_side(config.image_size) if config.kind != "vae" else 0
    return planned_objective(config, data.vae.latent_channels, side, data.classes, device)


def planned_step(objective: Denoising | Reconstruction, clips: int, as_on: str) -> Step:
    """Make what a step needs, as latte.train.run does.

    Args:
        objective: The objective of the training, made outside of `without_values`.
        clips: Clips in a micro-batch.
        as_on: The type of the device whose precisions are used.
    """
    config = objective.config
    network = objective.network().train()
    network = network if objective.device == CPU else network.to(objective.device)  # fake tensors cannot be moved
    averaged = weight_bytes([network])
    if isinstance(objective, Denoising):
        average = objective.network().requires_grad_(False).eval() if config.align_weight else network
        objective.attach(network, average)
    if config.fast and is_enabled() and not config.compile:
        training_blocks.attach(network, as_on)
    keep_in_float32(network, as_on)
    loss = Loss(objective, network, config.precision)
    return Step(network, averaged, make_optimizer(config, network), lambda: loss(0, range(clips))[0])


def training_need(config: TrainConfig, data: Data, processes: int = 1, as_on: str = "cuda") -> TrainingNeed:
    """Count what a training needs in each process. With shard=true, states are split over the processes.

    The arguments and errors are those of `whole_and_sharded`.
    """
    return whole_and_sharded(config, data, processes, as_on)[config.shard]


def whole_and_sharded(
    config: TrainConfig, data: Data, processes: int = 1, as_on: str = "cuda"
) -> tuple[TrainingNeed, TrainingNeed]:
    """Count what a training needs in each process, without and with shard=true.

    Args:
        config: The training, whose own `shard` does not matter.
        data: What is known about its data.
        processes: How many processes train.
        as_on: "cuda", or "cpu", where attention computes in another way than on a GPU.

    Raises:
        ValueError: The settings do not fit together, or what they need cannot be computed.
    """
    if config.sequence_parallel > 1:
        raise ValueError("the memory needed with sequence_parallel cannot be computed: leave it at 1")
    batches = micro_batches(config, Ranks(0, processes))
    clips = len(batches[0])
    objective, encodes = objective_of(config, data, CPU), config.kind != "vae" and config.latents == "step"
    with without_values():
        step = planned_step(objective, clips, as_on)
        with OperationCount() as operations:
            activations = kept_bytes(step.loss, step.network)
        weights, parameters = weight_bytes([step.network]), weight_bytes_of(step.network.parameters())
        for parameter in step.network.parameters():
            parameter.grad = torch.empty_like(parameter)
        with LiveTensors() as memory:
            step.optimizer.step()
        state = weight_bytes_of(z for values in step.optimizer.state.values() for z in values.values())
        vae = AutoencoderKL(data.vae)
        frames = torch.empty(min(8, config.num_frames), 3, config.image_size, config.image_size)
        with torch.no_grad(), LiveTensors() as encoding:
            if encodes:
                vae.quant_conv(vae.encoder(frames))
    whole = [weight_bytes_of(block.parameters()) for block in outermost_blocks(step.network)]
    has_vae = config.kind != "vae"
    copies = 3 if config.deterministic_reduce else 2 if processes > 1 else 1  # int64 sums; DDP's buckets
    need = TrainingNeed(
        weights=weights,
        gradients=copies * parameters,
        optimizer=state,
        averages=(1 + (len(LENGTHS) if config.average_every else 0)) * step.averaged,
        vae=weight_bytes([vae]) if has_vae else 0,
        activations=activations,
        working=working_bytes(config, data, clips, as_on),
        updating=memory.peak - state,
        encoding=encoding.peak,
        gathered=0,
        accumulates=len(batches) > 1,
        operations=operations.total,
        clips=clips,
        micro_batches=len(batches),
        shares=1,
    )
    largest = max(whole, default=0)  # whole are a block, the next one, the gradient of one, and what is in no block
    gathered = parameters - sum(whole) + min(2 * largest, sum(whole)) + largest
    return need, need.sharded(config.shard_group or processes, copies, gathered)


def working_bytes(config: TrainConfig, data: Data, clips: int, as_on: str) -> int:
    """The bytes that a step takes besides kept tensors and gradients, at the least depth, since depth adds none."""
    objective = objective_of(with_least_depth(config), data, CPU)
    with without_values():
        step = planned_step(objective, clips, as_on)
        kept = kept_bytes(step.loss, step.network)
        for parameter in step.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with LiveTensors() as memory:
            step.loss().backward()
    return memory.peak - kept


def with_least_depth(config: TrainConfig) -> TrainConfig:
    """The settings with the fewest blocks that include all kinds of the network's blocks."""
    if config.kind not in DEPTHS:
        return config
    name, least = DEPTHS[config.kind]
    return replace(config, model={**config.model, name: least}, **BETWEEN)


def weight_bytes_of(tensors: Iterator[Tensor]) -> int:
    """The bytes of some tensors."""
    return sum(tensor.nbytes for tensor in tensors)
