"""Folders of autoencoders: published ones, with current or older key names, and those that this project writes."""

from pathlib import Path

import torch
from torch import Tensor

from latte.files import read_json
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.weights.folder import CONFIG, WEIGHTS, read_config, save_folder
from latte.weights.tensors import CheckpointError, load_strictly, prefix_errors, read_tensors, rename_keys

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, old: current
FILES = (WEIGHTS, "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def is_vae(folder: Path) -> bool:
    """Whether this is the folder of an autoencoder, judged by its config.json."""
    return (folder / CONFIG).is_file() and "block_out_channels" in read_json(folder / CONFIG)


def vae_file(folder: Path) -> Path:
    """Return the file that load_vae takes the weights from."""
    return next((folder / name for name in FILES if (folder / name).is_file()), folder / WEIGHTS)


def modern_name(name: str) -> str:
    """Return the current name of a parameter whose attention may use the older names."""
    return ".".join(OLD_NAMES.get(part, part) for part in name.split(".")) if ".attentions." in name else name


def modern_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a published state dict to current names, with the 1 x 1 convolutions of old attention as matrices.

    Raises:
        ValueError: It is not a table of tensors, or it holds a tensor under both names.
    """
    linear = lambda name, tensor: tensor.flatten(1) if ".attentions." in name and tensor.ndim == 4 else tensor
    return {name: linear(name, tensor) for name, tensor in rename_keys(state, modern_name).items()}


def load_vae(folder: str | Path, dtype: torch.dtype = torch.float32) -> VideoVAE:
    """Load an autoencoder for videos, in evaluation mode.

    Args:
        folder: A folder with config.json and weights, as published or as save_vae writes it.
        dtype: What to convert the weights to.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the configuration.
    """
    folder = Path(folder)
    if (folder / "optimizer.safetensors").exists():
        raise CheckpointError(
            f"{folder} is a training checkpoint, whose latents have no scale yet; give the run's folder `final`"
        )
    with prefix_errors(folder / CONFIG):
        if (folder / CONFIG).is_file() and not is_vae(folder):
            inside = f": give {folder / 'vae'}" if (folder / "vae").is_dir() else ""
            raise ValueError(f"this is not a VAE's configuration{inside}")
    config, file = read_config(folder, VAEConfig.from_dict), vae_file(folder)
    with prefix_errors(file):
        state = modern_keys(read_tensors(file))
    with torch.device("meta"):
        model = AutoencoderKL(config)
    load_strictly(model, state, file, dtype)
    return VideoVAE(model).eval()


def save_vae(vae: VideoVAE, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder that load_vae reads, with the weights in `dtype`. Raises CheckpointError as save_folder does."""
    return save_folder(vae.model, folder, dtype)
