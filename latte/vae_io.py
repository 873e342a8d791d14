"""Autoencoders in files: the published folders, older key names, and our own half-precision ones."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from latte.checkpoint import load_strictly, read_json, read_tensors
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE

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

    FileNotFoundError or ValueError says what is missing, damaged or does not fit.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no VAE at {folder}: it holds no config.json")
    file = next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])
    with torch.device("meta"):
        model = AutoencoderKL(VAEConfig.from_dict(read_json(folder / "config.json")))
    load_strictly(model, {name: t.to(dtype) for name, t in modern_keys(read_tensors(file)).items()}, file)
    return VideoVAE(model).eval()


def save_vae(vae: VideoVAE, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write config.json and model.safetensors, each beside its name first and then renamed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in vae.model.state_dict().items()}
    save_file(state, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "config.json.part").write_text(json.dumps(asdict(vae.config), indent=2) + "\n")
    for name in ("model.safetensors", "config.json"):
        os.replace(folder / f"{name}.part", folder / name)
    return folder
