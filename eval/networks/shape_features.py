"""A small 3-D convolutional network that tells what the built-in shapes do; inside it are features of a clip.

Trained by `latte train --config shapes-features`. Shape letters: b clips, f frames, c channels, h, w.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.device import device_name
from latte.eval.features import Detector, batched
from latte.models.fields import check_fields
from latte.video.pixels import expect_videos, from_uint8
from latte.weights.folder import WEIGHTS, read_config
from latte.weights.load import find_model
from latte.weights.tensors import digest, load_strictly, read_tensors

# what it is asked about a clip, and how many numbers the answer has: latte.train.objectives.shape_recognition.truth
HEADS = {
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
        return cls(**check_fields(cls, values))


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


SHIPPED = "shapes-features"

SIDE = 64  # of the frames that it was trained on


def load_shape_features(name: str | Path = SHIPPED) -> ShapeFeatures:
    """The network that ships, or that of a run of `latte train --config shapes-features`, in evaluation mode.

    CheckpointError says what is missing, damaged or does not fit.
    """
    folder = find_model(name)
    with torch.device("meta"):
        network = ShapeFeatures(read_config(folder, ShapeFeaturesConfig.from_dict))
    load_strictly(network, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return network.eval()


@torch.no_grad()
def shape_features(network: ShapeFeatures, videos: Tensor, batch_size: int = 32) -> Tensor:
    """Clips, uint8 (n, f, 3, h, w) -> float32 features (n, d), on the CPU.

    Batches are all of one size, the last filled up, so that a clip's features do not depend on how many there are.
    ValueError: it is something else than such clips, or there are none.
    """
    expect_videos(videos)
    device = next(network.parameters()).device
    parts = batched(iter(videos), batch_size)
    return torch.cat(
        [network.features(from_uint8(torch.stack(full).to(device)))[:count].cpu() for full, count in parts]
    )


def squash(clip: Tensor) -> Tensor:
    """uint8 (f, 3, h, w) -> (f, 3, 64, 64), bilinear with antialiasing; of that size already, it stays as it is."""
    if clip.shape[-2:] == (SIDE, SIDE):
        return clip
    return F.interpolate(clip.float(), (SIDE, SIDE), mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def shapes_detector(device: torch.device) -> Detector:
    """The network that ships, for clips of one length and of any sizes."""
    network, file = load_shape_features().to(device), find_model(SHIPPED) / WEIGHTS
    record = {
        "metric": "shapes_distance",
        "name": "shapes distance (not FVD)",
        "network": f"{SHIPPED}, sha256 {digest(file)}",
        "sha256": digest(file),
        "resize": "squash, antialiased, to 64 x 64",
        "caveats": ["the network knows the built-in shapes alone: of other videos the distance says little"],
    }

    def features(clips: Sequence[Tensor]) -> Tensor:
        return shape_features(network, torch.stack([squash(clip) for clip in clips]), len(clips))

    return Detector(record, features, device_name(device), network.config.features)
