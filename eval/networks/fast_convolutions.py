"""Faster 3-D convolutions for inference on a CPU, which replace those of a network that is already built.

A 3 x 3 x 3 convolution takes half the multiplications with Winograd's algorithm over frames (Lavin & Gray, arXiv
1509.09308), F(4, 3) of their sections 4.1 and 4.3. From 6 input frames x and the 3 frames w of a kernel it computes 4
output frames as A^T [(G w) * (B^T x)]. There, * is an elementwise product; here, it is a 3 x 3 convolution within the
frame. So 4 outputs take 6 such convolutions instead of 12. Nothing is saved for 2 frames, as in I3D's last two blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 4  # output frames per application of the algorithm
# Output values computed at a time. The intermediate results are 1.5 times as many, and glibc maps memory of
# more than 32 MiB anew at every allocation.
AT_ONCE = 5 * 2**20
# G and B_T have a row, and A_T a column, for each of the interpolation points 0, 1, -1, 2, -2 and infinity.
G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
B_T = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
A_T = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]


class WinogradConv3d(nn.Module):
    """A 3 x 3 x 3 convolution with stride 1 and padding 1, by Winograd's algorithm over frames.

    It is for inference only: RuntimeError if gradients are needed. Tensors inside it have channels last in memory,
    which is the fast layout for convolutions within frames.

    Args:
        conv: the convolution to compute, c channels to k.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        points = torch.einsum("pt,kcthw->pkhwc", torch.tensor(G, dtype=torch.float64), conv.weight.detach().double())
        self.register_buffer("weight", points.to(conv.weight.dtype).movedim(-1, 2))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.register_buffer("b_t", conv.weight.new_tensor(B_T))
        self.register_buffer("a_t", conv.weight.new_tensor(A_T))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, f, h, w) -> (b, k, f, h, w)."""
        b, c, f, h, w = x.shape
        tiles = -(-f // TILE)
        frames = F.pad(x.permute(0, 2, 3, 4, 1).reshape(b, f, -1), (0, 0, 1, tiles * TILE - f + 1))
        windows = frames.unfold(1, TILE + 2, TILE).mT.flatten(0, 1)  # (b tiles, 6, h w c)
        outputs = x.new_empty(b * tiles, TILE, h * w * self.weight.shape[1])
        some = max(1, AT_ONCE // outputs[0].numel())
        for part, out in zip(windows.split(some), outputs.split(some)):
            points = (self.b_t @ part).view(-1, TILE + 2, h, w, c).movedim(-1, 2)
            planes = [
                F.conv2d(points[:, p], *self.weight_and_bias(p), padding=1).movedim(1, -1) for p in range(TILE + 2)
            ]
            torch.matmul(self.a_t, torch.stack(planes, 1).flatten(2), out=out)
        return outputs.view(b, tiles * TILE, h, w, -1)[:, :f].movedim(-1, 1)

    def weight_and_bias(self, point: int) -> tuple[Tensor, Tensor | None]:
        """Those of the convolution at one point. A bias at point 1 is added once to every output: see A_T's column."""
        return self.weight[point], self.bias if point == 1 else None


class PointwiseConv3d(nn.Module):
    """A 1 x 1 x 1 convolution, as a 2-D one in which each row of a frame is an image of the batch.

    PyTorch computes small convolutions of a single clip with a slower library; on one thread, also 1 x 1 convolutions
    of fewer than 16 images.

    Args:
        conv: the convolution to compute, c channels to k.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        self.register_buffer("weight", conv.weight.detach()[:, :, 0].contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, f, h, w) -> (b, k, f, h, w)."""
        frames = x.permute(0, 2, 3, 4, 1)
        rows = frames.flatten(0, 2)[:, None].movedim(-1, 1)
        return F.conv2d(rows, self.weight, self.bias).movedim(1, -1).reshape(*frames.shape[:-1], -1).movedim(-1, 1)


def geometry(conv: nn.Conv3d) -> tuple:
    """Everything that defines a convolution besides its channels and weights."""
    return conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode


FAST = {
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1, "zeros"): WinogradConv3d,
    ((1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1, "zeros"): PointwiseConv3d,
}


def use_fast_convolutions(network: nn.Module) -> nn.Module:
    """Replace, in place, each 3-D convolution of a network for which there is a faster one here.

    Returns:
        The network itself. Its outputs are the same up to rounding.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv3d) and geometry(child) in FAST:
                setattr(parent, name, FAST[geometry(child)](child))
    return network
