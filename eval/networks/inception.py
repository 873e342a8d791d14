"""Inception v3 as TensorFlow published it on 2015-12-05 (Szegedy et al., arXiv 1512.00567): the network of the FID.

FID: Heusel et al., arXiv 1706.08500. This is not torchvision's network. The weights are TensorFlow's, average pooling
leaves the padding out, the last block has a max pool, and frames are resized as in TensorFlow 1. Parameters have the
names of torch-fidelity's converted file.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.video.pixels import slice_by_slice

SIZE = 299  # height and width of the frames, in pixels
FORK = ((1, 3), (3, 1))  # two kernels side by side, on the same input
AVERAGE = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
MAX = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
HALVE = partial(F.max_pool2d, kernel_size=3, stride=2)

Chain = list[tuple]  # consecutive convolutions: output channels, kernel, and the stride where it is not 1


def block_a(pooled: int) -> dict[str, Chain]:
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "branch_pool": [(pooled, 1)],
    }


def block_c(mid: int) -> dict[str, Chain]:
    wide, tall = (1, 7), (7, 1)
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(mid, 1), (mid, wide), (192, tall)],
        "branch7x7dbl": [(mid, 1), (mid, tall), (mid, wide), (mid, tall), (192, wide)],
        "branch_pool": [(192, 1)],
    }


BLOCK_B = {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)], "branch_pool": []}
BLOCK_D = {
    "branch3x3": [(192, 1), (320, 3, 2)],
    "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
    "branch_pool": [],
}
BLOCK_E = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), (384, FORK)],
    "branch3x3dbl": [(448, 1), (384, 3), (384, FORK)],
    "branch_pool": [(192, 1)],
}
# name -> input channels, branches, and the pooling that the branch_pool begins with
BLOCKS = {
    "Mixed_5b": (192, block_a(32), AVERAGE),
    "Mixed_5c": (256, block_a(64), AVERAGE),
    "Mixed_5d": (288, block_a(64), AVERAGE),
    "Mixed_6a": (288, BLOCK_B, HALVE),
    "Mixed_6b": (768, block_c(128), AVERAGE),
    "Mixed_6c": (768, block_c(160), AVERAGE),
    "Mixed_6d": (768, block_c(160), AVERAGE),
    "Mixed_6e": (768, block_c(192), AVERAGE),
    "Mixed_7a": (768, BLOCK_D, HALVE),
    "Mixed_7b": (1280, BLOCK_E, AVERAGE),
    "Mixed_7c": (2048, BLOCK_E, MAX),  # sic: the graph's last pool is a maximum
}


class Unit(nn.Module):
    """A convolution, a batch norm and a ReLU."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """An Inception block: branches on the same input (n, c, h, w), concatenated over channels.

    Args:
        channels: of the input.
        chains: the convolutions of each branch, by its name.
        pool: what the branch named branch_pool begins with.
    """

    def __init__(self, channels: int, chains: dict[str, Chain], pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self.pool = pool
        self.branches = {branch: self.add_units(branch, channels, chain) for branch, chain in chains.items()}

    def add_units(self, branch: str, channels: int, chain: Chain) -> list[list[str]]:
        """Add the units of a branch to the module; their names, stage by stage. A fork is one stage with two units."""
        stages = []
        for i, (out, kernel, *stride) in enumerate(chain, 1):
            name = f"{branch}_{i}" if len(chain) > 1 else branch
            kernels = dict(zip((f"{name}a", f"{name}b"), FORK)) if kernel == FORK else {name: kernel}
            for unit, size in kernels.items():
                height, width = (size, size) if isinstance(size, int) else size
                options = {"stride": stride[0]} if stride else {"padding": (height // 2, width // 2)}
                self.add_module(unit, Unit(channels, out, size, **options))
            stages.append(list(kernels))
            channels = out * len(kernels)
        return stages

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch, stages in self.branches.items():
            y = self.pool(x) if branch == "branch_pool" else x
            for units in stages:
                y = torch.cat([self.get_submodule(unit)(y) for unit in units], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


class Inception(nn.Module):
    """Inception v3 up to the average pool before the classifier, whose outputs are the features of the FID."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        for name, block in BLOCKS.items():
            self.add_module(name, Mixed(*block))
        self.fc = nn.Linear(2048, 1008)  # in the published file; features do not need it

    def forward(self, frames: Tensor) -> Tensor:
        """Map uint8 frames (n, 3, h, w) of any size to features (n, 2048), in the type of the weights."""
        resize = lambda part: resize_tf1(resize_tf1(part.to(self.fc.weight.dtype), 3, SIZE), 2, SIZE)
        x = (slice_by_slice(resize, frames) - 128) / 128
        x = HALVE(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = HALVE(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def resize_tf1(x: Tensor, dim: int, size: int) -> Tensor:
    """Resize one axis linearly as TensorFlow 1 does: output pixel i samples the input at i * old / size.

    Most other libraries sample at (i + 0.5) * old / size - 0.5.

    Args:
        x: a floating-point tensor.
        dim: the axis.
        size: its new length.
    """
    old = x.shape[dim]
    position = torch.arange(size, dtype=torch.float32, device=x.device) * (old / size)
    low = position.long()
    share = (position - low).to(x.dtype).view([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])
    first, second = x.index_select(dim, low), x.index_select(dim, (low + 1).clamp(max=old - 1))
    return first + (second - first) * share
