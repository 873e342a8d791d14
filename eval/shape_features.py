"""Features of clips by the network that ships, for a Fréchet distance that needs no download.

That distance is this project's own, the shapes distance: no FVD, and comparable with none. Its unit is a deviation of
real clips of the built-in shapes, squared. The network was trained on these, and on the corruptions of
latte.eval.corruptions: it sees that kind of damage well by making, and says little of videos of anything else.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.checkpoint import find_model
from latte.device import device_name
from latte.eval.features import Detector, batched
from latte.eval.pixels import expect_videos
from latte.folder import WEIGHTS, read_config
from latte.models.shape_features import ShapeFeatures, ShapeFeaturesConfig
from latte.tensors import digest, load_strictly, read_tensors
from latte.video import from_uint8

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
