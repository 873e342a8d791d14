"""The objective of an autoencoder: it reconstructs single frames."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import normal
from latte.models.network_config import check_fields
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.train.base_config import TrainConfig
from latte.train.checkpoint import latest
from latte.train.data.batches import Batches
from latte.train.data.clip_order import Draw
from latte.train.data.clips import Clips
from latte.weights.find_models import find_model
from latte.weights.folder import read_config
from latte.weights.tensors import load_strictly
from latte.weights.vae_folder import load_vae

# modules of an autoencoder whose shapes depend on the number of latent channels
NEXT_TO_LATENTS = ("encoder.conv_out.", "quant_conv.", "post_quant_conv.", "decoder.conv_in.")
DETAILS = 3  # channels of latents that hold details of brightness


class Reconstruction:
    """Reconstruct frames from latents that are close to a standard Gaussian.

    The loss is the error of the pixels (reconstruction_error), plus config.kl_weight times the KL divergence of the
    latents' posterior from N(0, 1). Two more terms shape the latents for the network that will learn to generate them:

    - config.equivariance_weight times the error of the half-size frame decoded from half-size latents
      (scale equivariance: Skorokhodov et al. 2025, arXiv 2502.14831);
    - config.thumbnail_weight times the squared error between the first channels of the posterior's mean and a
      thumbnail: the frame at the latents' size and, if config.detail_scale is not 0, three details of its brightness.
      So latents change with colours and outlines as pixels do.
    """

    def __init__(
        self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu", resumed: Path | None = None
    ):
        self.clips, self.config, self.device, self.resumed = clips, config, device, resumed
        self.batches = Batches(clips, config)
        self.prepare = self.batches.prepare

    def network(self) -> AutoencoderKL:
        """Make an autoencoder, with fresh weights or those of config.init.

        If the autoencoder of config.init has another number of latent channels, the layers next to the latents
        (NEXT_TO_LATENTS) start from fresh weights and all others from its weights. With config.freeze_encoder, the
        network keeps the latents of config.init and their scale.

        Raises:
            ValueError: If it cannot encode frames of config.image_size, settings ask for latents that it does not have,
                or the weights of config.init do not fit.
        """
        network = new_autoencoder(self.config)
        if self.config.freeze_encoder and not (self.config.init or self.resumed):
            raise ValueError("freeze_encoder keeps the encoder of another VAE: name it with init=FOLDER")
        if self.config.init:
            folder = find_model(self.config.init)
            model = load_vae(folder).model
            state = model.state_dict()
            if model.config.latent_channels != network.config.latent_channels and not self.config.freeze_encoder:
                own = network.state_dict()
                state |= {name: own[name] for name in own if name.startswith(NEXT_TO_LATENTS)}
            load_strictly(network, state, folder)
        if self.config.freeze_encoder:
            kept = latest(self.resumed) if self.resumed else folder
            network.config = read_config(kept, VAEConfig.from_dict)
            for part in (network.encoder, network.quant_conv):
                part.requires_grad_(False)
        return network

    def __call__(self, network: AutoencoderKL, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on the frames of some slots, and the PSNR in dB and the KL divergence to log."""
        images = self.batches.batch(step, slots).videos.flatten(0, 1).to(self.device)
        mean, logvar = (moment.float() for moment in network.moments(images))
        per_slot = (self.config.num_frames, *mean.shape[1:])
        noise = torch.cat([normal(per_slot, self.config.seed, step, slot, Draw.POSTERIOR) for slot in slots])
        latents = mean + (0.5 * logvar).exp() * noise.to(self.device)
        out = network.decode(latents).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = reconstruction_error(out, images) + self.config.kl_weight * kl
        if self.config.thumbnail_weight:
            wanted = thumbnails(images, mean.shape[2:], self.config.thumbnail_scale, self.config.detail_scale)
            loss = loss + self.config.thumbnail_weight * F.mse_loss(mean[:, : wanted.shape[1]], wanted)
        if self.config.equivariance_weight:
            smaller = reconstruction_error(network.decode(half_size(latents)).float(), half_size(images))
            loss = loss + self.config.equivariance_weight * smaller
        return loss, {"psnr": 10 * torch.log10(4 / F.mse_loss(out.detach(), images)), "kl": kl.detach()}


def new_autoencoder(config: TrainConfig) -> AutoencoderKL:
    """Make the autoencoder of the settings, with fresh weights.

    Raises:
        ValueError: The table `model` is wrong, or the autoencoder cannot encode frames of config.image_size, or its
            latents do not have the size or the channels that settings ask for.
    """
    network = AutoencoderKL(VAEConfig(**check_fields(VAEConfig, config.model)))
    shape, side = network.config, VideoVAE(network).latent_side(config.image_size)
    if config.equivariance_weight and side % 2:
        raise ValueError(
            f"equivariance_weight halves the latents, and image_size={config.image_size} gives them an odd side of"
            f" {side}: choose another image_size, or equivariance_weight=0"
        )
    held, needed = "each colour", shape.in_channels
    if config.detail_scale:
        held, needed = "each colour and detail", needed + DETAILS
    if config.thumbnail_weight and shape.latent_channels < needed:
        raise ValueError(
            f"thumbnail_weight needs latents with a channel for {held}: model.latent_channels is"
            f" {shape.latent_channels}; set it to {needed} or more, or thumbnail_weight=0"
        )
    return network


def reconstruction_error(out: Tensor, images: Tensor) -> Tensor:
    """The mean absolute error of pixels plus their mean squared error."""
    return F.l1_loss(out, images) + F.mse_loss(out, images)


def thumbnails(images: Tensor, size: torch.Size, scale: float, detail_scale: float = 0.0) -> Tensor:
    """What the first channels of the latents are to show.

    Args:
        images: Frames (n, 3, h, w) in [-1, 1].
        size: The height and width of the latents.
        scale: The factor of the colours.
        detail_scale: The factor of the details; 0 leaves them out.

    Returns:
        (n, 3 or 6, *size): the frame at that size; then the Haar coefficients of its brightness at twice the size,
        in each square of 2 x 2: how much brighter the left half is than the right one, the upper than the lower, and
        one diagonal than the other.
    """
    small = scale * F.interpolate(images, size, mode="area")
    if not detail_scale:
        return small
    brightness = F.interpolate(images.mean(1, keepdim=True), (2 * size[0], 2 * size[1]), mode="area")
    a, b, c, d = F.pixel_unshuffle(brightness, 2).unbind(1)
    details = torch.stack([a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2
    return torch.cat([small, detail_scale * details], 1)


def half_size(x: Tensor) -> Tensor:
    """Images or latents (n, c, h, w) -> (n, c, h / 2, w / 2): means over squares of 2 x 2."""
    return F.avg_pool2d(x, 2)
