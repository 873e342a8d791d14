"""VideoMAE's published weights, and the features of clips of any size."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from latte.device import device_name
from latte.eval.features import Detector
from latte.eval.networks.published_weights import find_weights
from latte.eval.networks.stored_blocks import load_transformer
from latte.eval.networks.video_transformer import clip_features
from latte.eval.networks.videomae import VideoMAE
from latte.weights.stored_tensors import open_tensors

NESTED = ("model", "module")  # the file keeps the network under one of these


def read_videomae(path: Path, device: torch.device, **sizes: int) -> VideoMAE:
    """Load VideoMAE, in evaluation mode, without gradients.

    Args:
        path: vit_g_hybrid_pt_1200e_ssv2_ft.pth.
        device: Where it will compute. On a CPU its blocks stay in the file (latte.eval.networks.stored_blocks).
        **sizes: Sizes of a smaller network; see VideoMAE.

    Raises:
        CheckpointError: The file is missing or damaged, or its keys or shapes are not VideoMAE's.
    """
    with torch.device("meta"):
        network = VideoMAE(**sizes)
    state = open_tensors(path)
    state = next((state[name] for name in NESTED if isinstance(state.get(name), dict)), state)
    return load_transformer(network, state, path, device)


def videomae_detector(path: str | Path | None, device: torch.device, **sizes: int) -> Detector:
    """The detector of CD-FVD.

    Args:
        path: vit_g_hybrid_pt_1200e_ssv2_ft.pth, or a folder that holds it.
        device: Where to compute.
        **sizes: See read_videomae.

    Raises:
        CheckpointError: The weights are missing (with where to get them), damaged, or not VideoMAE's.
    """
    file = find_weights("videomae", path)
    network = read_videomae(file.path, device, **sizes)
    record = {
        "metric": "cd-fvd",
        "name": "CD-FVD",
        "network": f"VideoMAE, sha256 {file.sha256}",
        "sha256": file.sha256,
        "resize": "squash",
    }
    return Detector(record, partial(videomae_features, network), device_name(device), network.width)


def videomae_features(network: VideoMAE, clips: Sequence[Tensor]) -> Tensor:
    """Features of clips, uint8 (f, 3, h, w), as in cd-fvd: pixels in [0, 1], squashed, without any normalisation.

    Returns:
        (b, 1408), float32, on the CPU.
    """
    return clip_features(network, clips, network.side, next(network.parameters()).device)
