"""The common part of VideoMAE and V-JEPA: a vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) over a clip.

Parameters have the names of both published networks. Shape letters: b clips, n tokens, d width, f frames.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.eval.networks.i3d_weights import squash
from latte.video.pixels import slice_by_slice

SIDE = 224  # height and width of the frames, in pixels
TUBELET = 2  # frames of one token
FRAMES = 16  # of the clips that both networks were trained on
EPS = 1e-6  # of the layer norms
TOKENS = 2048  # that an MLP takes at once, as many as VideoMAE makes of a clip of 16 frames


class Tubelets(nn.Module):
    """The first layer: one token for each block of TUBELET frames and patch x patch pixels."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv3d(3, width, (TUBELET, patch, patch), (TUBELET, patch, patch))

    def forward(self, videos: Tensor) -> Tensor:
        """Map clips (b, f, 3, h, w) to tokens (b, n, d), ordered by time, then row, then column."""
        return self.proj(videos.transpose(1, 2)).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over all tokens.

    Args:
        width: Width of the tokens.
        heads: Number of heads.
        key_bias: Whether keys have a bias, as in V-JEPA. Without one, the biases of queries and values are separate
            parameters, as in VideoMAE.
    """

    def __init__(self, width: int, heads: int, key_bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        self.proj = nn.Linear(width, width)
        if not key_bias:
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.qkv.bias
        if bias is None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return self.proj(attend(*F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1), self.heads))


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Softmax attention, scaled by the root of the width of a head: (b, n, d), (b, m, d), (b, m, d) -> (b, n, d)."""
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class MLP(nn.Module):
    """Two linear layers with GELU, in its exact form, between them, applied to TOKENS at once to save memory."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.fc2(F.gelu(self.fc1(part))) for part in x.split(TOKENS, dim=1)], dim=1)


class Block(nn.Module):
    """A transformer block with norms before its layers: tokens (b, n, d) -> (b, n, d)."""

    def __init__(self, width: int, heads: int, hidden: int, key_bias: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn, self.mlp = Attention(width, heads, key_bias), MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def check_clips(videos: Tensor, name: str, side: int) -> None:
    """Raise ValueError unless these are clips (b, f, 3, side, side) of an even number of frames."""
    _, f, c, h, w = videos.shape
    if (c, h, w) != (3, side, side) or f < TUBELET or f % TUBELET:
        raise ValueError(f"{name} takes an even number of frames of 3 x {side} x {side}: got {f} of {c} x {h} x {w}")


def stretch(positions: Tensor, grid: int, factor: float) -> Tensor:
    """Position codes for clips of another length: codes (1, n, d), interpolated linearly in time by a factor."""
    table = positions.unflatten(1, (-1, grid, grid)).permute(0, 4, 1, 2, 3)
    return F.interpolate(table, scale_factor=(factor, 1, 1), mode="trilinear").flatten(2).transpose(1, 2)


def clip_by_clip(function: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """Apply a function of clips (1, ...) to each of b clips (b, ...), so that what it needs beside them does not grow.

    The tokens of one clip are enough to keep a device busy, and the layers' results for several would take gigabytes.
    """
    return torch.cat([function(clip) for clip in clips.split(1)])


@torch.no_grad()
def clip_features(
    network: Callable[[Tensor], Tensor], clips: Sequence[Tensor], side: int, device: torch.device
) -> Tensor:
    """Features of clips of one length, squashed to side x side, a few frames at a time.

    Args:
        network: Maps pixels in [0, 1], (b, f, 3, side, side), to features (b, d).
        clips: uint8 (f, 3, h, w); their sizes may differ.
        side: Height and width of the network's frames.
        device: Where it computes.

    Returns:
        (b, d), float32, on the CPU.
    """
    resized = lambda frames: squash(frames.to(device) / 255, side)
    return network(torch.stack([slice_by_slice(resized, clip) for clip in clips])).float().cpu()
