"""What a step minimises: the autoencoder's reconstruction, or the denoiser's diffusion loss.

An objective makes its network, is called as loss(network, step, slots), which gives a scalar, the mean over those
slots, and numbers to log, and in the end writes what was trained.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.checkpoint import find_model, load_model, save_model
from latte.diffusion.loss import diffusion_loss
from latte.diffusion.randomness import generator, normal
from latte.diffusion.schedule import linear_schedule
from latte.files import write_json
from latte.folder import digest_folder
from latte.models.config import checked
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.tensors import load_strictly
from latte.train.config import TrainConfig
from latte.train.data import ClipOrder, Clips, Draw, VideoBatches
from latte.train.latents import encode_all
from latte.vae_io import load_vae, save_vae


def latent_side(vae: VideoVAE, image_size: int) -> int:
    """Side of the latents of square frames. ValueError: the VAE does not divide that size."""
    if image_size % vae.factor:
        raise ValueError(f"image_size is {image_size}; this VAE needs a multiple of {vae.factor}")
    return image_size // vae.factor


class Reconstruction:
    """Mean absolute and squared error of the pixels, and the latents' KL divergence from a standard Gaussian."""

    def __init__(self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu"):
        self.config, self.device, self.batches = config, device, VideoBatches(clips, config)

    def network(self) -> AutoencoderKL:
        """A fresh one, or with the weights of config.init. ValueError: image_size, or those weights, do not suit it."""
        network = AutoencoderKL(VAEConfig(**checked(VAEConfig, self.config.model)))
        latent_side(VideoVAE(network), self.config.image_size)
        if self.config.init:
            folder = find_model(self.config.init)
            load_strictly(network, load_vae(folder).model.state_dict(), folder)
        return network

    def data(self) -> dict:
        """What a resumed run must find as it was."""
        return {"clips": self.batches.clips.fingerprint}

    def prepare(self) -> None:
        """Nothing: clips are drawn as they are needed."""

    def __call__(self, network: AutoencoderKL, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.batches.batch(step, slots)[0].flatten(0, 1).to(self.device)
        mean, logvar = (moment.float() for moment in network.moments(images))
        per_slot = (self.config.num_frames, *mean.shape[1:])
        noise = torch.cat([normal(per_slot, self.config.seed, step, slot, Draw.POSTERIOR) for slot in slots])
        out = network.decode(mean + (0.5 * logvar).exp() * noise.to(self.device)).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = F.mse_loss(out, images)
        loss = F.l1_loss(out, images) + mse + self.config.kl_weight * kl
        return loss, {"psnr": 10 * torch.log10(4 / mse.detach()), "kl": kl.detach()}

    @torch.no_grad()
    def finish(self, network: AutoencoderKL, folder: Path) -> None:
        """Write the VAE, with the scale that gives its latents the deviation 1."""
        vae, slots = VideoVAE(network.eval()), range(self.config.global_batch_size)
        parts = [vae.posterior(self.batches.batch(step, slots)[0].to(self.device))[0].cpu() for step in range(16)]
        network.config = replace(network.config, scaling_factor=round(float(1 / torch.cat(parts).std()), 5))
        save_vae(VideoVAE(network), folder)


class Denoising:
    """The diffusion loss on latents, which are computed once for the whole data set and kept as mean and deviation.

    With config.num_images, that many single frames of clips drawn anew follow each clip (joint training): they
    have noise and classes of their own, and the clip's timestep. A label is dropped for the clip, or for all its
    images, each with the model's class_dropout_prob.
    """

    def __init__(self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu"):
        self.clips, self.config, self.device, self.schedule = clips, config, device, linear_schedule()
        self.order = ClipOrder(len(clips), config.global_batch_size, config.seed)
        self.vae_folder = find_model(config.vae)
        self.vae = load_vae(self.vae_folder).to(device)

    def network(self) -> Latte:
        """For these latents and classes, a fresh one or with config.init's weights. ValueError: what does not fit."""
        derived = {
            "num_classes": len(self.clips.names),
            "num_frames": self.config.num_frames,
            "input_size": latent_side(self.vae, self.config.image_size),
            "in_channels": self.vae.config.latent_channels,
        }
        network = Latte(LatteConfig.from_dict({**self.config.model, **derived}))
        frames, channels, side = derived["num_frames"], derived["in_channels"], derived["input_size"]
        one, many = torch.zeros(1, dtype=torch.long), self.config.num_images
        network.check(torch.empty(1, frames + many, channels, side, side), one, one if self.clips.names else None, many)
        if self.config.init:
            load_strictly(network, load_model(self.config.init).state_dict(), find_model(self.config.init))
        network.gradient_checkpointing = self.config.gradient_checkpointing
        return network

    def data(self) -> dict:
        """What a resumed run must find as it was."""
        return {"clips": self.clips.fingerprint, "classes": self.clips.names, "vae": digest_folder(self.vae_folder)}

    def prepare(self) -> None:
        """Encode the clips: mean and deviation (n, f, c, h, w), classes (n,)."""
        self.latents = encode_all(self.vae, self.clips, self.config)

    def __call__(self, network: nn.Module, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        seed, many, model = self.config.seed, self.config.num_images, network.config
        mean, deviation, labels = (torch.stack(column) for column in zip(*(self.frames(step, s) for s in slots)))
        gaussian = lambda what: torch.stack([normal(mean.shape[1:], seed, step, slot, what) for slot in slots])
        x0 = mean + deviation * gaussian(Draw.POSTERIOR) if self.config.sample_latents else mean
        place = lambda what: [generator(seed, step, slot, what) for slot in slots]
        t = torch.stack([torch.randint(len(self.schedule), (), generator=g) for g in place(Draw.TIMESTEP)])
        chance = torch.stack([torch.rand(2, generator=g) for g in place(Draw.DROP)])  # the clip's, its images'
        dropped = torch.repeat_interleave(chance < model.class_dropout_prob, torch.tensor([1, many]), dim=1)
        y = torch.where(dropped, model.num_classes, labels) if model.num_classes else None
        x0, t, noise, y = (z if z is None else z.to(self.device) for z in (x0, t, gaussian(Draw.NOISE), y))
        terms = diffusion_loss(network, x0, t, noise, self.schedule, model.prediction, y=y, num_images=many)
        return terms["loss"].mean(), {name: value.mean().detach() for name, value in terms.items()}

    def frames(self, step: int, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        """A slot's clip and images: mean and deviation (f + num_images, c, h, w), classes (1 + num_images,)."""
        mean, deviation, labels = self.latents
        clip, place = self.order.index(step, slot), generator(self.config.seed, step, slot, Draw.IMAGES)
        others = torch.randint(len(labels), (self.config.num_images,), generator=place)
        which = torch.randint(mean.shape[1], (self.config.num_images,), generator=place)
        rows = [torch.cat([table[clip], table[others, which]]) for table in (mean, deviation)]
        return *rows, torch.cat([labels[clip, None], labels[others]])

    def finish(self, network: Latte, folder: Path) -> None:
        """Write the Latte with its VAE and the names of its classes, so that it can be sampled as it is."""
        save_model(network.eval(), folder)
        shutil.copytree(self.vae_folder, folder / "vae", dirs_exist_ok=True)
        if self.clips.names:
            write_json(folder / "classes.json", {"names": self.clips.names})


OBJECTIVES = {"vae": Reconstruction, "latte": Denoising}
