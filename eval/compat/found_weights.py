"""Weights that the tools would download, searched for where a user may have put them."""

import warnings
from pathlib import Path

import torch

from latte.device import usable_device
from latte.eval.networks.published_weights import PUBLISHED, advice_on, find_weights
from latte.files import CheckpointError


def search_folders() -> list[Path]:
    """The current folder, and PyTorch's folder of checkpoints, which TORCH_HOME moves."""
    return [Path(), Path(torch.hub.get_dir()) / "checkpoints"]


def search_weights(name: str, path: str | Path | None = None) -> Path:
    """A file of published weights.

    Args:
        name: A key of PUBLISHED.
        path: Where it is. None: it is looked for in `search_folders`.

    Raises:
        CheckpointError: It is not there. The message says where to get it.
    """
    if path is not None:
        return find_weights(name, path).path
    there = [folder / PUBLISHED[name].file for folder in search_folders()]
    found = next((path for path in there if path.is_file()), None)
    if found is None:
        raise CheckpointError(f"{advice_on(name)}, into the current folder or {there[-1].parent}")
    return find_weights(name, found).path


def place_of(device: str | torch.device) -> torch.device:
    """The device that a tool's call names; the CPU, with a warning, if it is CUDA and there is none."""
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        warnings.warn(f"there is no {device} here: computing on the CPU", stacklevel=3)
        return torch.device("cpu")
    return usable_device(str(device))
