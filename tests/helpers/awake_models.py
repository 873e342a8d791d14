"""Small pipelines with random weights. A fresh network outputs zero, which would hide most errors."""

import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from latte import LattePipeline
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.weights.load import save_model
from latte.weights.vae_folder import save_vae

VAE = VAEConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
SIZE = dict(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4)


def awake(network: nn.Module) -> nn.Module:
    """Draw all weights at random. With a zero-initialised output, samples would equal the initial noise."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def awake_pipeline(num_classes: int = 0, names: list[str] | None = None) -> LattePipeline:
    """A class-conditional pipeline, or an unconditional one for 0 classes."""
    network = awake(Latte(LatteConfig(num_classes=num_classes, **SIZE)))
    return LattePipeline(network, VideoVAE(awake(AutoencoderKL(VAE))), class_names=names)


def write_model(pipe: LattePipeline, folder: Path) -> Path:
    """Write a model folder that LattePipeline.from_pretrained can load."""
    save_model(pipe.transformer, folder)
    save_vae(pipe.vae, folder / "vae")
    if pipe.class_names:
        (folder / "classes.json").write_text(json.dumps({"names": pipe.class_names}))
    return folder


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file in a folder, hidden ones included, by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
