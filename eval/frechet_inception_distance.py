"""FID of single frames: the Fréchet distance between Inception features (Heusel et al. 2017, arXiv 1706.08500)."""

from dataclasses import dataclass
from pathlib import Path

import torch

from latte.eval.features import Detector
from latte.eval.frechet import Moments, distance
from latte.eval.inputs import Videos
from latte.eval.networks.inception_weights import inception_detector
from latte.eval.protocol import Protocol
from latte.eval.sides import Options, open_sides
from latte.eval.statistics import FeatureSet

UNKNOWN = Detector({"metric": "fid", "name": "FID"}, None)  # for given features


@dataclass(frozen=True)
class FIDResult:
    """An FID; `float(result)` is its value.

    Attributes:
        value: The distance.
        frames: How many frames each side has, by "real" and "generated".
        sha256: The sha256 of Inception's weights.
    """

    value: float
    frames: dict[str, int]
    sha256: str | None = None

    def __float__(self) -> float:
        return self.value

    def to_dict(self) -> dict:
        """The result as it is stored in JSON."""
        return {"value": self.value, "frames": self.frames, "metric": "fid", "sha256": self.sha256}

    @classmethod
    def from_dict(cls, values: dict) -> "FIDResult":
        """The inverse of to_dict. Raises KeyError for a value that is missing."""
        frames = {name: values["frames"][name] for name in ("real", "generated")}
        return cls(values["value"], frames, values.get("sha256"))


def fid(
    real: Videos,
    generated: Videos,
    *,
    inception: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> FIDResult:
    """Fréchet inception distance between all frames of the clips that a protocol takes from two sets of videos.

    Args:
        real: Videos, features or statistics; see `fvd`. Features are (n, 2048), one row per frame.
        generated: Likewise.
        inception: Path to weights-inception-2015-12-05-6726825d.pth. Leave it out if both sides are features.
        protocol: Which clips are taken; see `fvd`.
        num_videos: Clips per side, at most. None: the protocol's value.
        frames: Frames per clip. None: the protocol's value.
        seed: For the protocol's random choices.
        real_crop: Pixels to which real frames are resized and centre-cropped. None: unchanged.
        device: The device to compute on. None: CUDA if available, else the CPU.
        features: A folder where features are cached.
        progress: Whether a progress bar is shown.

    Returns:
        The distance and the numbers of frames.

    Raises:
        ValueError: See `fvd`. CheckpointError: the weights are missing (with where to get them) or do not fit.
            FileNotFoundError: there is no such folder or file.
    """
    options = Options(protocol, num_videos, frames, real_crop, features)
    make = lambda chosen, place: inception_detector(inception, place)
    sides = open_sides(
        real, generated, make, UNKNOWN, options, seed=seed, device=device, progress=progress, inception=inception
    )
    return frame_distance(*sides.feature_sets(), sides.detector)


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
