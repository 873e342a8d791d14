"""What a step minimises: the autoencoder's reconstruction, or the denoiser's diffusion loss.

An objective makes its network, is called as loss(network, step, slots), which gives a scalar, the mean over those
slots, and numbers to log, and in the end writes what was trained.
"""

import hashlib
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
from latte.folder import digest_folder, save_folder
from latte.models.config import checked
from latte.models.latte import Latte, LatteConfig, check_latents
from latte.models.latte_t2v import LatteT2VConfig
from latte.models.t5 import T5Config
from latte.models.text_to_video import TextToVideo, TextToVideoConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.published import load_t2v, load_t5, save_scheduler
from latte.scheduler import Scheduler
from latte.tensors import load_strictly
from latte.tokenizer import Tokenizer, train_vocabulary
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
    have noise and conditions of their own, and the clip's timestep. A condition is dropped for the clip, or for all its
    images, each with the same chance. This one is for classes, or none.
    """

    def __init__(self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu"):
        self.clips, self.config, self.device, self.schedule = clips, config, device, linear_schedule()
        self.order = ClipOrder(len(clips), config.global_batch_size, config.seed)
        self.vae_folder = find_model(config.vae)
        self.vae = load_vae(self.vae_folder).to(device)
        self.side, self.channels = latent_side(self.vae, config.image_size), self.vae.config.latent_channels

    def network(self) -> nn.Module:
        """For these latents and classes, a fresh one or with config.init's weights. ValueError: what does not fit."""
        cfg = self.config
        derived = {"num_classes": len(self.clips.names), "num_frames": cfg.num_frames}
        derived |= {"input_size": self.side, "in_channels": self.channels}
        network = Latte(LatteConfig.from_dict({**cfg.model, **derived}))
        one = torch.zeros(1, dtype=torch.long)
        network.check(self.nothing(), one, one if self.clips.names else None, cfg.num_images)
        if cfg.init:
            load_strictly(network, load_model(cfg.init).state_dict(), find_model(cfg.init))
        network.gradient_checkpointing = cfg.gradient_checkpointing
        return network

    def nothing(self) -> Tensor:
        """Latents (1, f, c, h, w) as a step has them, to check a network with."""
        return torch.empty(1, self.config.num_frames + self.config.num_images, self.channels, self.side, self.side)

    def data(self) -> dict:
        """What a resumed run must find as it was."""
        return {"clips": self.clips.fingerprint, "classes": self.clips.names, "vae": digest_folder(self.vae_folder)}

    def prepare(self) -> None:
        """Encode the clips: mean and deviation (n, f, c, h, w), classes (n,), captions."""
        self.mean, self.deviation, self.classes, self.captions = encode_all(self.vae, self.clips, self.config)

    def __call__(self, network: nn.Module, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        seed, many = self.config.seed, self.config.num_images
        mean, deviation, numbers = (torch.stack(column) for column in zip(*(self.frames(step, s) for s in slots)))
        gaussian = lambda what: torch.stack([normal(mean.shape[1:], seed, step, slot, what) for slot in slots])
        x0 = mean + deviation * gaussian(Draw.POSTERIOR) if self.config.sample_latents else mean
        place = lambda what: [generator(seed, step, slot, what) for slot in slots]
        t = torch.stack([self.timestep(g) for g in place(Draw.TIMESTEP)])
        chance = torch.stack([torch.rand(2, generator=g) for g in place(Draw.DROP)])  # the clip's, its images'
        dropped = torch.repeat_interleave(chance < self.drop_rate(network), torch.tensor([1, many]), dim=1)
        x0, t, noise = (z.to(self.device) for z in (x0, t, gaussian(Draw.NOISE)))
        condition = {name: z.to(self.device) for name, z in self.condition(network, numbers, dropped).items()}
        predicted = self.prediction(network)
        terms = diffusion_loss(network, x0, t, noise, self.schedule, predicted, **condition, num_images=many)
        return terms["loss"].mean(), {name: value.mean().detach() for name, value in terms.items()}

    def timestep(self, random: torch.Generator) -> Tensor:
        """Uniform, or logit-normal: Esser et al. 2024 (arXiv 2403.03206), section 3.1."""
        cfg, count = self.config, len(self.schedule)
        if not cfg.timestep_std:
            return torch.randint(count, (), generator=random)
        share = torch.sigmoid(cfg.timestep_mean + cfg.timestep_std * torch.randn((), generator=random))
        return (share * count).long().clamp(max=count - 1)

    def prediction(self, network: nn.Module) -> str:
        """What the network's output is, "eps" or "v"."""
        return network.config.prediction

    def drop_rate(self, network: nn.Module) -> float:
        """How often a condition is dropped."""
        return network.config.class_dropout_prob

    def condition(self, network: nn.Module, numbers: Tensor, dropped: Tensor) -> dict[str, Tensor]:
        """What the network is told of the clips with these numbers (b, 1 + num_images), but where it is dropped."""
        count = network.config.num_classes
        return {"y": torch.where(dropped, count, self.classes[numbers])} if count else {}

    def frames(self, step: int, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        """A slot's clip and images: mean and deviation (f + num_images, c, h, w), their clips' numbers."""
        clip, place = self.order.index(step, slot), generator(self.config.seed, step, slot, Draw.IMAGES)
        others = torch.randint(len(self.mean), (self.config.num_images,), generator=place)
        which = torch.randint(self.mean.shape[1], (self.config.num_images,), generator=place)
        rows = [torch.cat([table[clip], table[others, which]]) for table in (self.mean, self.deviation)]
        return *rows, torch.cat([torch.tensor([clip]), others])

    def finish(self, network: nn.Module, folder: Path) -> None:
        """Write the Latte with its VAE and the names of its classes, so that it can be sampled as it is."""
        save_model(network.eval(), folder)
        shutil.copytree(self.vae_folder, folder / "vae", dirs_exist_ok=True)
        if self.clips.names:
            write_json(folder / "classes.json", {"names": self.clips.names})


class Captioned(Denoising):
    """The same for captions: a LatteT2V and its text encoder learn together.

    The vocabulary is made of the captions, or is that of the model that config.init names.
    """

    def __init__(self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu"):
        super().__init__(clips, config, device)
        begun = find_model(config.init) / "tokenizer" if config.init else None
        self.tokenizer = Tokenizer(begun or train_vocabulary(clips.captions))

    def network(self) -> TextToVideo:
        """A fresh one for these latents and captions, or with config.init's weights. ValueError: what does not fit."""
        cfg = self.config
        derived = {"video_length": cfg.num_frames, "sample_size": self.side, "in_channels": self.channels}
        encoder = T5Config(**checked(T5Config, {**cfg.text_encoder, "vocab_size": len(self.tokenizer)}))
        derived |= {"out_channels": 2 * self.channels, "caption_channels": encoder.d_model}
        network = TextToVideo(TextToVideoConfig(LatteT2VConfig.from_dict({**cfg.model, **derived}), encoder))
        check_latents(self.nothing(), torch.zeros(1), self.channels, network.transformer.config.patch_size)
        if cfg.init:
            folder = find_model(cfg.init)
            load_strictly(network.transformer, load_t2v(folder / "transformer").state_dict(), folder)
            load_strictly(network.text_encoder, load_t5(folder / "text_encoder").state_dict(), folder)
        network.transformer.gradient_checkpointing = cfg.gradient_checkpointing
        return network

    def data(self) -> dict:
        return super().data() | {"vocabulary": hashlib.sha256(self.tokenizer.vocabulary).hexdigest()}

    def prepare(self) -> None:
        """Encode the clips, and their captions; the last row is the empty caption, of those that are dropped."""
        super().prepare()
        ids, mask = self.tokenizer([*self.captions, ""])
        longest = int(mask.sum(1).max())
        self.ids, self.mask = ids[:, :longest], mask[:, :longest]

    def prediction(self, network: TextToVideo) -> str:
        return network.transformer.config.prediction

    def drop_rate(self, network: TextToVideo) -> float:
        return self.config.caption_dropout

    def condition(self, network: TextToVideo, numbers: Tensor, dropped: Tensor) -> dict[str, Tensor]:
        rows = torch.where(dropped, len(self.ids) - 1, numbers)
        return {"ids": self.ids[rows], "own": self.mask[rows], "mask": self.mask[numbers]}

    def finish(self, network: TextToVideo, folder: Path) -> None:
        """Write a text-to-video folder, with the VAE, the vocabulary and a scheduler."""
        network.eval()
        save_folder(network.transformer, folder / "transformer")
        save_folder(network.text_encoder, folder / "text_encoder")
        shutil.copytree(self.vae_folder, folder / "vae", dirs_exist_ok=True)
        self.tokenizer.save(folder / "tokenizer")
        save_scheduler(Scheduler(), folder / "scheduler")


OBJECTIVES = {"vae": Reconstruction, "latte": Denoising, "t2v": Captioned}
