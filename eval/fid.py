"""Features of single frames, whose Fréchet distance is the FID: say how many frames of which clips they are of."""

from pathlib import Path

import torch
from torch import Tensor

from latte.device import device_name
from latte.eval.features import Detector
from latte.eval.networks.inception import Inception
from latte.eval.networks.published_weights import find_weights
from latte.video.pixels import expect_videos
from latte.weights.tensors import load_strictly, read_tensors


def load_inception(path: str | Path | None, device: str | torch.device = "cpu") -> Inception:
    """The network, of torch-fidelity's file. CheckpointError: no such file (and where to get it), or it does not fit.

    Not torch-fidelity's own reader, which unpickles whatever a file holds.
    """
    file = find_weights("inception", path).path
    with torch.device("meta"):
        network = Inception()
    # counters of training that nothing reads here, and that older files lack
    counters = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    load_strictly(network, counters | read_tensors(file), file)
    return network.eval().to(device)


@torch.no_grad()
def frame_features(videos: Tensor, network: Inception, batch_size: int = 32) -> Tensor:
    """uint8 videos (b, f, 3, h, w) -> features (b f, 2048) of their frames in order, float32 on the CPU.

    Another batch size changes the rounding alone. ValueError: other videos than that.
    """
    expect_videos(videos)
    device = network.fc.weight.device
    return torch.cat([network(frames.to(device)).float().cpu() for frames in videos.flatten(0, 1).split(batch_size)])


def of_frames(path: Path, device: torch.device) -> Detector:
    """Inception's features of each frame of a clip, (b, f, 2048)."""
    file = find_weights("inception", path)
    network = load_inception(file.path, device)
    of = lambda clips: torch.stack([frame_features(clip[None], network) for clip in clips])
    return Detector({"metric": "fid", "sha256": file.sha256}, of, device_name(device))
