"""I3D's published weights: the two file formats, their keys, and the features of clips of any size."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.device import device_name
from latte.eval.features import Detector
from latte.eval.networks.fast_convolutions import use_fast_convolutions
from latte.eval.networks.i3d import CLASSES, I3D, SIDE
from latte.eval.networks.inception import resize_tf1
from latte.eval.networks.published_weights import PUBLISHED, Weights, find_weights
from latte.eval.protocol import Protocol
from latte.files import prefix_errors
from latte.video.pixels import from_uint8, slice_by_slice
from latte.weights.tensors import load_strictly, read_tensors, rename_keys

# names of branches: hassony2/kinetics_i3d_pytorch, which i3d_torchscript.pt was made with -> ours (see i3d.py)
BRANCHES = {"branch_0": "b0", "branch_3.1": "b3b"} | {
    f"branch_{i}.{j}": f"b{i}{'ab'[j]}" for i in (1, 2) for j in (0, 1)
}


def own_name(key: str) -> str:
    """Map a key of either published format to the name of the parameter here."""
    key = re.sub(r"^conv3d_0c_1x1\.", "logits.", key)
    key = re.sub(r"^(conv3d|mixed)_", lambda found: f"{found[1].capitalize()}_", key)
    key = re.sub(r"\.(branch_\d(?:\.\d)?)\.", lambda found: f".{BRANCHES.get(found[1], found[1])}.", key)
    return key.replace(".batch3d.", ".bn.")


def find_i3d(path: str | Path | None) -> Weights:
    """Find I3D's weights.

    Args:
        path: the file, or a folder that holds it under one of its published names. None means that the user gave no
            path.

    Returns:
        The file.

    Raises:
        CheckpointError: there is no such file. The message says where to download it.
    """
    pretrained = path is not None and (
        "pretrained" in Path(path).name or (Path(path) / PUBLISHED["i3d-pretrained-400"].file).is_file()
    )
    return find_weights("i3d-pretrained-400" if pretrained else "i3d-torchscript", path)


def read_i3d(path: Path, eps: float) -> I3D:
    """Load I3D.

    Args:
        path: i3d_torchscript.pt, i3d_pretrained_400.pt, or another file with the keys of either. From a TorchScript
            archive only the tensors are read; its program is not run.
        eps: of the batch norms. No file holds it.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        CheckpointError: the file is missing or damaged, or its keys or shapes are not those of I3D.
    """
    state = read_tensors(path)
    model = I3D(eps)
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    with prefix_errors(path):
        state = counters | rename_keys(state, own_name)  # some formats leave the counters out
    load_strictly(model, state, path)
    return model.eval().requires_grad_(False)


def optimize_for_inference(model: I3D, device: torch.device) -> I3D:
    """Move the network to a device and change it, in place, to its fastest form there. Outputs stay the same.

    Batch norms are merged into convolutions. On a CPU, convolutions take half the multiplications (fast_convolutions).
    """
    model.fold_batch_norms().to(device)
    return use_fast_convolutions(model) if device.type == "cpu" else model


def i3d_detector(path: str | Path | None, protocol: Protocol, device: torch.device) -> Detector:
    """The detector of FVD.

    Args:
        path: I3D's weights, see `find_i3d`.
        protocol: says how frames are resized, and the epsilon of the batch norms.
        device: where to compute.

    Raises:
        CheckpointError: the weights are missing, damaged, or not I3D's.
    """
    file = find_i3d(path)
    model = optimize_for_inference(read_i3d(file.path, protocol.eps), device)
    record = {
        "metric": "fvd",
        "name": "FVD",
        "network": f"I3D, sha256 {file.sha256}",
        "sha256": file.sha256,
        "eps": protocol.eps,
        "resize": protocol.resize,
    }
    return Detector(record, partial(i3d_features, model, resize=protocol.resize), device_name(device), CLASSES)


def squash(frames: Tensor, side: int = SIDE) -> Tensor:
    """Resize frames (n, 3, h, w) to (n, 3, side, side), bilinearly, without antialiasing.

    The aspect ratio is not kept.
    """
    return F.interpolate(frames, (side, side), mode="bilinear", align_corners=False, antialias=False)


def squash_tf1(frames: Tensor) -> Tensor:
    """Resize as `squash` does, but sample where TensorFlow 1 does (see latte.eval.networks.inception.resize_tf1)."""
    return resize_tf1(resize_tf1(frames, -2, SIDE), -1, SIDE)


RESIZES = {"squash": squash, "squash-tf1": squash_tf1}


@torch.no_grad()
def i3d_features(model: I3D, clips: Sequence[Tensor], resize: str) -> Tensor:
    """Compute the features that FVD compares.

    Args:
        model: I3D.
        clips: b clips, uint8 (f, 3, h, w), all of the same length. Their sizes may differ.
        resize: how frames are resized, a key of RESIZES.

    Returns:
        Logits (b, 400), float32, on the CPU.
    """
    device = next(model.parameters()).device
    # On a CPU the stem takes one clip at a time: glibc maps memory of more than 32 MiB anew at every allocation, and
    # every page of it faults. The trunk needs less memory, and reads its weights once for all clips.
    resized = lambda frames: RESIZES[resize](from_uint8(frames.to(device)))
    videos = (slice_by_slice(resized, clip)[None] for clip in clips)
    parts = videos if device.type == "cpu" else [torch.cat(list(videos))]
    return model.trunk(torch.cat([model.stem(part) for part in parts])).cpu()
