"""V-JEPA, the network behind JEDi: a ViT-H/16 with an attentive pooler (Bardes et al. 2024, arXiv 2404.08471).

The encoder was trained to predict its own features of hidden parts of clips, without labels. The pooler weighs the
tokens; it is part of a classifier of Something-Something v2 on top of the frozen encoder. JEDi is Luo et al. 2024,
arXiv 2410.05203.
"""

import torch
from torch import Tensor, nn

from latte.eval.networks.video_transformer import (
    EPS,
    FRAMES,
    MLP,
    SIDE,
    TUBELET,
    Block,
    Tubelets,
    attend,
    check_clips,
    clip_by_clip,
    stretch,
)

WIDTH, DEPTH, HEADS, HIDDEN, PATCH = 1280, 32, 16, 5120, 16
CLASSES = 174  # of Something-Something v2


class VJEPA(nn.Module):
    """The encoder; its parameters have the names of the published file, without their prefixes.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Number of attention heads.
        hidden: Width of the blocks' MLPs.
        side: Height and width of the frames, in pixels.
    """

    def __init__(
        self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS, hidden: int = HIDDEN, side: int = SIDE
    ):
        super().__init__()
        self.side, self.grid = side, side // PATCH
        self.patch_embed = Tubelets(width, PATCH)
        self.pos_embed = nn.Parameter(torch.zeros(1, FRAMES // TUBELET * self.grid**2, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, key_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, videos: Tensor) -> Tensor:
        """Map clips to tokens.

        Args:
            videos: (b, f, 3, 224, 224), minus ImageNet's mean and divided by its deviation, of an even number of
                frames; trained on 16.

        Returns:
            (b, n, 1280).

        Raises:
            ValueError: The clips have another size, or an odd number of frames.
        """
        check_clips(videos, "V-JEPA", self.side)
        frames = videos.shape[1]
        positions = self.pos_embed if frames == FRAMES else stretch(self.pos_embed, self.grid, frames / FRAMES)
        x = clip_by_clip(self.patch_embed, videos) + positions
        for block in self.blocks:
            x = clip_by_clip(block, x)
        return self.norm(x)


class CrossAttention(nn.Module):
    """Attention of queries (b, m, d) to tokens (b, n, d)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        return self.proj(attend(self.q(queries), *self.kv(tokens).chunk(2, dim=-1), self.heads))


class CrossAttentionBlock(nn.Module):
    """A block of the pooler. Tokens are normalised, queries are not; its layer norms have PyTorch's eps."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.xattn, self.mlp = CrossAttention(width, heads), MLP(width, hidden)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


class AttentivePooler(nn.Module):
    """One learned query that attends to all tokens: (b, n, d) -> (b, d)."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.cross_attention_block = CrossAttentionBlock(width, heads, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)[:, 0]


class Probe(nn.Module):
    """The published classifier, of which JEDi uses the pooler: its output, (b, 1280), is what JEDi compares."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS, hidden: int = HIDDEN):
        super().__init__()
        self.pooler = AttentivePooler(width, heads, hidden)
        self.linear = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return clip_by_clip(self.pooler, tokens)
