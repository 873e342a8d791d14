"""How the processes of a command share the work on one video."""

from dataclasses import dataclass, field

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from latte.parallel.split import Split
from latte.processes import make_mesh

GUIDANCE, FRAMES = "guidance", "frames"  # the dimensions of a mesh for sampling


@dataclass(frozen=True)
class Layout:
    """Which axes of a batch of videos are split, and over which processes.

    Attributes:
        batch: The processes that share the batch, such as the two halves of guidance.
        frames: The processes that share the frames and, in temporal attention, the patches.
    """

    batch: Split = field(default_factory=Split)
    frames: Split = field(default_factory=Split)


def sampling_mesh(device_type: str, guided: bool) -> DeviceMesh:
    """Arrange all processes to sample together: 2 x n / 2 for the halves of guidance and the frames, or 1 x n.

    Args:
        device_type: What the processes compute on: "cpu" or "cuda".
        guided: Whether guidance applies. An odd number of processes splits the frames only.

    Raises:
        ValueError: The processes were not started together.
    """
    if not dist.is_initialized():
        raise ValueError("there are no processes to sample together: start them with torchrun")
    count = dist.get_world_size()
    halves = 2 if guided and count % 2 == 0 else 1
    return make_mesh(device_type, (halves, count // halves), (GUIDANCE, FRAMES))


def layouts(mesh: DeviceMesh) -> list[Layout]:
    """The layouts of sampling, in order of preference.

    A batch that cannot be divided between the halves of guidance, as in steps without guidance, is split over all
    processes by frames only.
    """
    everyone = Split(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    return [Layout(Split.of(mesh[GUIDANCE]), Split.of(mesh[FRAMES])), Layout(frames=everyone)]


def training_meshes(device_type: str, size: int, sequence: int, shard: int) -> tuple[DeviceMesh, DeviceMesh]:
    """Arrange the processes of a training run in two ways.

    Args:
        device_type: What the processes compute on.
        size: How many there are.
        sequence: How many processes share each clip (sequence parallelism); the others take other clips (data
            parallelism).
        shard: How many processes share one copy of the weights; 0 means all of them.

    Returns:
        The mesh of clips, (data, sequence), and the mesh of weights, (replicate, shard) (HSDP).

    Raises:
        ValueError: sequence or shard does not divide the number of processes.
    """
    shard = shard or size
    for name, value in (("sequence_parallel", sequence), ("shard_group", shard)):
        if size % value:
            raise ValueError(f"{name} is {value}; it must divide the number of processes, {size}")
    clips = make_mesh(device_type, (size // sequence, sequence), ("data", "sequence"))
    return clips, make_mesh(device_type, (size // shard, shard), ("replicate", "shard"))
