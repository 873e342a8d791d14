"""I3D out of a file: the published formats, their keys, and clips of any size as it takes them."""

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
from latte.eval.networks.inception import resize
from latte.eval.networks.pickles import is_torchscript, read_torchscript
from latte.eval.networks.published_weights import PUBLISHED, Weights, find_weights
from latte.eval.protocol import Protocol
from latte.video.pixels import from_uint8
from latte.weights.tensors import load_strictly, read_tensors, rename_keys

# hassony2/kinetics_i3d_pytorch, which i3d_torchscript.pt was made with -> piergiaj/pytorch-i3d, whose names are ours
BRANCHES = {"branch_0": "b0", "branch_3.1": "b3b"} | {
    f"branch_{i}.{j}": f"b{i}{'ab'[j]}" for i in (1, 2) for j in (0, 1)
}


def own_name(key: str) -> str:
    """A key of either format as ours."""
    key = re.sub(r"^conv3d_0c_1x1\.", "logits.", key)
    key = re.sub(r"^(conv3d|mixed)_", lambda found: f"{found[1].capitalize()}_", key)
    key = re.sub(r"\.(branch_\d(?:\.\d)?)\.", lambda found: f".{BRANCHES.get(found[1], found[1])}.", key)
    return key.replace(".batch3d.", ".bn.")


def find_i3d(path: str | Path) -> Weights:
    """The file, or that in a folder. CheckpointError: it is not there, with where to get it."""
    path = Path(path)
    pretrained = "pretrained" in path.name or (path / PUBLISHED["i3d-pretrained-400"].file).is_file()
    return find_weights("i3d-pretrained-400" if pretrained else "i3d-torchscript", path)


def read_i3d(path: Path, eps: float) -> I3D:
    """I3D, as it is defined, out of i3d_torchscript.pt, i3d_pretrained_400.pt, or another file with either's keys.

    Of a TorchScript archive only the tensors are read. eps: of the batch norms, which no file says. CheckpointError
    names the file and what is wrong.
    """
    state = read_torchscript(path) if is_torchscript(path) else read_tensors(path)
    model = I3D(eps)
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    state = counters | rename_keys(state, own_name)  # which some formats leave out
    load_strictly(model, state, path)
    return model.eval().requires_grad_(False)


def made_fast(model: I3D, device: torch.device) -> I3D:
    """The network itself, changed to what a device computes fastest: folded, on a CPU with half the multiplications."""
    model.fold().to(device)
    return use_fast_convolutions(model) if device.type == "cpu" else model


def i3d_detector(path: Path, protocol: Protocol, device: torch.device) -> Detector:
    """Clips by I3D, as a protocol sets it. CheckpointError: see find_i3d and read_i3d."""
    file = find_i3d(path)
    model = made_fast(read_i3d(file.path, protocol.eps), device)
    record = {
        "metric": "fvd",
        "name": "FVD",
        "network": f"I3D, sha256 {file.sha256}",
        "sha256": file.sha256,
        "eps": protocol.eps,
        "resize": protocol.resize,
    }
    return Detector(record, partial(i3d_features, model, resize=protocol.resize), device_name(device), CLASSES)


def squash(frames: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 3, 224, 224), bilinear, without antialiasing; sides are not kept in proportion."""
    return F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False)


def squash_tf1(frames: Tensor) -> Tensor:
    """The same by TensorFlow 1's places."""
    return resize(resize(frames, -2, SIDE), -1, SIDE)


RESIZES = {"squash": squash, "squash-tf1": squash_tf1}


@torch.no_grad()
def i3d_features(model: I3D, clips: Sequence[Tensor], resize: str) -> Tensor:
    """Logits (b, 400), float32 on the CPU, of uint8 clips (f, 3, h, w) of one length and of any sizes."""
    device = next(model.parameters()).device
    # on a CPU clip by clip: glibc maps memory of more than 32 MiB anew each time, and all its pages fault; later layers
    # need less, and read their weights once for all clips
    videos = (RESIZES[resize](from_uint8(clip.to(device)))[None] for clip in clips)
    parts = videos if device.type == "cpu" else [torch.cat(list(videos))]
    return model.late(torch.cat([model.early(part) for part in parts])).cpu()
