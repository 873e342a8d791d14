"""Latents of a whole data set, encoded once: a Latte's steps then never see a pixel."""

import torch
from torch import Tensor
from tqdm import tqdm

from latte.diffusion.randomness import generator
from latte.models.vae import VideoVAE
from latte.train.config import TrainConfig
from latte.train.data import Clips, Draw
from latte.video import from_uint8


@torch.no_grad()
def encode_all(vae: VideoVAE, clips: Clips, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Mean and deviation of the scaled latents, each (n, f, c, h, w), and classes (n,), on the CPU; captions."""
    weights, scale, rows, captions = next(vae.parameters()), vae.config.scaling_factor, [], []
    for i in tqdm(range(len(clips)), desc="encoding", unit="clip", leave=False):
        video, label, caption = clips.clip(i, generator(config.seed, i, Draw.WINDOW))
        mean, logvar = vae.posterior(from_uint8(video[None]).to(weights))
        rows.append((scale * mean[0].cpu(), scale * (0.5 * logvar[0]).exp().cpu(), torch.tensor(label)))
        captions.append(caption)
    return *(torch.stack(column) for column in zip(*rows)), captions
