"""Autoencoders: published folders, single files, and the folders that this project writes."""

from pathlib import Path

import torch

from latte.fast.vae_layers import prepare
from latte.files import CheckpointError, prefix_errors, read_json
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.weights.convert_latte import MARKER as LATTE
from latte.weights.convert_vae import MARKER, infer_vae_config, vae_state
from latte.weights.folder import make_network, read_config, save_folder
from latte.weights.manifest import CONFIG
from latte.weights.sharded_tensors import read_part
from latte.weights.state_files import state_files
from latte.weights.stored_names import mentions
from latte.weights.tensors import load_strictly


def is_vae(path: Path) -> bool:
    """Whether this is an autoencoder: a folder, judged by its config.json, or a file, judged by the names in it."""
    if path.is_file():
        return mentions(path, MARKER) and not mentions(path, LATTE)
    return (path / CONFIG).is_file() and "block_out_channels" in read_json(path / CONFIG)


def vae_files(path: Path, variant: str | None = None) -> list[Path]:
    """List the files that load_vae takes the weights from. Raises CheckpointError as state_files does."""
    return [path] if path.is_file() else state_files(path, variant)


def load_vae(path: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> VideoVAE:
    """Load an autoencoder for videos, in evaluation mode, with the fast paths of latte.fast.vae_layers.

    Args:
        path: A folder with config.json and weights, as published or as save_vae writes it; or a single file, in which
            the VAE may be a part of a whole Stable Diffusion or of a training checkpoint.
        dtype: The type to convert the weights to.
        variant: See latte.weights.state_files.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the configuration.
    """
    path = Path(path)
    if (path / "optimizer.safetensors").exists():
        raise CheckpointError(
            f"{path} is a training checkpoint, whose latents have no scale yet; give the run's folder `final`"
        )
    with prefix_errors(path / CONFIG):
        if (path / CONFIG).is_file() and not is_vae(path):
            inside = f": give {path / 'vae'}" if (path / "vae").is_dir() else ""
            raise ValueError(f"this is not a VAE's configuration{inside}")
    config = None if path.is_file() else read_config(path, VAEConfig.from_dict)
    files = vae_files(path, variant)
    table = read_part(files)
    with prefix_errors(files[-1]):
        state = vae_state(table)
        config = config or infer_vae_config(state, table, files[-1])
    model = make_network(AutoencoderKL, config, state, files[-1])
    load_strictly(model, state, files[-1], dtype)
    return prepare(VideoVAE(model).eval())


def save_vae(vae: VideoVAE, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder that load_vae reads, with the weights in `dtype`. Raises CheckpointError as save_folder does."""
    return save_folder(vae.model, folder, dtype)
