"""LPIPS's published weights: torchvision's AlexNet, and LPIPS's own heads, which come with torchmetrics."""

from importlib.util import find_spec
from pathlib import Path

import torch

from latte.eval.networks.lpips import LPIPS
from latte.eval.networks.published_weights import find_weights
from latte.weights.tensors import load_strictly, read_tensors

HEADS = "functional/image/lpips_models/alex.pth"  # of LPIPS, 6 kB, below torchmetrics's folder


def torchmetrics_folder() -> Path:
    """The folder of torchmetrics (`latte-video[eval]`). Raises ValueError if it is not installed."""
    library = find_spec("torchmetrics")
    if library is None or library.origin is None:
        raise ValueError("LPIPS needs torchmetrics: pip install 'latte-video[eval]'")
    return Path(library.origin).parent


def load_lpips(path: str | Path | None, device: str | torch.device = "cpu") -> LPIPS:
    """Load AlexNet from torchvision's file, and LPIPS's heads from torchmetrics.

    Args:
        path: alexnet-owt-7be5be79.pth, or a folder that holds it.
        device: Where to put the network.

    Raises:
        ValueError: torchmetrics is not installed. CheckpointError: there is no such file (with where to get it), or it
            does not fit.
    """
    folder, file = torchmetrics_folder(), find_weights("alexnet", path).path
    backbone = {name: value for name, value in read_tensors(file).items() if not str(name).startswith("classifier.")}
    heads = read_tensors(folder / HEADS)
    with torch.device("meta"):
        network = LPIPS()
    heads = {name.replace("lin", "heads.").replace(".model.1", ""): value for name, value in heads.items()}
    load_strictly(network, backbone | heads, file)
    return network.eval().to(device)
