"""Names of the Hugging Face hub, looked up in its cache on this machine; nothing is downloaded."""

import os
import re
from pathlib import Path

from latte.weights.folder import CONFIG
from latte.weights.load import find_model
from latte.weights.tensors import CheckpointError


def find_pipeline(name: str | Path) -> Path:
    """A folder, a model that ships, or what the Hugging Face cache of this machine holds under that name.

    CheckpointError: it is nowhere; for a name of the hub, what to fetch and where to put it.
    """
    return on_the_hub(name, f"transformer/{CONFIG}", ", ".join(f"{part}/" for part in PARTS))


def on_the_hub(name: str | Path, file: str, files: str) -> Path:
    """What find_model finds, or a name's snapshot in the hub's cache, if it holds `file`: main's, or the newest.

    CheckpointError: it is nowhere; of a name of the hub, which `files` to fetch.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)) or Path(name).exists():
        return find_model(name)
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = f"{os.environ.get('HF_HOME', f'{caches}/huggingface')}/hub"
    cache = Path(os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE", hub))).expanduser()
    stored = cache / f"models--{str(name).replace('/', '--')}"
    main = stored / "refs/main"  # which names a revision
    newest = sorted(stored.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for snapshot in ([stored / "snapshots" / main.read_text().strip()] if main.is_file() else []) + newest:
        if (snapshot / file).is_file():
            return snapshot
    try:
        return find_model(name)
    except CheckpointError:
        raise CheckpointError(
            f"{name} is no folder here and not in {cache}: fetch {files} of huggingface.co/{name} "
            f"(hf download {name}), or give the path of a folder that holds them"
        ) from None


def find_vae(name: str | Path, path: Path) -> Path:
    """A VAE's folder: one of that name within `path`, such as vae_temporal_decoder, or as find_pipeline finds them."""
    inside = path / name
    if Path(name).name == str(name) and inside.is_dir():
        return inside
    return on_the_hub(name, CONFIG, "config.json and diffusion_pytorch_model.safetensors")


PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
