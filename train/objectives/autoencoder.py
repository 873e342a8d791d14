"""What an autoencoder's step minimises."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import normal
from latte.models.fields import check_fields
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.train.config import TrainConfig
from latte.train.data.batches import Batches
from latte.train.data.clip_order import Draw
from latte.train.data.clips import Clips
from latte.train.data.latents import latent_side
from latte.train.watch import SHOWN
from latte.video.pixels import to_uint8
from latte.weights.load import find_model
from latte.weights.tensors import load_strictly
from latte.weights.vae_folder import load_vae, save_vae


class Reconstruction:
    """Mean absolute and squared error of the pixels, and the latents' KL divergence from a standard Gaussian."""

    def __init__(self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu"):
        self.config, self.device, self.batches = config, device, Batches(clips, config)
        self.prepare = self.batches.prepare

    def network(self) -> AutoencoderKL:
        """A fresh one, or with the weights of config.init. ValueError: image_size, or those weights, do not suit it."""
        network = AutoencoderKL(VAEConfig(**check_fields(VAEConfig, self.config.model)))
        latent_side(VideoVAE(network), self.config.image_size)
        if self.config.init:
            folder = find_model(self.config.init)
            load_strictly(network, load_vae(folder).model.state_dict(), folder)
        return network

    def data(self) -> dict:
        """What a resumed run must find as it was."""
        return {"clips": self.batches.clips.fingerprint}

    def __call__(self, network: AutoencoderKL, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.batches.batch(step, slots).videos.flatten(0, 1).to(self.device)
        mean, logvar = (moment.float() for moment in network.moments(images))
        per_slot = (self.config.num_frames, *mean.shape[1:])
        noise = torch.cat([normal(per_slot, self.config.seed, step, slot, Draw.POSTERIOR) for slot in slots])
        out = network.decode(mean + (0.5 * logvar).exp() * noise.to(self.device)).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = F.mse_loss(out, images)
        loss = F.l1_loss(out, images) + mse + self.config.kl_weight * kl
        return loss, {"psnr": 10 * torch.log10(4 / mse.detach()), "kl": kl.detach()}

    @torch.no_grad()
    def show(self, network: AutoencoderKL) -> tuple[Tensor, list[str]]:
        """Clips of the first batch and what the VAE makes of them, uint8 (n, f, 3, h, w), and captions."""
        clips = self.batches[0, range(min(SHOWN // 2, self.config.global_batch_size))].videos.to(self.device)
        vae = VideoVAE(network)
        pairs = torch.stack([clips, vae.decode(vae.encode(clips))], 1).flatten(0, 1).cpu()
        return to_uint8(pairs), ["clip", "reconstruction"] * len(clips)

    def save_companions(self, folder: Path) -> None:
        """Nothing: the weights need no other part."""

    @torch.no_grad()
    def finish(self, network: AutoencoderKL, folder: Path) -> None:
        """Write the VAE, with the scale that gives its latents the deviation 1."""
        vae, slots = VideoVAE(network.eval()), range(self.config.global_batch_size)
        parts = [vae.posterior(self.batches[step, slots].videos.to(self.device))[0].cpu() for step in range(16)]
        network.config = replace(network.config, scaling_factor=round(float(1 / torch.cat(parts).std()), 5))
        save_vae(VideoVAE(network), folder)
