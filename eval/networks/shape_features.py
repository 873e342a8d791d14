"""The feature network of the built-in shapes: a small 3-D CNN that is trained to say what a clip shows.

`latte train --config shapes-features` trains it. Shape letters: b clips, f frames, c channels, h height, w width.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.device import device_name
from latte.eval.features import Detector, batched
from latte.eval.networks.shape_features_config import GROUPS, ShapeFeaturesConfig
from latte.video.pixels import expect_videos, from_uint8, slice_by_slice
from latte.weights.find_models import find_model
from latte.weights.folder import read_config
from latte.weights.manifest import WEIGHTS, digest
from latte.weights.tensors import load_strictly, read_tensors

# the questions about a clip, and the size of each output: see latte.train.objectives.shape_recognition.clip_targets
HEADS = {
    "motion": 8,
    "shape": 4,
    "colour": 6,
    "track": 12,
    "tempo": 1,
    "damage": 6,
}
CELLS = (4, 4, 4)  # the grid in time, height and width over which activations are averaged
# of the convolutions; further ones have the last. Frames are halved in size before they are halved in number
STRIDES = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 1, 1))
HIDDEN = 128  # width of the layer between the cells and the features


class ShapeFeatures(nn.Module):
    """A 3-D CNN whose answers are all linear functions of its features.

    It takes clips of any size and length, because activations are averaged over a grid of cells. The network that
    ships was trained on clips of one size and length; "track" and "tempo" are only meaningful for such clips.
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
        """Map clips (b, f, 3, h, w) in [-1, 1] to features (b, config.features)."""
        cells = F.adaptive_avg_pool3d(self.stages(videos.transpose(1, 2)), CELLS)
        return self.project(F.silu(self.mix(cells.flatten(1))))

    @torch.no_grad()
    def whiten(self, seen: Tensor) -> None:
        """Whiten the features, in place, without changing any answer.

        Args:
            seen: features (n, config.features) of some clips. Afterwards, the features of these clips have mean 0 and
                covariance 1, except in directions in which they hardly vary: there the variance is taken as 1e-6 of
                the largest, so that noise is not amplified.
        """
        seen = seen.double()
        values, vectors = torch.linalg.eigh(seen.T.cov(correction=0))
        spread = values.clamp(min=1e-6 * values[-1]).sqrt()
        whitening, inverse = (vectors * scale @ vectors.T for scale in (1 / spread, spread))
        mean = seen.mean(0)
        for head in self.heads.values():
            head.bias += (head.weight.double() @ mean).float()
            head.weight.copy_(head.weight.double() @ inverse)
        self.project.bias.copy_(whitening @ (self.project.bias.double() - mean))
        self.project.weight.copy_(whitening @ self.project.weight.double())

    def forward(self, videos: Tensor) -> dict[str, Tensor]:
        """Map clips (b, f, 3, h, w) in [-1, 1] to answers: for each name in HEADS, (b, its size)."""
        features = self.features(videos)
        return {name: head(features) for name, head in self.heads.items()}


SHIPPED = "shapes-features"  # the network that is part of the package
SIDE = 64  # height and width of the frames that it was trained on, in pixels


def load_shape_features(name: str | Path = SHIPPED) -> ShapeFeatures:
    """Load a feature network, in evaluation mode.

    Args:
        name: the network that ships, or the folder of a run of `latte train --config shapes-features`.

    Raises:
        CheckpointError: a file is missing or damaged, or is not of such a network.
    """
    folder = find_model(name)
    with torch.device("meta"):
        network = ShapeFeatures(read_config(folder, ShapeFeaturesConfig.from_dict))
    load_strictly(network, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return network.eval()


@torch.no_grad()
def shape_features(network: ShapeFeatures, videos: Tensor, batch_size: int = 32) -> Tensor:
    """Compute the features of clips.

    Args:
        network: computes them, on its own device.
        videos: clips, uint8 (n, f, 3, h, w).
        batch_size: clips at a time. The last batch is filled up to this size, so that the features of a clip do not
            depend on the number of clips.

    Returns:
        (n, d), float32, on the CPU.

    Raises:
        ValueError: `videos` has another shape or type, or is empty.
    """
    expect_videos(videos)
    device = next(network.parameters()).device
    parts = batched(iter(videos), batch_size)
    return torch.cat(
        [network.features(from_uint8(torch.stack(full).to(device)))[:count].cpu() for full, count in parts]
    )


def resize_clip(clip: Tensor) -> Tensor:
    """Resize a clip, uint8 (f, 3, h, w), to (f, 3, 64, 64), bilinearly and antialiased, if it has another size."""
    if clip.shape[-2:] == (SIDE, SIDE):
        return clip
    resize = lambda frames: F.interpolate(frames.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    return slice_by_slice(lambda frames: resize(frames).round().clamp(0, 255).byte(), clip)


def shapes_detector(device: torch.device) -> Detector:
    """The detector of the shapes distance, by the network that ships. Clips in a batch may differ in size only."""
    network, sha256 = load_shape_features().to(device), digest(find_model(SHIPPED) / WEIGHTS)
    record = {
        "metric": "shapes_distance",
        "name": "shapes distance (not FVD)",
        "network": f"{SHIPPED}, sha256 {sha256}",
        "sha256": sha256,
        "resize": "squash, antialiased, to 64 x 64",
        "caveats": ["the network was trained only on the built-in shapes: the distance says little about other videos"],
    }

    def features(clips: Sequence[Tensor]) -> Tensor:
        return shape_features(network, torch.stack([resize_clip(clip) for clip in clips]), len(clips))

    return Detector(record, features, device_name(device), network.config.features)
