"""One axis of a tensor, split over several processes into contiguous parts whose lengths differ by at most one."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Split:
    """The processes that share an axis, in order. The default is one process, which holds all of it.

    Attributes:
        rank: The index of this process among them.
        size: How many there are.
        group: Their process group.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, mesh: DeviceMesh) -> "Split":
        """The processes along a mesh of one dimension."""
        return cls(mesh.get_local_rank(), mesh.size(), mesh.get_group())

    def parts(self, length: int) -> list[int]:
        """How much of an axis each process holds. With more processes than entries, the last ones hold none."""
        each, more = divmod(length, self.size)
        return [each + (i < more) for i in range(self.size)]

    def own(self, length: int) -> slice:
        """Which part of an axis this process holds."""
        parts = self.parts(length)
        start = sum(parts[: self.rank])
        return slice(start, start + parts[self.rank])

    def switch(self, x: Tensor, axis: int, length: int) -> Tensor:
        """Move the split to the other axis by one all-to-all: (b, f, s, d), with f or s whole -> the other whole.

        Its gradient is the reverse exchange.

        Args:
            x: This process's part of the axis `axis`, and all of the other.
            axis: The axis to make whole: 1, the frames, or 2, the patches.
            length: Its length, over all processes.

        Returns:
            All of that axis, and this process's part of the other.
        """
        if self.size == 1:
            return x
        x = x.movedim(axis, 0)  # in front, so that what arrives lies in order; the axis to split is now axis 2
        (mine, b, _, d), incoming, outgoing = x.shape, self.parts(length), self.parts(x.shape[2])
        kept = outgoing[self.rank]
        sent = torch.cat([part.flatten() for part in x.split(outgoing, 2)])
        sizes = [n * b * kept * d for n in incoming], [n * b * mine * d for n in outgoing]
        received = AllToAll.apply(sent, *sizes, self.group)
        return received.view(length, b, kept, d).movedim(0, axis)

    def gather(self, x: Tensor, axis: int, length: int) -> Tensor:
        """Join the parts of an axis in every process.

        Every process then computes the same loss from the same tensor. The gradient of a part is therefore `size`
        times its slice of the whole gradient, so that the mean of the processes' gradients is the gradient of the loss.

        Args:
            x: This process's part.
            axis: The axis that is split.
            length: Its length, over all processes.
        """
        return x if self.size == 1 else Gather.apply(x, self, axis, length)


class AllToAll(torch.autograd.Function):
    """dist.all_to_all_single, which autograd does not support, with the reverse exchange as its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, incoming: list[int], outgoing: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.backwards = outgoing, incoming, group
        received = x.new_empty(sum(incoming))
        dist.all_to_all_single(received, x, incoming, outgoing, group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return AllToAll.apply(gradient.contiguous(), *ctx.backwards), None, None, None


class Gather(torch.autograd.Function):
    """See Split.gather."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, split: Split, axis: int, length: int) -> Tensor:
        ctx.split, ctx.axis, parts = split, axis, split.parts(length)
        x = x.movedim(axis, 0)
        padded = torch.cat([x, x.new_zeros(parts[0] - len(x), *x.shape[1:])])  # all-gather takes equal parts
        pieces = [torch.empty_like(padded) for _ in parts]
        dist.all_gather(pieces, padded, split.group)
        whole = torch.cat([piece[:n] for piece, n in zip(pieces, parts)])
        return whole.movedim(0, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        part = ctx.split.own(gradient.shape[ctx.axis])
        return gradient.narrow(ctx.axis, part.start, part.stop - part.start) * ctx.split.size, None, None, None
