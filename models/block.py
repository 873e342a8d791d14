"""The one transformer block that every Latte is built from."""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from latte.models.attention import AxialAttention, CrossAttention, SplitAttention

ATTENTION = {
    "s": lambda dim, heads, rope: AxialAttention(dim, heads, "spatial"),
    "t": lambda dim, heads, rope: AxialAttention(dim, heads, "temporal", rope),
    "|": SplitAttention,
}


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x (b, f, s, d), then shift and scale: the norm has no parameters of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def per_frame(c: Tensor, frames: int) -> Tensor:
    """(b, 1 + n, ...) of a clip and n stills -> (b, frames, ...); a clip alone stays (b, 1, ...) and is broadcast."""
    if c.shape[1] == 1:
        return c
    return torch.cat([c[:, :1].expand(-1, frames - c.shape[1] + 1, *c.shape[2:]), c[:, 1:]], 1)


class AdaLN(nn.Module):
    """adaLN-Zero (Peebles & Xie 2023; "S-AdaLN" in Latte): modulation of `norms` layer norms from the conditioning.

    parts 3: shift, scale and the branch's gate; 2: without a gate.
    """

    def __init__(self, dim: int, norms: int, parts: int = 3):
        super().__init__()
        self.norms, self.parts = norms, parts
        self.linear = nn.Linear(dim, norms * parts * dim)

    def forward(self, c: Tensor, frames: int) -> list[list[Tensor]]:
        """c (b, 1 or 1 + n, d), projected once a sample -> per norm its parts, each (b, 1 or frames, 1, d)."""
        rows = per_frame(self.linear(F.silu(c)).unflatten(-1, (self.norms * self.parts, 1, -1)), frames).unbind(2)
        return [list(rows[i : i + self.parts]) for i in range(0, len(rows), self.parts)]


class Affine(nn.Module):
    """An ordinary layer norm's weight and bias in AdaLN's place, for conditioning that enters as tokens; no gates."""

    def __init__(self, dim: int, norms: int, parts: int = 3):
        super().__init__()
        self.parts = parts
        self.table = nn.Parameter(torch.zeros(norms, 2, dim))

    def forward(self, c: Tensor, frames: int) -> list[list[Tensor | float]]:
        """As AdaLN's, whatever c: per norm shift and scale (d,), and 1 for the gate."""
        return [[shift, scale, 1.0][: self.parts] for shift, scale in self.table]


class AdaLNSingle(nn.Module):
    """adaLN-single (Chen et al. 2023, PixArt-alpha): a table of its own on a modulation that all blocks share."""

    def __init__(self, dim: int, norms: int, parts: int = 3):
        super().__init__()
        self.parts = parts
        self.table = nn.Parameter(torch.randn(norms * parts, dim) / dim**0.5)

    def forward(self, c: Tensor, frames: int) -> list[list[Tensor]]:
        """As AdaLN's, from c (b, 1 or 1 + n, norms * parts * d), or d for the same everywhere."""
        shared = c.unflatten(-1, (-1, 1, self.table.shape[1]))
        rows = per_frame(self.table[:, None] + shared, frames).unbind(2)
        return [list(rows[i : i + self.parts]) for i in range(0, len(rows), self.parts)]


MODULATION = {"adaln": AdaLN, "tokens": Affine, "single": AdaLNSingle}


class Block(nn.Module):
    """One attention per letter of `kinds`, in order and modulated alike, then an MLP.

    "s" spatial, "t" temporal, "st" spatial then temporal, "|" half the heads each: Latte, figure 2. With `cross`,
    attention to a text stands before the MLP, without norm, gate or modulation, as in PixArt-alpha.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kinds: str,
        conditioning: str,
        mlp_ratio: float = 4.0,
        rope: bool = False,
        cross: bool = False,
    ):
        super().__init__()
        self.kinds = kinds
        self.attns = nn.ModuleList(ATTENTION[kind](dim, heads, rope) for kind in kinds)
        self.cross = CrossAttention(dim, heads) if cross else None
        self.mlp = Mlp(dim, int(mlp_ratio * dim), act_layer=lambda: nn.GELU(approximate="tanh"))
        self.mlp.kind = "mlp"
        self.modulation = MODULATION[conditioning](dim, 2)

    def forward(
        self, x: Tensor, c: Tensor, images: int = 0, text: tuple[Tensor, Tensor | None] | None = None
    ) -> Tensor:
        """x (b, f, s, d), c (b, 1 or 1 + images, d) -> (b, f, s, d); the last `images` frames skip temporal blocks.

        text: embeddings (b, 1 or 1 + images, l, d) and the bias of their scores, for CrossAttention.
        """
        skip = images if self.kinds == "t" else 0
        x, stills = x.split([x.shape[1] - skip, skip], 1)
        images, c = images - skip, c[:, :1] if skip else c
        attention, mlp = self.modulation(c, x.shape[1])
        for attn in self.attns:
            x = x + self.branch(attn, x, attention, images)
        if self.cross is not None:
            x = x + self.cross(x, *text)
        x = x + self.branch(self.mlp, x, mlp)
        return torch.cat([x, stills], 1) if skip else x

    def branch(self, layer: nn.Module, x: Tensor, modulation: list[Tensor], *rest) -> Tensor:
        """gate * layer(modulated norm of x), what the layer adds to the residual: (b, f, s, d) -> same."""
        shift, scale, gate = modulation
        return gate * layer(modulate(x, shift, scale), *rest)
