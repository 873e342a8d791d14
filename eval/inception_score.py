"""The inception score of videos (Salimans et al., arXiv 1606.03498; for videos: TGAN, Saito et al., 1611.06624).

The exponential of how much a clip's classes, according to a C3D of UCF101, differ from those of all clips: the mean
Kullback-Leibler divergence. It grows with the number of clips, so a score without its protocol says nothing.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latte.device import device_name
from latte.eval.features import Detector
from latte.eval.networks.c3d import C3D, FRAMES, SIZE
from latte.eval.networks.fast_convolutions import use_fast_convolutions
from latte.eval.networks.published_weights import find_weights
from latte.video.pixels import expect_videos
from latte.weights.tensors import CheckpointError, load_strictly, prefix_errors, read_arrays, rename_keys

LEFT_OUT = 8  # of the mean's 128 x 171 pixels, at the top and at the left, as tgan2 does it


@dataclass(frozen=True)
class ScoreProtocol:
    """How many clips, in how many groups, each of which has a score; whether the clips are shuffled first."""

    videos: int
    groups: int
    shuffled: bool


SCORE_PROTOCOLS = {
    "tgan2": ScoreProtocol(20480, 10, False),  # ten times 2048 new samples, pfnet-research/tgan2
    "stylegan-v": ScoreProtocol(2048, 10, True),  # some 205 a group: low by construction; universome/stylegan-v
}


def load_c3d(
    path: str | Path | None,
    mean: str | Path | None,
    width: int = 64,
    hidden: int = 4096,
    device: str | torch.device = "cpu",
) -> tuple[C3D, Tensor]:
    """The network of tgan2's conv3d_deepnetA_ucf.npz and the mean clip (3, 16, 112, 112), BGR, of its mean2.npz.

    Chainer's arrays have the shapes of ours and are called `conv1a/W`, `conv1a/b`. CheckpointError: a file is missing
    (and where to get it), or does not fit a network of this width.
    """
    file, mean_file = find_weights("c3d", path).path, find_weights("c3d-mean", mean).path
    with torch.device("meta"):
        network = C3D(width, hidden)
    with prefix_errors(file):
        state = rename_keys(read_arrays(file), lambda name: name.replace("/W", ".weight").replace("/b", ".bias"))
    load_strictly(network, state, file)
    table = read_arrays(mean_file)
    if "mean" not in table or table["mean"].shape != (3, FRAMES, 128, 171):
        raise CheckpointError(f"{mean_file} does not hold an array mean (3, {FRAMES}, 128, 171)")
    cube = table["mean"].float()[:, :, LEFT_OUT : LEFT_OUT + SIZE, LEFT_OUT : LEFT_OUT + SIZE]
    network = network.eval().requires_grad_(False).to(device)
    if torch.device(device).type == "cpu":
        use_fast_convolutions(network)
    return network, cube.to(device)


def prepare(videos: Tensor, mean: Tensor) -> Tensor:
    """uint8 RGB videos (b, 16, 3, h, w) -> (b, 3, 16, 112, 112), BGR less the mean, each frame squashed to 112 x 112.

    Bilinear, corners aligned, no antialiasing: what Chainer's resize_images does. tgan2 scales to [-1, 1] before and
    back after it, which cancels.
    """
    frames = videos.flip(2).flatten(0, 1).float()
    small = F.interpolate(frames, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
    return small.unflatten(0, videos.shape[:2]).transpose(1, 2) - mean


@torch.no_grad()
def class_probabilities(videos: Tensor, network: C3D, mean: Tensor, batch_size: int = 8) -> Tensor:
    """uint8 videos (b, 16, 3, h, w) -> probabilities of UCF101's classes (b, 101), float64 on the CPU.

    Another batch size changes the rounding alone. ValueError: other videos than that.
    """
    expect_videos(videos)
    if videos.shape[1] != FRAMES:
        raise ValueError(f"the inception score is of clips of {FRAMES} frames, not {videos.shape[1]}")
    logits = [network(prepare(part.to(mean.device), mean)).cpu().double() for part in videos.split(batch_size)]
    return torch.cat(logits).softmax(1)


def group_scores(probabilities: Tensor, groups: int) -> Tensor:
    """The score of each group of consecutive rows, (n, classes) -> (groups,), float64. ValueError: one is empty."""
    n = len(probabilities)
    if not 1 <= groups <= n:
        raise ValueError(f"{n} clips cannot be scored in {groups} groups")
    bounds = [i * n // groups for i in range(groups + 1)]
    parts = [probabilities[a:b].double() for a, b in pairwise(bounds)]
    # entropy of the mean less the mean entropy; xlogy: a class that never occurs adds nothing
    return torch.stack([(torch.xlogy(p, p).mean(0) - torch.xlogy(p.mean(0), p.mean(0))).sum().exp() for p in parts])


def inception_score(probabilities: Tensor, protocol: str) -> dict:
    """Mean and deviation of the groups' scores of (n, classes), the first `videos` of them, with all of the protocol.

    ValueError: no such protocol, or too few clips for it.
    """
    if protocol not in SCORE_PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r} of the inception score: there are {', '.join(SCORE_PROTOCOLS)}")
    how = SCORE_PROTOCOLS[protocol]
    if len(probabilities) < how.videos:
        raise ValueError(f"the inception score of {protocol} is of {how.videos} clips; {len(probabilities)} are given")
    rows = probabilities[: how.videos]
    if how.shuffled:  # the order that StyleGAN-V's evaluation has
        rows = rows[torch.from_numpy(np.random.RandomState(42).permutation(how.videos))]
    scores = group_scores(rows, how.groups)
    return {"mean": scores.mean().item(), "std": scores.std(correction=0).item(), "protocol": protocol, **asdict(how)}


def of_classes(path: Path, mean: Path | None, device: torch.device) -> Detector:
    """C3D's probabilities of UCF101's classes, (b, 101), float64."""
    file, mean_file = find_weights("c3d", path), find_weights("c3d-mean", mean)
    network, cube = load_c3d(file.path, mean_file.path, device=device)
    of = lambda clips: torch.cat([class_probabilities(clip[None], network, cube) for clip in clips])
    record = {"metric": "inception score", "sha256": file.sha256, "mean_sha256": mean_file.sha256}
    return Detector(record, of, device_name(device))
