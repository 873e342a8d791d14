"""The encoder of T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683; gated GELU of Shazeer 2020, arXiv 2002.05202).

Shape letters: b batch, l tokens, d width, h heads, e head width.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latte.models.t5_config import T5Config


class RMSNorm(nn.Module):
    """Root mean square layer norm (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4).

    The mean square is computed in float32. With half-precision weights, the result has their precision.
    """

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        x = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        half = self.weight.dtype in (torch.float16, torch.bfloat16)
        return self.weight * (x.to(self.weight.dtype) if half else x)


class Float32Linear(nn.Linear):
    """A linear layer that stays in float32 whatever the network is cast to: in half precision its products overflow."""

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, but keep the precision, in .to(), .half() and the like."""
        return super()._apply(lambda tensor: tensor.to(function(tensor.new_empty(0)).device), recurse)

    def forward(self, x: Tensor) -> Tensor:
        """(..., m) in any precision -> float32 (..., n)."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class T5Block(nn.Module):
    """Self-attention and a gated MLP (Raffel et al. 2020, section 2.1; Shazeer 2020, eq. 5).

    Attention has a relative position bias and no scaling by 1 / sqrt(e).
    """

    def __init__(self, cfg: T5Config):
        super().__init__()
        inner = cfg.num_heads * cfg.d_kv
        self.heads = cfg.num_heads
        self.attention_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.q, self.k, self.v = (nn.Linear(cfg.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, cfg.d_model, bias=False)
        self.mlp_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.wi_0, self.wi_1 = (nn.Linear(cfg.d_model, cfg.d_ff, bias=False) for _ in range(2))
        self.wo = Float32Linear(cfg.d_ff, cfg.d_model, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (b, l, d), bias (b, h, l, l) added to the scores -> (b, l, d)."""
        y = self.attention_norm(x)
        q, k, v = (rearrange(layer(y), "b l (h e) -> b h l e", h=self.heads) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        x = clamp_overflow(x + self.o(rearrange(y, "b h l e -> b l (h e)")))
        y = self.mlp_norm(x)
        return x + self.wo(F.gelu(self.wi_0(y), approximate="tanh") * self.wi_1(y))


def clamp_overflow(x: Tensor) -> Tensor:
    """Bring float16 values that overflowed back into range; other precisions are returned unchanged."""
    most = torch.finfo(torch.float16).max - 1000
    return torch.where(x.isinf().any(), x.clamp(-most, most), x) if x.dtype == torch.float16 else x


class T5Encoder(nn.Module):
    """The encoder of T5 v1.1 (Raffel et al. 2020, section 2.1), which turns token ids into embeddings.

    Args:
        config: The shape of the encoder.
    """

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.distance = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(T5Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def init_weights(self) -> None:
        """Initialise for training from scratch, as T5's code does: small queries replace the scaling of attention."""
        cfg = self.config
        inner = cfg.num_heads * cfg.d_kv
        nn.init.normal_(self.tokens.weight, std=1.0)
        nn.init.normal_(self.distance.weight, std=cfg.d_model**-0.5)
        for block in (module for module in self.modules() if isinstance(module, T5Block)):
            nn.init.normal_(block.q.weight, std=(cfg.d_model * cfg.d_kv) ** -0.5)
            for linear in (block.k, block.v, block.wi_0, block.wi_1):
                nn.init.normal_(linear.weight, std=cfg.d_model**-0.5)
            nn.init.normal_(block.o.weight, std=inner**-0.5)
            nn.init.normal_(block.wo.weight, std=cfg.d_ff**-0.5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed texts.

        Args:
            ids: Token ids (b, l).
            mask: (b, l), 0 at padding, which is not attended to, else 1.

        Returns:
            Embeddings (b, l, d_model); those at padding are meaningless.
        """
        x = self.tokens(ids)
        bias = self.distance(position_buckets(ids.shape[1], self.config, ids.device))
        bias = rearrange(bias, "q k h -> 1 h q k")
        if mask is not None:
            bias = bias.masked_fill(mask[:, None, None] == 0, torch.finfo(bias.dtype).min)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)


def position_buckets(length: int, config: T5Config, device: torch.device) -> Tensor:
    """The buckets of relative positions (Raffel et al. 2020, section 2.1); each has its own bias.

    Half of the buckets are for keys before the query, half for keys after it. On each side, half of the buckets are one
    position wide; the others grow logarithmically up to the maximum distance.

    Args:
        length: Number of tokens l.
        config: The shape of the encoder.
        device: Where to compute them.

    Returns:
        The bucket of each query and key, int64 (l, l).
    """
    side = config.relative_attention_num_buckets // 2
    exact = side // 2
    position = torch.arange(length, device=device)
    offset = position[None] - position[:, None]
    distance = offset.abs()
    growth = (distance.clamp(min=1).float() / exact).log() / math.log(config.relative_attention_max_distance / exact)
    far = (exact + (growth * (side - exact)).long()).clamp(max=side - 1)
    return torch.where(offset > 0, side, 0) + torch.where(distance < exact, distance, far)
