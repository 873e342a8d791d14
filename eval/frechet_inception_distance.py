"""FID of single frames: the Fréchet distance between Inception features (Heusel et al. 2017, arXiv 1706.08500)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latte.device import device_name
from latte.eval.features import Detector
from latte.eval.frechet import Moments, distance
from latte.eval.inputs import Reading, Videos, are_features, find_device, refuse_unused
from latte.eval.networks.inception import Inception
from latte.eval.networks.published_weights import find_weights
from latte.eval.protocol import Protocol, choose_protocol
from latte.eval.statistics import FeatureSet
from latte.video.pixels import expect_videos
from latte.weights.tensors import load_strictly, read_tensors

WIDTH = 2048  # numbers per feature


@dataclass(frozen=True)
class FIDResult:
    """An FID; `float(result)` is its value.

    Attributes:
        value: The distance.
        frames: How many frames each side has, by "real" and "generated".
        sha256: Of Inception's weights.
    """

    value: float
    frames: dict[str, int]
    sha256: str | None = None

    def __float__(self) -> float:
        return self.value

    def to_dict(self) -> dict:
        """As it stands in the JSON of a result."""
        return {"value": self.value, "frames": self.frames, "metric": "fid", "sha256": self.sha256}

    @classmethod
    def from_dict(cls, values: dict) -> "FIDResult":
        """The inverse of to_dict."""
        fields: dict[str, Any] = {name: values.get(name) for name in ("value", "frames", "sha256")}
        return cls(**fields)


def fid(
    real: Videos,
    generated: Videos,
    *,
    inception: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> FIDResult:
    """Fréchet inception distance between all frames of the clips that a protocol takes of two sets of videos.

    Args:
        real: Videos, features or statistics; see `fvd`. Features are (n, 2048), one row per frame.
        generated: Likewise.
        inception: Path to weights-inception-2015-12-05-6726825d.pth. Not needed if both sides are features.
        protocol: Which clips are taken; see `fvd`.
        num_videos: Clips per side, at most. None: as the protocol has it.
        seed: For the protocol's random choices.
        real_crop: Pixels to which real frames are resized and centre-cropped. None: unchanged.
        device: To compute on. None: CUDA where there is one, else the CPU.
        features: A folder where features are cached.
        progress: Whether a progress bar is shown.

    Returns:
        The distance and the numbers of frames.

    Raises:
        ValueError: A side is not such a set, or has too few clips. CheckpointError: the weights are missing (with
            where to get them) or do not fit.
    """
    sides = {"real": real, "generated": generated}
    chosen = choose_protocol(protocol, num_videos, None, real_crop)
    reading = Reading(chosen, seed, features, progress=progress)
    if all(map(are_features, sides.values())):
        refuse_unused(protocol=protocol, num_videos=num_videos, real_crop=real_crop, features=features)
        detector = Detector({"metric": "fid", "name": "FID"}, None)
    else:
        detector = inception_detector(inception, find_device(device))
    first, second = (reading.feature_set(side, name, detector) for name, side in sides.items())
    return frame_distance(first, second, detector)


def frame_distance(real: FeatureSet, generated: FeatureSet, detector: Detector) -> FIDResult:
    """The FID between features of frames, (n, f, 2048) or (n, 2048), or their moments."""
    moments, frames = [], {}
    for name, side in (("real", real), ("generated", generated)):
        if isinstance(side.features, Moments):
            moments.append(side.features)
        else:
            moments.append(Moments.of(side.features.flatten(0, -2)))
        frames[name] = moments[-1].count
    return FIDResult(distance(*moments), frames, detector.record.get("sha256"))


def load_inception(path: str | Path | None, device: str | torch.device = "cpu") -> Inception:
    """Load Inception from torch-fidelity's file, without torch-fidelity's reader, which unpickles whatever is in it.

    Args:
        path: The file, or a folder that holds it.
        device: Where to put the network.

    Raises:
        CheckpointError: There is no such file (with where to get it), or it does not fit.
    """
    file = find_weights("inception", path).path
    with torch.device("meta"):
        network = Inception()
    # counters of training, which are not used here and which older files lack
    counters = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    load_strictly(network, counters | read_tensors(file), file)
    return network.eval().to(device)


@torch.no_grad()
def frame_features(videos: Tensor, network: Inception, batch_size: int = 32) -> Tensor:
    """Inception features of every frame.

    Args:
        videos: uint8 (b, f, 3, h, w).
        network: As load_inception returns it.
        batch_size: Frames per batch; it changes only the rounding.

    Returns:
        float32 (b f, 2048) on the CPU.

    Raises:
        ValueError: The videos are not of this type and shape.
    """
    expect_videos(videos)
    device = network.fc.weight.device
    return torch.cat([network(frames.to(device)).float().cpu() for frames in videos.flatten(0, 1).split(batch_size)])


def inception_detector(path: str | Path | None, device: torch.device) -> Detector:
    """Inception features of each frame of a clip, (b, f, 2048). Raises CheckpointError; see load_inception."""
    file = find_weights("inception", path)
    network = load_inception(file.path, device)
    of = lambda clips: torch.stack([frame_features(clip[None], network) for clip in clips])
    return Detector({"metric": "fid", "sha256": file.sha256}, of, device_name(device), WIDTH)
