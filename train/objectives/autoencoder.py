"""The objective of an autoencoder: it reconstructs single frames."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import normal
from latte.models.network_config import check_fields
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.train.base_config import TrainConfig
from latte.train.data.batches import Batches
from latte.train.data.clip_order import Draw
from latte.train.data.clips import Clips
from latte.weights.load import find_model
from latte.weights.tensors import load_strictly
from latte.weights.vae_folder import load_vae


class Reconstruction:
    """Reconstruct frames from latents that are close to a standard Gaussian.

    The loss is the mean absolute error plus the mean squared error of the pixels, plus config.kl_weight times the KL
    divergence of the latents' posterior from N(0, 1).
    """

    def __init__(
        self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu", resumed: Path | None = None
    ):
        self.clips, self.config, self.device = clips, config, device
        self.batches = Batches(clips, config)
        self.prepare = self.batches.prepare

    def network(self) -> AutoencoderKL:
        """Make an autoencoder, with fresh weights or those of config.init.

        Raises:
            ValueError: If it cannot encode frames of config.image_size, or the weights of config.init do not fit.
        """
        network = AutoencoderKL(VAEConfig(**check_fields(VAEConfig, self.config.model)))
        VideoVAE(network).latent_side(self.config.image_size)
        if self.config.init:
            folder = find_model(self.config.init)
            load_strictly(network, load_vae(folder).model.state_dict(), folder)
        return network

    def __call__(self, network: AutoencoderKL, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on the frames of some slots, and the PSNR in dB and the KL divergence to log."""
        images = self.batches.batch(step, slots).videos.flatten(0, 1).to(self.device)
        mean, logvar = (moment.float() for moment in network.moments(images))
        per_slot = (self.config.num_frames, *mean.shape[1:])
        noise = torch.cat([normal(per_slot, self.config.seed, step, slot, Draw.POSTERIOR) for slot in slots])
        out = network.decode(mean + (0.5 * logvar).exp() * noise.to(self.device)).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = F.mse_loss(out, images)
        loss = F.l1_loss(out, images) + mse + self.config.kl_weight * kl
        return loss, {"psnr": 10 * torch.log10(4 / mse.detach()), "kl": kl.detach()}
