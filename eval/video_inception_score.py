"""The inception score of videos (Salimans et al. 2016, arXiv 1606.03498; for videos, TGAN: arXiv 1611.06624).

It is the exponential of the mean Kullback-Leibler divergence between a clip's class probabilities, by a C3D trained on
UCF101, and the mean probabilities of all clips. It grows with the number of clips, so it is reported with its protocol.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latte.eval.features import Detector
from latte.eval.inputs import Reading, Videos, find_device
from latte.eval.networks.c3d import FRAMES
from latte.eval.networks.c3d_weights import c3d_detector
from latte.eval.protocol import Protocol, choose_protocol


@dataclass(frozen=True)
class ScoreProtocol:
    """How the score is computed: on how many clips, in how many groups with a score each, shuffled first or not."""

    videos: int
    groups: int
    shuffled: bool


SCORE_PROTOCOLS = {
    "tgan2": ScoreProtocol(20480, 10, False),  # ten times 2048 new samples, pfnet-research/tgan2
    "stylegan-v": ScoreProtocol(2048, 10, True),  # some 205 per group, so low by construction; universome/stylegan-v
}
DEFAULT_SCORE = "stylegan-v"


@dataclass(frozen=True)
class InceptionScore:
    """An inception score; `float(score)` is its mean.

    Attributes:
        mean: The mean over the groups.
        std: The standard deviation over the groups, not divided by the root of their number.
        protocol: Its name in SCORE_PROTOCOLS; videos, groups and shuffled are the protocol's values.
        sha256: The sha256 of C3D's weights; mean_sha256: of its mean clip.
    """

    mean: float
    std: float
    protocol: str
    videos: int
    groups: int
    shuffled: bool
    sha256: str | None = None
    mean_sha256: str | None = None

    def __float__(self) -> float:
        return self.mean

    def to_dict(self) -> dict:
        """The result as it is stored in JSON."""
        values = asdict(self)
        hashes = {name: values.pop(name) for name in ("sha256", "mean_sha256")}
        return {**values, "metric": "inception score", **hashes}

    @classmethod
    def from_dict(cls, values: dict) -> "InceptionScore":
        """The inverse of to_dict."""
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


def inception_score(
    videos: Videos,
    *,
    c3d: str | Path | None = None,
    mean: str | Path | None = None,
    protocol: str = DEFAULT_SCORE,
    clips: str | Protocol | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> InceptionScore:
    """The inception score of generated videos.

    Args:
        videos: A folder of videos, a list of video files, a file of arrays, or videos in memory; see `fvd`.
        c3d: Path to conv3d_deepnetA_ucf.npz.
        mean: Path to mean2.npz, the mean clip that belongs to it.
        protocol: One of SCORE_PROTOCOLS: how many clips, in how many groups.
        clips: The FVD protocol by which a clip is taken from each video; see `fvd`.
        seed: For the random choices of clips.
        device: The device to compute on. None: CUDA if available, else the CPU.
        features: A folder where class probabilities are cached.
        progress: Whether a progress bar is shown.

    Raises:
        ValueError: There are fewer clips than the protocol needs, or they are not of 16 frames. CheckpointError: the
            weights are missing (with where to get them) or do not fit. FileNotFoundError: there is no such folder or
            file.
    """
    chosen = choose_protocol(clips, find_score_protocol(protocol).videos)
    detector = c3d_detector(c3d, mean, find_device(device))
    reading = Reading(chosen, seed, features, progress=progress)
    found = reading.open(videos, "generated")
    check_clips(protocol, len(found.clips), chosen)
    return score_probabilities(reading.features(found, [detector], "generated")[0], protocol, detector)


def find_score_protocol(name: str) -> ScoreProtocol:
    """One of SCORE_PROTOCOLS. Raises ValueError if there is none of that name."""
    if name not in SCORE_PROTOCOLS:
        raise ValueError(f"no protocol {name!r} of the inception score: there are {', '.join(SCORE_PROTOCOLS)}")
    return SCORE_PROTOCOLS[name]


def check_clips(name: str, count: int, protocol: Protocol) -> None:
    """Raise ValueError, before any work, if `count` clips by an FVD protocol cannot be scored."""
    if count < (needed := find_score_protocol(name).videos):
        fits = [other for other, how in SCORE_PROTOCOLS.items() if how.videos <= count]
        advice = f": {' or '.join(fits)} needs no more than that (--is-protocol)" if fits else ""
        raise ValueError(f"the inception score of {name} needs {needed} clips; there are {count}{advice}")
    if protocol.frames != FRAMES:
        raise ValueError(
            f"the inception score needs clips of {FRAMES} frames; protocol {protocol.name} has {protocol.frames}"
        )


def score_probabilities(probabilities: Tensor, name: str, detector: Detector | None = None) -> InceptionScore:
    """The inception score of class probabilities.

    Args:
        probabilities: (n, classes), of which the protocol uses the first `videos`.
        name: One of SCORE_PROTOCOLS.
        detector: Where they come from.

    Raises:
        ValueError: No such protocol, or too few clips for it.
    """
    how = find_score_protocol(name)
    if len(probabilities) < how.videos:
        raise ValueError(f"the inception score of {name} needs {how.videos} clips; there are {len(probabilities)}")
    rows = probabilities[: how.videos]
    if how.shuffled:  # in the order of StyleGAN-V's evaluation
        rows = rows[torch.from_numpy(np.random.RandomState(42).permutation(how.videos))]
    scores = group_scores(rows, how.groups)
    hashes = {key: detector.record[key] for key in ("sha256", "mean_sha256")} if detector else {}
    return InceptionScore(scores.mean().item(), scores.std(correction=0).item(), name, **asdict(how), **hashes)


def group_scores(probabilities: Tensor, groups: int) -> Tensor:
    """The score of each group of consecutive rows, (n, classes) -> (groups,). Raises ValueError if one is empty."""
    n = len(probabilities)
    if not 1 <= groups <= n:
        raise ValueError(f"{n} clips cannot be scored in {groups} groups")
    bounds = [i * n // groups for i in range(groups + 1)]
    parts = [probabilities[a:b].double() for a, b in pairwise(bounds)]
    # the entropy of the mean minus the mean entropy; xlogy: a class that never occurs adds nothing
    return torch.stack([(torch.xlogy(p, p).mean(0) - torch.xlogy(p.mean(0), p.mean(0))).sum().exp() for p in parts])
