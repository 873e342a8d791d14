"""Attention over one axis of a video's token grid.

Shape letters, used in every file of models/:
    b batch   f frames   s tokens per frame   d width   h heads   e head width
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

MAX_HEADS_PER_CALL = 65_535  # the limit of a CUDA kernel's grid; the folds below put positions on the head axis


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    A kernel call gets at most MAX_HEADS_PER_CALL heads.

    Args:
        q: Queries (n, heads, tokens, e).
        k: Keys (n, heads, keys, e).
        v: Values, same shape as the keys.
        mask: Added to the scores (n, 1, 1 or tokens, keys).

    Returns:
        The attended values, same shape as the queries.
    """
    if q.shape[1] <= MAX_HEADS_PER_CALL:
        return F.scaled_dot_product_attention(q, k, v, mask)
    parts = zip(*(z.split(MAX_HEADS_PER_CALL, dim=1) for z in (q, k, v)))
    return torch.cat([F.scaled_dot_product_attention(q, k, v, mask) for q, k, v in parts], 1)


def rotate(*tensors: Tensor) -> list[Tensor]:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 15, base 10,000) by frame index.

    Args:
        *tensors: Queries or keys, each (b, f, s, h, e) with even e.

    Returns:
        The rotated tensors, same shapes and precisions. The rotation itself is done in float32.
    """
    frames, half = tensors[0].shape[1], tensors[0].shape[-1] // 2
    freq = 10_000 ** -(torch.arange(half, device=tensors[0].device, dtype=torch.float32) / half)
    angle = torch.arange(frames, device=tensors[0].device)[:, None, None, None] * freq
    cos, sin, halves = angle.cos(), angle.sin(), [x.float().chunk(2, -1) for x in tensors]
    return [torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype) for x, (a, b) in zip(tensors, halves)]


class AxialAttention(nn.Module):
    """Self-attention within each frame ("spatial") or along each token's frames ("temporal"): Latte, section 3.2.

    The rows of the projection are ordered (h, qkv, e), so that every fold below is a view and nothing is copied.
    `attend` can be replaced, on the class or on one module, by any other exact attention over (..., tokens, e).

    Args:
        dim: Width d.
        heads: Number of heads; divides dim.
        kind: "spatial" or "temporal".
        rope: Rotate queries and keys of temporal attention by their frame index.
    """

    attend = staticmethod(attend)

    def __init__(self, dim: int, heads: int, kind: str, rope: bool = False):
        super().__init__()
        self.kind, self.heads, self.rope = kind, heads, rope and kind == "temporal"
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b, f, s, d) -> (b, f, s, d)."""
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        if self.rope:
            q, k = rotate(q, k)
        axes = "(b f) h s e" if self.kind == "spatial" else "b (s h) f e"
        q, k, v = (rearrange(z, f"b f s h e -> {axes}") for z in (q, k, v))
        y = self.attend(q, k, v)
        return self.proj(rearrange(y, f"{axes} -> b f s (h e)", b=len(x), h=self.heads))


class SplitAttention(nn.Module):
    """Half of the heads attend in space, half in time, each twice as wide, and the results are added: variant 4.

    Args:
        dim: Width d.
        heads: Number of heads in both halves together; even.
        rope: As in AxialAttention, for the temporal half.
    """

    def __init__(self, dim: int, heads: int, rope: bool = False):
        super().__init__()
        self.spatial = AxialAttention(dim, heads // 2, "spatial")
        self.temporal = AxialAttention(dim, heads // 2, "temporal", rope)

    def forward(self, x: Tensor) -> Tensor:
        """(b, f, s, d) -> (b, f, s, d)."""
        return self.spatial(x) + self.temporal(x)


class CrossAttention(nn.Module):
    """Every token of a frame attends to the tokens of its text (PixArt-alpha: Chen et al. 2023, arXiv 2310.00426).

    Keys and values are computed once per text, however many frames share it. `attend` can be replaced, as in
    AxialAttention, by a function that takes a mask.

    Args:
        dim: Width d, of tokens and of text embeddings.
        heads: Number of heads; divides dim.
    """

    kind = "cross"
    attend = staticmethod(attend)

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend to one text per video or to one per frame.

        Args:
            x: Tokens (b, f, s, d).
            text: Text embeddings (b, 1 or f, l, d).
            bias: Added to the attention scores (b, 1 or f, l): 0 at tokens that count, very negative at padding.

        Returns:
            The text's contribution to the tokens (b, f, s, d).
        """
        b, texts, s = len(x), text.shape[1], x.shape[2]
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(text).unflatten(-1, (self.heads, 2, -1)).unbind(-2)
        q = rearrange(q, "b (n m) s h e -> (b n) h (m s) e", n=texts)  # m frames share each of n texts
        k, v = (rearrange(z, "b n l h e -> (b n) h l e") for z in (k, v))
        mask = None if bias is None else rearrange(bias, "b n l -> (b n) 1 1 l").to(q.dtype)
        y = self.attend(q, k, v, mask)
        return self.proj(rearrange(y, "(b n) h (m s) e -> b (n m) s (h e)", b=b, s=s))
