"""What a step minimises: the autoencoder's reconstruction, or the denoiser's diffusion loss.

An objective is called as loss(network, step, slots) and gives a scalar, the mean over those slots, and numbers to log.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from latte.checkpoint import find_model, save_model
from latte.diffusion.loss import diffusion_loss
from latte.diffusion.randomness import generator, normal
from latte.diffusion.schedule import linear_schedule
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.train.config import TrainConfig
from latte.train.data import Clips, Order, VideoBatches
from latte.vae_io import load_vae, save_vae

NOISE, TIMESTEP, POSTERIOR, DROP, CLIP = range(2, 7)  # which draw of a (step, slot) it is


@dataclass
class Reconstruction:
    """Mean absolute and squared error of the pixels, and the latents' KL divergence from a standard Gaussian."""

    clips: Clips
    config: TrainConfig

    def network(self) -> AutoencoderKL:
        return AutoencoderKL(VAEConfig.from_dict(self.config.model))

    def __call__(self, network: AutoencoderKL, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        images = VideoBatches(self.clips, self.config).batch(step, slots)[0].flatten(0, 1)
        mean, logvar = (moment.float() for moment in network.moments(images))
        per_slot = (self.config.num_frames, *mean.shape[1:])
        noise = torch.cat([normal(per_slot, self.config.seed, POSTERIOR, step, slot) for slot in slots])
        out = network.decode(mean + (0.5 * logvar).exp() * noise).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = F.mse_loss(out, images)
        loss = F.l1_loss(out, images) + mse + self.config.kl_weight * kl
        return loss, {"psnr": 10 * torch.log10(4 / mse.detach()), "kl": kl.detach()}


class Denoising:
    """The diffusion loss on latents, which are computed once for the whole data set and kept as mean and deviation."""

    def __init__(self, clips: Clips, config: TrainConfig):
        self.clips, self.config, self.schedule = clips, config, linear_schedule()
        vae = load_vae(find_model(config.vae))
        self.order = Order(len(clips), config.global_batch_size, config.seed)
        self.latents = encode_all(vae, clips, config)

    def network(self) -> Latte:
        model = dict(self.config.model)
        model["num_classes"] = len(self.clips.names)
        model["num_frames"] = self.config.num_frames
        network = Latte(LatteConfig.from_dict(model))
        network.gradient_checkpointing = self.config.gradient_checkpointing
        return network

    def __call__(self, network: Latte, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        seed, cfg = self.config.seed, network.config
        numbers = [self.order.index(step, slot) for slot in slots]
        mean, deviation, labels = (table[numbers] for table in self.latents)
        draw = lambda what: torch.stack([normal(mean.shape[1:], seed, what, step, slot) for slot in slots])
        x0 = mean + deviation * draw(POSTERIOR)
        place = lambda what: [generator(seed, what, step, slot) for slot in slots]
        t = torch.stack([torch.randint(len(self.schedule), (), generator=g) for g in place(TIMESTEP)])
        dropped = torch.stack([torch.rand((), generator=g) for g in place(DROP)]) < cfg.class_dropout_prob
        y = torch.where(dropped, cfg.num_classes, labels) if cfg.num_classes else None
        terms = diffusion_loss(network, x0, t, draw(NOISE), self.schedule, y=y)
        return terms["loss"].mean(), {name: value.mean().detach() for name, value in terms.items()}


@torch.no_grad()
def encode_all(vae: VideoVAE, clips: Clips, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, deviation), scaled, each (n, f, c, h, w), and classes (n,)."""
    rows = []
    for i in tqdm(range(len(clips)), desc="encoding", unit="clip", leave=False):
        video, label = clips.clip(i, generator(config.seed, CLIP, i))
        mean, logvar = vae.posterior(video[None].float() / 127.5 - 1)
        rows.append((mean[0], (0.5 * logvar[0]).exp(), torch.tensor(label)))
    mean, deviation, labels = (torch.stack(column) for column in zip(*rows))
    return vae.config.scaling_factor * mean, vae.config.scaling_factor * deviation, labels


def objective(config: TrainConfig, clips: Clips) -> Reconstruction | Denoising:
    """The one that config.kind names."""
    return Reconstruction(clips, config) if config.kind == "vae" else Denoising(clips, config)


def finish(network: nn.Module, config: TrainConfig, clips: Clips, folder: Path) -> None:
    """Write what was trained where others can use it; a VAE first learns the scale of its own latents."""
    network.eval()
    if isinstance(network, Latte):
        save_model(network, folder)
        return
    with torch.no_grad():
        few = [VideoBatches(clips, config).batch(step, range(config.global_batch_size))[0] for step in range(16)]
        mean, _ = VideoVAE(network).posterior(torch.cat(few))
    network.config = replace(network.config, scaling_factor=round(float(1 / mean.std()), 5))
    save_vae(VideoVAE(network), folder)
