"""C3D's published weights, those of tgan2, and the class probabilities of clips."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.device import device_name
from latte.eval.features import Detector
from latte.eval.networks.c3d import C3D, FRAMES, SIZE
from latte.eval.networks.fast_convolutions import use_fast_convolutions
from latte.eval.networks.published_weights import find_weights
from latte.files import CheckpointError, prefix_errors
from latte.video.pixels import expect_videos
from latte.weights.arrays import read_arrays
from latte.weights.tensors import load_strictly, rename_keys

CROPPED = 8  # rows and columns cut off the mean's 128 x 171 pixels, at the top and at the left, as in tgan2


def load_c3d(
    path: str | Path | None,
    mean: str | Path | None,
    width: int = 64,
    hidden: int = 4096,
    device: str | torch.device = "cpu",
) -> tuple[C3D, Tensor]:
    """Load tgan2's network and its mean clip.

    Args:
        path: conv3d_deepnetA_ucf.npz, or a folder that holds it. Its arrays have the shapes of our weights under
            Chainer's names, such as `conv1a/W` and `conv1a/b`.
        mean: mean2.npz, likewise.
        width: Channels of the first convolution.
        hidden: Width of the hidden layers.
        device: Where to put them.

    Returns:
        The network, and the mean clip (3, 16, 112, 112), BGR.

    Raises:
        CheckpointError: A file is missing (with where to get it), or does not fit a network of this width.
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
    cube = table["mean"].float()[:, :, CROPPED : CROPPED + SIZE, CROPPED : CROPPED + SIZE]
    network = network.eval().requires_grad_(False).to(device)
    if torch.device(device).type == "cpu":
        use_fast_convolutions(network)
    return network, cube.to(device)


def prepare(videos: Tensor, mean: Tensor) -> Tensor:
    """uint8 RGB videos (b, 16, 3, h, w) -> (b, 3, 16, 112, 112), BGR minus the mean, frames squashed to 112 x 112.

    Bilinear with aligned corners and no antialiasing, as in Chainer's resize_images. tgan2 scales to [-1, 1] before it
    and back after it, which cancels.
    """
    frames = videos.flip(2).flatten(0, 1).float()
    small = F.interpolate(frames, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
    return small.unflatten(0, videos.shape[:2]).transpose(1, 2) - mean


@torch.no_grad()
def class_probabilities(videos: Tensor, network: C3D, mean: Tensor, batch_size: int = 8) -> Tensor:
    """Probabilities of UCF101's classes.

    Args:
        videos: uint8 (b, 16, 3, h, w).
        network: As load_c3d returns it.
        mean: Likewise.
        batch_size: Videos per batch; it changes only the rounding.

    Returns:
        float64 (b, 101) on the CPU.

    Raises:
        ValueError: The videos are not of this type and shape.
    """
    expect_videos(videos)
    if videos.shape[1] != FRAMES:
        raise ValueError(f"the inception score needs clips of {FRAMES} frames, not {videos.shape[1]}")
    logits = [network(prepare(part.to(mean.device), mean)).cpu().double() for part in videos.split(batch_size)]
    return torch.cat(logits).softmax(1)


def c3d_detector(path: str | Path | None, mean: str | Path | None, device: torch.device) -> Detector:
    """C3D's probabilities of UCF101's classes, (b, 101), float64. Raises CheckpointError; see load_c3d."""
    file, mean_file = find_weights("c3d", path), find_weights("c3d-mean", mean)
    network, cube = load_c3d(file.path, mean_file.path, device=device)
    of = lambda clips: torch.cat([class_probabilities(clip[None], network, cube) for clip in clips])
    record = {"metric": "inception score", "sha256": file.sha256, "mean_sha256": mean_file.sha256}
    return Detector(record, of, device_name(device))
