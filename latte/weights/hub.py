"""Models by their names on the Hugging Face hub, looked up in its cache on this machine. Nothing is downloaded."""

import os
import re
from pathlib import Path

from latte.weights.folder import CONFIG
from latte.weights.load import PARTS, find_model
from latte.weights.tensors import CheckpointError


def find_pipeline(name: str | Path) -> Path:
    """Find a model by path, by the name of a bundled one, or by its name on the hub.

    Returns:
        What find_model returns, or the model's snapshot in the Hugging Face cache.

    Raises:
        CheckpointError: It is nowhere. For a name on the hub, the message says what to download.
    """
    return find_cached(name, f"transformer/{CONFIG}", ", ".join(f"{part}/" for part in PARTS))


def find_vae(name: str | Path, path: Path) -> Path:
    """Find a VAE: a subfolder of the model at `path`, such as "vae_temporal_decoder", or else as find_pipeline does."""
    inside = path / name
    if Path(name).name == str(name) and inside.is_dir():
        return inside
    return find_cached(name, CONFIG, "config.json and diffusion_pytorch_model.safetensors")


def find_cached(name: str | Path, file: str, needed: str) -> Path:
    """Find a model, also in the Hugging Face cache: the snapshot of its main revision, or else the newest one.

    Args:
        name: A path, the name of a bundled model, or "owner/name" on the hub.
        file: A file that a snapshot must hold to be used.
        needed: The files to download, for the message.

    Raises:
        CheckpointError: It is nowhere.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)) or os.path.exists(name):
        return find_model(name)
    cache = cache_folder()
    stored = cache / f"models--{str(name).replace('/', '--')}"
    main = stored / "refs/main"  # holds the name of a snapshot
    newest = sorted(stored.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True)
    named = [stored / "snapshots" / main.read_text(errors="replace").strip()] if main.is_file() else []
    for snapshot in named + newest:
        if os.path.isfile(snapshot / file):
            return snapshot
    try:
        return find_model(name)
    except CheckpointError:
        raise CheckpointError(
            f"{name} is neither a folder here nor in {cache}: fetch {needed} of huggingface.co/{name} "
            f"(hf download {name}), or give the path of a folder that holds them"
        ) from None


def cache_folder() -> Path:
    """Return the folder of the Hugging Face cache, which four environment variables can move."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = f"{os.environ.get('HF_HOME', f'{caches}/huggingface')}/hub"
    return Path(os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE", hub))).expanduser()
