"""Autoencoders in files: the published folders, older key names, and our own half-precision ones."""

from pathlib import Path

import torch
from torch import Tensor

from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.tensors import CheckpointError, load_strictly, read_config, read_tensors, save_folder

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def modern_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The attention's old names (query, key, value, proj_attn) as today's; 1 x 1 convolutions as linear."""
    out = {}
    for name, tensor in state.items():
        if ".attentions." in name:
            parts = [OLD_NAMES.get(part, part) for part in name.split(".")]
            name, tensor = ".".join(parts), tensor.flatten(1) if tensor.ndim == 4 else tensor
        out[name] = tensor
    return out


def load_vae(folder: str | Path, dtype: torch.dtype = torch.float32) -> VideoVAE:
    """A folder with config.json and weights, as published or as save_vae wrote it, in evaluation mode.

    CheckpointError says what is missing, damaged or does not fit.
    """
    folder = Path(folder)
    if (folder / "optimizer.safetensors").exists():
        raise CheckpointError(f"{folder} is a checkpoint: its latents have no scale yet; give the run's folder `final`")
    config = read_config(folder, VAEConfig)
    file = next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])
    with torch.device("meta"):
        model = AutoencoderKL(config)
    load_strictly(model, modern_keys(read_tensors(file)), file, dtype)
    return VideoVAE(model).eval()


def save_vae(vae: VideoVAE, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder that load_vae reads, its weights in `dtype`."""
    return save_folder(vae.model, folder, dtype)
