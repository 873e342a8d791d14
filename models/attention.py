"""Attention over one axis of a video's token grid.

Shape letters, used in every file of models/:
    b batch   f frames   s tokens per frame   d width   h heads   e head width
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

MOST_HEADS = 65_535  # a CUDA kernel's grid ends there; folded into the head axis, large frames have more


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention, (n, heads, tokens, e) three times -> same; of MOST_HEADS heads at once or fewer."""
    if q.shape[1] <= MOST_HEADS:
        return F.scaled_dot_product_attention(q, k, v)
    parts = zip(*(z.split(MOST_HEADS, dim=1) for z in (q, k, v)))
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], 1)


def rotate(*tensors: Tensor) -> list[Tensor]:
    """Rotary embedding (Su et al. 2021, eq. 15, base 10,000) of each x (b, f, s, h, e) by its frame's index; e even."""
    frames, half = tensors[0].shape[1], tensors[0].shape[-1] // 2
    freq = 10_000 ** -(torch.arange(half, device=tensors[0].device, dtype=torch.float32) / half)
    angle = torch.arange(frames, device=tensors[0].device)[:, None, None, None] * freq
    cos, sin, halves = angle.cos(), angle.sin(), [x.float().chunk(2, -1) for x in tensors]
    return [torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype) for x, (a, b) in zip(tensors, halves)]


class AxialAttention(nn.Module):
    """Self-attention among the tokens of each frame ("spatial") or along each token's frames ("temporal").

    The projection's rows are ordered (h, qkv, e): so every fold below is a view, and nothing is copied.
    `attend` can be replaced, on the class or on one module, by another exact attention over (..., tokens, e).
    """

    attend = staticmethod(attend)

    def __init__(self, dim: int, heads: int, kind: str, rope: bool = False):
        super().__init__()
        self.kind, self.heads, self.rope = kind, heads, rope and kind == "temporal"
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, images: int = 0) -> Tensor:
        """(b, f, s, d) -> (b, f, s, d). The last `images` frames are stills: attention in time gives them 0."""
        images = images if self.kind == "temporal" else 0
        q, k, v = self.qkv(x[:, : x.shape[1] - images]).unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        if self.rope:
            q, k = rotate(q, k)
        axes = "(b f) h s e" if self.kind == "spatial" else "b (s h) f e"
        q, k, v = (rearrange(z, f"b f s h e -> {axes}") for z in (q, k, v))
        y = self.attend(q, k, v)
        y = self.proj(rearrange(y, f"{axes} -> b f s (h e)", b=len(x), h=self.heads))
        return F.pad(y, (0, 0, 0, 0, 0, images)) if images else y


class CrossAttention(nn.Module):
    """Every token of a video attends to the tokens of its text, whose keys and values are computed once a text."""

    kind = "cross"

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (b, f, s, d), text (b, 1 or 1 + n, l, d) of a clip and n stills -> (b, f, s, d).

        bias (b, 1 or 1 + n, l) is added to the scores: 0 for a word that counts, much less for padding.
        """
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(text).unflatten(-1, (self.heads, 2, -1)).unbind(-2)
        stills = text.shape[1] - 1
        parts, out = q.split([q.shape[1] - stills, stills], 1), []
        for part, of in zip(parts, (slice(1), slice(1, None))):
            if part.shape[1]:
                out.append(self.per_text(part, k[:, of], v[:, of], None if bias is None else bias[:, of]))
        return self.proj(torch.cat(out, 1).flatten(-2))

    def per_text(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q (b, n * m, s, h, e) in n runs of frames, each with a text k, v (b, n, l, h, e), bias (b, n, l) -> as q."""
        shape = q.shape
        q = rearrange(q, "b (n m) s h e -> (b n) h (m s) e", n=k.shape[1])
        k, v = (rearrange(z, "b n l h e -> (b n) h l e") for z in (k, v))
        mask = None if bias is None else rearrange(bias, "b n l -> (b n) 1 1 l").to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return rearrange(y, "(b n) h (m s) e -> b (n m) s h e", b=shape[0], s=shape[2])


class SplitAttention(nn.Module):
    """Half of the (then wider) heads attend in space, half in time, and the two are added: variant 4."""

    def __init__(self, dim: int, heads: int, rope: bool = False):
        super().__init__()
        self.spatial = AxialAttention(dim, heads // 2, "spatial")
        self.temporal = AxialAttention(dim, heads // 2, "temporal", rope)

    def forward(self, x: Tensor, images: int = 0) -> Tensor:
        """(b, f, s, d) -> (b, f, s, d); the last `images` frames are stills."""
        return self.spatial(x) + self.temporal(x, images)
