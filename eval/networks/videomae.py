"""VideoMAE, the network behind CD-FVD: a ViT-g/14 of VideoMAE V2 (Wang et al. 2023, arXiv 2303.16727).

It was pretrained without labels and fine-tuned on Something-Something v2, whose classes are motions, so its features
depend less on the look of single frames than I3D's (Ge et al. 2024, arXiv 2404.12391).
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from latte.eval.networks.video_transformer import (
    EPS,
    FRAMES,
    SIDE,
    TUBELET,
    Block,
    Tubelets,
    check_clips,
    clip_by_clip,
    stretch,
)

WIDTH, DEPTH, HEADS, HIDDEN, PATCH = 1408, 40, 16, 6144, 14
CLASSES = 174  # of Something-Something v2


class VideoMAE(nn.Module):
    """VideoMAE with a classifier, whose parameters have the names of the published file.

    Args:
        width: Width of the tokens, and numbers per feature.
        depth: Number of blocks.
        heads: Number of attention heads.
        hidden: Width of the blocks' MLPs.
        side: Height and width of the frames, in pixels.
    """

    def __init__(
        self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS, hidden: int = HIDDEN, side: int = SIDE
    ):
        super().__init__()
        self.width, self.side = width, side
        self.patch_embed = Tubelets(width, PATCH)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, key_bias=False) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(width, EPS)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, videos: Tensor) -> Tensor:
        """Compute the features that CD-FVD compares: the mean over all tokens, normalised. The classifier is not used.

        Args:
            videos: Clips (b, f, 3, 224, 224) in [0, 1], of an even number of frames; trained on 16.

        Returns:
            (b, 1408).

        Raises:
            ValueError: The clips have another size, or an odd number of frames.
        """
        check_clips(videos, "VideoMAE", self.side)
        x = clip_by_clip(self.patch_embed, videos)
        x = x + self.positions(videos.shape[1]).to(x)
        for block in self.blocks:
            x = clip_by_clip(block, x)
        return self.fc_norm(x.mean(1))

    def positions(self, frames: int) -> Tensor:
        """Position codes (1, n, width) of the tokens of a clip."""
        grid, trained = self.side // PATCH, FRAMES // TUBELET
        codes = sinusoids(trained * grid**2, self.width)
        if frames == FRAMES:
            return codes
        # the tenth of a token keeps rounding from dropping the last one, as in cd-fvd's scale
        return stretch(codes, grid, (frames // TUBELET + 0.1) / trained)


@lru_cache(maxsize=4)
def sinusoids(count: int, width: int) -> Tensor:
    """Sine and cosine codes (1, count, width) of token numbers, in turn (Vaswani et al. 2017, section 3.5)."""
    angles = torch.arange(count).double()[:, None] / 10000 ** (torch.arange(width) // 2 * 2 / width).double()
    return torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos()).float()[None]
