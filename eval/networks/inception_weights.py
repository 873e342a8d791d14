"""Inception's published weights, those of torch-fidelity, and the features of frames."""

from pathlib import Path

import torch
from torch import Tensor

from latte.device import device_name
from latte.eval.features import Detector
from latte.eval.networks.inception import Inception
from latte.eval.networks.published_weights import find_weights
from latte.video.pixels import expect_videos
from latte.weights.tensors import load_strictly, read_tensors

WIDTH = 2048  # numbers per feature


def load_inception(path: str | Path | None, device: str | torch.device = "cpu") -> Inception:
    """Load Inception from torch-fidelity's file, without torch-fidelity's reader, which unpickles arbitrary objects.

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
    at_once = 8 if device.type == "cpu" else 32  # on a CPU, 32 take 0.8 GB more and longer
    of = lambda clips: torch.stack([frame_features(clip[None], network, at_once) for clip in clips])
    return Detector({"metric": "fid", "sha256": file.sha256}, of, device_name(device), WIDTH)
