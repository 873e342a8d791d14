"""V-JEPA's published weights, and the features of clips of any size."""

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
from latte.eval.networks.vjepa import VJEPA, Probe
from latte.weights.stored_tensors import open_tensors, read_stored
from latte.weights.tensors import CheckpointError, load_strictly

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]
PREFIXES = ("module.", "backbone.")  # of the keys in the files


def open_part(path: Path, part: str) -> dict:
    """The tensors of one network, by its own names for them, in a file that holds several. They stay in the file.

    Args:
        path: The file.
        part: The network's name there: "target_encoder" or "classifier".

    Raises:
        CheckpointError: The file is missing or damaged, or lacks the part.
    """
    table = open_tensors(path)
    if not isinstance(state := table.get(part), dict):
        raise CheckpointError(f"{path} holds no {part}, only {', '.join(map(str, table))[:200]}")
    for prefix in PREFIXES:
        state = {str(name).removeprefix(prefix): value for name, value in state.items()}
    return state


def vjepa_detector(path: str | Path | None, probe: str | Path | None, device: torch.device, **sizes: int) -> Detector:
    """The detector of JEDi.

    Args:
        path: vith16.pth.tar, or a folder that holds it.
        probe: ssv2-probe.pth.tar, likewise.
        device: Where to compute. On a CPU the encoder's blocks stay in their file (latte.eval.networks.stored_blocks).
        **sizes: Sizes of smaller networks; see VJEPA.

    Raises:
        CheckpointError: Weights are missing (with where to get them), damaged, or not V-JEPA's.
    """
    files = find_weights("vjepa", path), find_weights("vjepa-probe", probe)
    with torch.device("meta"):
        encoder = VJEPA(**sizes)
        classifier = Probe(**{name: size for name, size in sizes.items() if name not in ("depth", "side")})
    load_transformer(encoder, open_part(files[0].path, "target_encoder"), files[0].path, device)
    load_strictly(classifier, read_stored(open_part(files[1].path, "classifier"), files[1].path), files[1].path)
    classifier.to(device).eval().requires_grad_(False)
    record = {
        "metric": "jedi",
        "name": "JEDi",
        "network": f"V-JEPA, sha256 {files[0].sha256}, with a probe, sha256 {files[1].sha256}",
        "sha256": files[0].sha256,
        "probe_sha256": files[1].sha256,
        "resize": "squash",
    }
    features = partial(vjepa_features, encoder, classifier)
    return Detector(record, features, device_name(device), classifier.linear.in_features)


def vjepa_features(encoder: VJEPA, probe: Probe, clips: Sequence[Tensor]) -> Tensor:
    """Features of clips, uint8 (f, 3, h, w): squashed to the encoder's size, and normalised like ImageNet pictures.

    JEDi's own tool leaves the size of frames to its user; V-JEPA was trained on 224 x 224.

    Returns:
        (b, 1280), float32, on the CPU.
    """
    device = encoder.pos_embed.device
    mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    network = lambda videos: probe(encoder(videos.sub_(mean).div_(deviation)))  # in place: they are its own copy
    return clip_features(network, clips, encoder.side, device)
