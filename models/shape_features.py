"""A small 3-D convolutional network that tells what the built-in shapes do; inside it are features of a clip.

Trained by `latte train --config shapes-features`. Shape letters: b clips, f frames, c channels, h, w.
"""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.models.config import checked

HEADS = {  # what it is asked about a clip, and how many numbers the answer has: latte.train.features.truth
    "motion": 8,
    "shape": 4,
    "colour": 6,
    "track": 12,
    "tempo": 1,
    "damage": 6,
}
CELLS = (4, 4, 4)  # of time, height and width, over which activations are averaged
# of the convolutions: time is kept whole until frames are small; further ones are as the last
STRIDES = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 1, 1))
HIDDEN = 128  # numbers between the cells and the features
GROUPS = 4  # of each normalisation


@dataclass(frozen=True)
class ShapeFeaturesConfig:
    """Shape of the network."""

    widths: tuple[int, ...] = (8, 24, 48, 64)  # a convolution each
    features: int = 32

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        if not 1 <= len(self.widths) <= 8 or not all(0 < width <= 4096 for width in (*self.widths, self.features)):
            raise ValueError(f"widths {self.widths}, {self.features} features: 1 to 8 widths, each size in 1 to 4096")
        if any(width % GROUPS for width in self.widths):
            raise ValueError(f"widths {self.widths}: each must be a multiple of {GROUPS}")

    @classmethod
    def from_dict(cls, values: dict) -> "ShapeFeaturesConfig":
        """The inverse of dataclasses.asdict; ValueError: an unknown name, or a value of another type."""
        return cls(**checked(cls, values))


class ShapeFeatures(nn.Module):
    """Clips (b, f, 3, h, w) in [-1, 1] -> answers, each (b, its number in HEADS); `features` gives what they rest on.

    Of any size and length: the cells are shares of the clip. It was trained on clips of one size and length, and
    "track" and "tempo" mean something on these alone.
    """

    def __init__(self, config: ShapeFeaturesConfig):
        super().__init__()
        self.config, widths = config, config.widths
        stages = []
        for i, (before, width) in enumerate(zip((3, *widths), widths)):
            stride = STRIDES[min(i, len(STRIDES) - 1)]
            stages += [nn.Conv3d(before, width, 3, stride, padding=1), nn.GroupNorm(GROUPS, width), nn.SiLU()]
        self.stages = nn.Sequential(*stages)
        self.mix = nn.Linear(widths[-1] * prod(CELLS), HIDDEN)
        self.project = nn.Linear(HIDDEN, config.features)
        self.heads = nn.ModuleDict({name: nn.Linear(config.features, size) for name, size in HEADS.items()})

    def features(self, videos: Tensor) -> Tensor:
        """Clips (b, f, 3, h, w) in [-1, 1] -> (b, features), of which every answer is a linear function."""
        cells = F.adaptive_avg_pool3d(self.stages(videos.transpose(1, 2)), CELLS)
        return self.project(F.silu(self.mix(cells.flatten(1))))

    @torch.no_grad()
    def whiten(self, seen: Tensor) -> None:
        """Turn and scale the features so that those `seen` (n, features) have mean 0, covariance 1; answers stay.

        A direction in which they hardly vary at all is not blown up: its variance counts as 1e-6 of the largest.
        """
        seen = seen.double()
        values, vectors = torch.linalg.eigh(seen.T.cov(correction=0))
        spread = values.clamp(min=1e-6 * values[-1]).sqrt()
        forth, back = (vectors * scale @ vectors.T for scale in (1 / spread, spread))
        mean = seen.mean(0)
        for head in self.heads.values():
            head.bias += (head.weight.double() @ mean).float()
            head.weight.copy_(head.weight.double() @ back)
        self.project.bias.copy_(forth @ (self.project.bias.double() - mean))
        self.project.weight.copy_(forth @ self.project.weight.double())

    def forward(self, videos: Tensor) -> dict[str, Tensor]:
        features = self.features(videos)
        return {name: head(features) for name, head in self.heads.items()}
