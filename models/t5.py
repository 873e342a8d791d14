"""The encoder of T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683; gated GELU of Shazeer 2020, arXiv 2002.05202).

Shape letters: b batch, l tokens, d width, h heads, e head width.
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latte.models.fields import check_fields

MOST_LAYERS = 500


@dataclass(frozen=True)
class T5Config:
    """Shape of an encoder, in the names of the published config.json; the defaults are XXL's. ValueError: no sizes."""

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64  # a head's width
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self):
        if wrong := {name: value for name, value in vars(self).items() if not 0 < value <= 1_000_000}:
            raise ValueError(f"T5 configuration: {wrong}: each must be above 0, and at most a million")
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"T5 configuration: {self.num_layers} layers, more than {MOST_LAYERS}")
        if self.relative_attention_num_buckets % 4:
            raise ValueError(f"T5 configuration: {self.relative_attention_num_buckets} buckets are not a multiple of 4")
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 4:
            raise ValueError("T5 configuration: relative_attention_max_distance is within the buckets of one position")

    @classmethod
    def from_dict(cls, values: dict) -> "T5Config":
        """From a published config.json, whose other entries are passed over. ValueError: another kind of T5."""
        if (kind := values.get("feed_forward_proj", "gated-gelu")) != "gated-gelu":
            raise ValueError(f"feed_forward_proj is {kind!r}: this is no T5 v1.1, whose feed-forward is gated-gelu")
        known = {field.name for field in fields(cls)}
        return cls(**check_fields(cls, {name: value for name, value in values.items() if name in known}))


class RMSNorm(nn.Module):
    """x / rms(x) times a weight; the mean square in float32, the result in the weight's precision if that is half."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        half = self.weight.dtype in (torch.float16, torch.bfloat16)
        return self.weight * (x.to(self.weight.dtype) if half else x)


class Float32Linear(nn.Linear):
    """A linear layer that stays in float32 whatever the rest is cast to: in half precision its products overflow."""

    def _apply(self, function, recurse: bool = True):
        """What .to(), .half() and the like go through: of `function`, only the device counts."""
        return super()._apply(lambda tensor: tensor.to(function(tensor.new_empty(0)).device), recurse)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class T5Block(nn.Module):
    """Self-attention with a bias by distance and without the usual scale, then a gated MLP; both on a residual."""

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
        x = bounded(x + self.o(rearrange(y, "b h l e -> b l (h e)")))
        y = self.mlp_norm(x)
        return x + self.wo(F.gelu(self.wi_0(y), approximate="tanh") * self.wi_1(y))


def bounded(x: Tensor) -> Tensor:
    """float16 that overflowed, back in its range."""
    most = torch.finfo(torch.float16).max - 1000
    return torch.where(x.isinf().any(), x.clamp(-most, most), x) if x.dtype == torch.float16 else x


class T5Encoder(nn.Module):
    """Token ids to embeddings, as diffusion models use T5."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.distance = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(T5Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def init_weights(self) -> None:
        """For training from scratch, as T5 begins: deviations that make up for the missing scale of attention."""
        cfg = self.config
        inner = cfg.num_heads * cfg.d_kv
        nn.init.normal_(self.tokens.weight, std=1.0)
        nn.init.normal_(self.distance.weight, std=cfg.d_model**-0.5)
        for block in self.blocks:
            nn.init.normal_(block.q.weight, std=(cfg.d_model * cfg.d_kv) ** -0.5)
            for linear in (block.k, block.v, block.wi_0, block.wi_1):
                nn.init.normal_(linear.weight, std=cfg.d_model**-0.5)
            nn.init.normal_(block.o.weight, std=inner**-0.5)
            nn.init.normal_(block.wo.weight, std=cfg.d_ff**-0.5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids (b, l), mask (b, l) with 0 at padding, which is not attended to -> (b, l, d)."""
        x = self.tokens(ids)
        bias = self.distance(buckets(ids.shape[1], self.config, ids.device))
        bias = rearrange(bias, "q k h -> 1 h q k")
        if mask is not None:
            bias = bias.masked_fill(mask[:, None, None] == 0, torch.finfo(bias.dtype).min)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)


def buckets(length: int, config: T5Config, device: torch.device) -> Tensor:
    """Which bias (query, key) have, by how far the key stands behind (upper half) or before the query.

    Half of each side's buckets are a position each, the others grow to the maximum distance: Raffel et al., 2.1.
    """
    side = config.relative_attention_num_buckets // 2
    exact = side // 2
    place = torch.arange(length, device=device)
    offset = place[None] - place[:, None]
    distance = offset.abs()
    growth = (distance.clamp(min=1).float() / exact).log() / math.log(config.relative_attention_max_distance / exact)
    far = (exact + (growth * (side - exact)).long()).clamp(max=side - 1)
    return torch.where(offset > 0, side, 0) + torch.where(distance < exact, distance, far)
