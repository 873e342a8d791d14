"""The transformer block that every Latte model is built from, and the ways conditioning modulates it."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.models.attention import AxialAttention, CrossAttention, SplitAttention

ATTENTION: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "s": lambda dim, heads, rope: AxialAttention(dim, heads, "spatial"),
    "t": lambda dim, heads, rope: AxialAttention(dim, heads, "temporal", rope),
    "|": SplitAttention,
}


NORM_EPS = 1e-6  # as in DiT


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without learned parameters, then shift and scale (adaLN: Peebles & Xie 2023, section 3.2).

    Args:
        x: Tokens (b, f, s, d).
        shift: Broadcasts to x, such as (b, 1 or f, 1, d).
        scale: Likewise; 0 leaves the normalised tokens as they are.

    Returns:
        The modulated tokens (b, f, s, d).
    """
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


class FullPrecisionLinear(nn.Linear):
    """A linear layer that mixed-precision training keeps in float32 (see latte.train.precision)."""

    full_precision = True


class AdaLN(nn.Module):
    """adaLN-Zero (Peebles & Xie 2023, arXiv 2212.09748, section 3.2), which Latte calls S-AdaLN (section 3.3).

    Args:
        dim: Width d.
        norms: How many layer norms are modulated.
        parts: 3 for shift, scale and the gate of the branch; 2 without the gate.
    """

    full_precision = True

    def __init__(self, dim: int, norms: int, parts: int = 3):
        super().__init__()
        self.norms, self.parts = norms, parts
        self.linear = nn.Linear(dim, norms * parts * dim)

    def forward(self, c: Tensor) -> list[list[Tensor]]:
        """Conditioning (b, 1 or f, d) -> for each norm, its parts, each (b, 1 or f, 1, d)."""
        rows = self.linear(F.silu(c)).unflatten(-1, (self.norms * self.parts, 1, -1)).unbind(2)
        return [list(rows[i : i + self.parts]) for i in range(0, len(rows), self.parts)]


class Affine(nn.Module):
    """Replaces AdaLN by an ordinary layer norm's weight and bias, without gates, when conditioning enters as tokens.

    Args: As in AdaLN.
    """

    def __init__(self, dim: int, norms: int, parts: int = 3):
        super().__init__()
        self.parts = parts
        self.table = nn.Parameter(torch.zeros(norms, 2, dim))

    def forward(self, c: Tensor) -> list[list[Tensor | float]]:
        """As AdaLN.forward, but c is ignored: for each norm, shift (d,), scale (d,) and a gate of 1."""
        return [[shift, scale, 1.0][: self.parts] for shift, scale in self.table]


class AdaLNSingle(nn.Module):
    """adaLN-single (PixArt-alpha: Chen et al. 2023, arXiv 2310.00426, section 2.3).

    Each block adds its own small table to a modulation that all blocks share.

    Args: As in AdaLN.
    """

    def __init__(self, dim: int, norms: int, parts: int = 3):
        super().__init__()
        self.parts = parts
        self.table = nn.Parameter(torch.randn(norms * parts, dim) / dim**0.5)

    def forward(self, c: Tensor) -> list[list[Tensor]]:
        """As AdaLN.forward. c is the shared modulation (b, 1 or f, norms * parts * d), or (..., d) for all parts."""
        rows = (self.table[:, None] + c.unflatten(-1, (-1, 1, self.table.shape[1]))).unbind(2)
        return [list(rows[i : i + self.parts]) for i in range(0, len(rows), self.parts)]


MODULATION: dict[str, Callable[..., nn.Module]] = {"adaln": AdaLN, "tokens": Affine, "single": AdaLNSingle}


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, in its tanh approximation (Hendrycks & Gimpel, arXiv 1606.08415).

    Args:
        dim: Width of the input.
        hidden: Width between the two layers.
        out: Width of the output.
    """

    def __init__(self, dim: int, hidden: int, out: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., out)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class FeedForward(Mlp):
    """The block's MLP (DiT, section 3.2). Caches recognise it by its `kind`.

    Args:
        dim: Width d.
        hidden: Width between the two layers.
    """

    kind = "mlp"

    def __init__(self, dim: int, hidden: int):
        super().__init__(dim, hidden, dim)


class Block(nn.Module):
    """One attention per letter of `kinds`, in order and modulated alike, then an MLP: Latte, figure 2.

    Args:
        dim: Width d.
        heads: Number of attention heads.
        kinds: "s" spatial, "t" temporal, "st" spatial then temporal, "|" half of the heads each.
        conditioning: "adaln", "tokens" or "single", see MODULATION.
        mlp_ratio: Hidden width of the MLP, as a multiple of d.
        rope: Rotary positions in temporal attention.
        cross: Attend to a text before the MLP, without norm, gate or modulation, as in PixArt-alpha.
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
        self.mlp = FeedForward(dim, int(mlp_ratio * dim))
        self.modulation = MODULATION[conditioning](dim, 2)

    def forward(
        self, x: Tensor, c: Tensor, text: Tensor | None = None, bias: Tensor | None = None, temporal: bool = True
    ) -> Tensor:
        """Pass the tokens of some videos through the block.

        Args:
            x: Tokens (b, f, s, d).
            c: Conditioning that modulates the norms (b, 1 or f, ...): one row for all frames, or one per frame.
            text: Text embeddings (b, 1 or f, l, d), for cross-attention.
            bias: Added to the scores of cross-attention (b, 1 or f, l).
            temporal: False turns temporal attention off: every frame is then a separate image.

        Returns:
            Tokens (b, f, s, d).
        """
        attention, mlp = self.modulation(c)
        for attn in self.attentions(temporal):
            x = x + self.branch(attn, x, attention)
        if self.cross is not None:
            x = x + self.cross(x, text, bias)
        return x + self.branch(self.mlp, x, mlp)

    def attentions(self, temporal: bool) -> Iterable[nn.Module]:
        """The attentions in order; with temporal attention off, only the spatial ones."""
        if temporal:
            return self.attns
        return [layer for layer in self.attns.modules() if getattr(layer, "kind", None) == "spatial"]

    def branch(self, layer: nn.Module, x: Tensor, modulation: list[Tensor]) -> Tensor:
        """A layer's residual update, gate * layer(modulated norm of x): (b, f, s, d) -> (b, f, s, d)."""
        shift, scale, gate = modulation
        return gate * layer(modulate(x, shift, scale))
