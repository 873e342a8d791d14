"""Convolutions of three dimensions as a CPU computes them fastest, to attach to a network that is not trained.

Those of 3 x 3 x 3 take half the multiplications by Winograd's way over frames (Lavin & Gray, arXiv 1509.09308): where x
are 6 frames and w the 3 frames of a kernel, 4 outputs are A^T [(G w) * (B^T x)], the algorithm F(4, 3) of sections 4.1
and 4.3. There * is a product; here, a convolution of 3 x 3 within the frame: 6 of them where the definition has 12. Of
2 frames, in I3D's last two blocks, it saves none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 4  # frames that are computed together
# numbers of outputs at a time; half as many more are at work, and glibc maps memory of more than 32 MiB anew each time
AT_ONCE = 5 * 2**20
# a row for each of the points 0, 1, -1, 2, -2 and infinity, in A_T a column
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
    """What a convolution of 3 x 3 x 3, stride 1 and padding 1 computes, (b, c, f, h, w) -> (b, k, f, h, w).

    Not for training: RuntimeError where gradients are asked for. Channels come last in memory, as convolutions within
    frames want them.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        points = torch.einsum("pt,kcthw->pkhwc", torch.tensor(G, dtype=torch.float64), conv.weight.detach().double())
        self.register_buffer("weight", points.to(conv.weight.dtype).movedim(-1, 2))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.register_buffer("b_t", conv.weight.new_tensor(B_T))
        self.register_buffer("a_t", conv.weight.new_tensor(A_T))

    def forward(self, x: Tensor) -> Tensor:
        b, c, f, h, w = x.shape
        tiles = -(-f // TILE)
        frames = F.pad(x.permute(0, 2, 3, 4, 1).reshape(b, f, -1), (0, 0, 1, tiles * TILE - f + 1))
        windows = frames.unfold(1, TILE + 2, TILE).mT.flatten(0, 1)  # (b tiles, 6, h w c)
        outputs = x.new_empty(b * tiles, TILE, h * w * self.weight.shape[1])
        some = max(1, AT_ONCE // outputs[0].numel())
        for part, out in zip(windows.split(some), outputs.split(some)):
            points = (self.b_t @ part).view(-1, TILE + 2, h, w, c).movedim(-1, 2)
            planes = [F.conv2d(points[:, p], *self.kernel(p), padding=1).movedim(1, -1) for p in range(TILE + 2)]
            torch.matmul(self.a_t, torch.stack(planes, 1).flatten(2), out=out)
        return outputs.view(b, tiles * TILE, h, w, -1)[:, :f].movedim(-1, 1)

    def kernel(self, point: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias: what is added at the point 1 is added to every output."""
        return self.weight[point], self.bias if point == 1 else None


class PointwiseConv3d(nn.Module):
    """What a convolution of 1 x 1 x 1 computes, each row of a frame as a picture of its own.

    PyTorch leaves small convolutions of one clip to a slower library, and where it has one thread also those of 1 x 1
    in fewer than 16 pictures.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        self.register_buffer("weight", conv.weight.detach()[:, :, 0].contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        frames = x.permute(0, 2, 3, 4, 1)
        rows = frames.flatten(0, 2)[:, None].movedim(-1, 1)
        return F.conv2d(rows, self.weight, self.bias).movedim(1, -1).reshape(*frames.shape[:-1], -1).movedim(-1, 1)


def geometry(conv: nn.Conv3d) -> tuple:
    """All that a convolution is besides its weights."""
    return conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode


FAST = {
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1, "zeros"): WinogradConv3d,
    ((1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1, "zeros"): PointwiseConv3d,
}


def use_fast_convolutions(network: nn.Module) -> nn.Module:
    """Replace every convolution of a network that one of these computes. Returns the network."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv3d) and geometry(child) in FAST:
                setattr(parent, name, FAST[geometry(child)](child))
    return network
