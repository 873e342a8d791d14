"""What a Latte's step minimises: the diffusion loss."""

from pathlib import Path

import torch
from torch import Tensor, nn

from latte.diffusion.loss import diffusion_loss
from latte.diffusion.randomness import generator, normal
from latte.diffusion.schedule import linear_schedule
from latte.files import copy_files, replacing_folder, write_json
from latte.models.latte import Latte, LatteConfig
from latte.pipeline import LattePipeline
from latte.train.config import TrainConfig
from latte.train.data.batches import Draw
from latte.train.data.clips import Clips
from latte.train.data.latents import latent_side, open_source
from latte.train.init import begin_latte
from latte.train.watch import SHOWN
from latte.weights.folder import CONFIG, digest_folder
from latte.weights.load import find_model, save_model
from latte.weights.sampling_defaults import Guidance, Sampling, save_sampling
from latte.weights.vae_folder import load_vae


class Denoising:
    """The loss on latents (latte.train.data.latents); this one is for classes, or none.

    With config.num_images, that many single frames of clips drawn anew follow each clip (joint training): they
    have noise and conditions of their own, and the clip's timestep. A condition is dropped for the clip, or for all its
    images, each with the same chance.
    """

    def __init__(self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu"):
        self.clips, self.config, self.device, self.schedule = clips, config, device, linear_schedule()
        self.vae_folder = find_model(config.vae)
        self.vae, self.vae_digest = load_vae(self.vae_folder).to(device), digest_folder(self.vae_folder)
        self.side, self.channels = latent_side(self.vae, config.image_size), self.vae.config.latent_channels
        self.source = open_source(self.vae, self.vae_digest, clips, config)
        self.prepare = self.source.prepare

    def network(self) -> nn.Module:
        """For these latents and classes, a fresh one or begun with config.init. ValueError: what does not fit."""
        cfg = self.config
        derived = {"num_classes": len(self.clips.names), "num_frames": cfg.num_frames}
        derived |= {"input_size": self.side, "in_channels": self.channels}
        network = Latte(LatteConfig.from_dict({**cfg.model, **derived}))
        one = torch.zeros(1, dtype=torch.long)
        network.check_inputs(self.nothing(), one, one if self.clips.names else None, cfg.num_images)
        if cfg.sample_guidance and not (self.clips.names and self.drop_rate(network)):
            raise ValueError("sample_guidance does nothing without classes that are dropped at times: leave it at 0.0")
        if cfg.init:
            begin_latte(network, cfg.init, self.clips.names)
        network.gradient_checkpointing = cfg.gradient_checkpointing
        return network

    def nothing(self) -> Tensor:
        """Latents (1, f, c, h, w) as a step has them, to check a network with."""
        return torch.empty(1, self.config.num_frames + self.config.num_images, self.channels, self.side, self.side)

    def data(self) -> dict:
        """What a resumed run must find as it was."""
        return {"clips": self.clips.fingerprint, "classes": self.clips.names, "vae": self.vae_digest}

    def __call__(self, network: nn.Module, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        seed, many = self.config.seed, self.config.num_images
        mean, deviation, labels, captions = self.source.batch(step, slots)
        gaussian = lambda what: torch.stack([normal(mean.shape[1:], seed, step, slot, what) for slot in slots])
        x0 = mean
        if self.config.sample_latents:
            x0 = mean + deviation * gaussian(Draw.POSTERIOR).to(mean)
        place = lambda what: [generator(seed, step, slot, what) for slot in slots]
        t = torch.stack([self.timestep(g) for g in place(Draw.TIMESTEP)])
        chance = torch.stack([torch.rand(2, generator=g) for g in place(Draw.DROP)])  # the clip's, its images'
        dropped = torch.repeat_interleave(chance < self.drop_rate(network), torch.tensor([1, many]), dim=1)
        x0, t, noise = (z.to(self.device) for z in (x0, t, gaussian(Draw.NOISE)))
        condition = {name: z.to(self.device) for name, z in self.condition(network, labels, captions, dropped).items()}
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

    def condition(
        self, network: nn.Module, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        """What the network is told of clips with these labels (b, 1 + num_images), but where it is dropped."""
        count = network.config.num_classes
        return {"y": torch.where(dropped, count, labels)} if count else {}

    def show(self, network: nn.Module) -> tuple[Tensor, list[str]]:
        """Samples of the first classes, or unconditional ones, uint8 (n, f, 3, h, w), and captions."""
        names = self.clips.names[:SHOWN]
        videos = self.samples(network, len(names) or SHOWN // 2)
        return videos, names or [f"sample {i}" for i in range(len(videos))]

    def samples(self, network: nn.Module, count: int) -> Tensor:
        """So many samples, of the classes in turn, uint8 (n, f, 3, h, w)."""
        names = self.clips.names
        asked = {"class_labels": [i % len(names) for i in range(count)]} if names else {"num_videos": count}
        return LattePipeline(network, self.vae, class_names=names)(**asked, batch_size=SHOWN, **self.sampling()).frames

    def sampling(self) -> dict:
        """How samples are made."""
        options = {"seed": self.config.seed, "output_type": "uint8", "progress": False, "num_inference_steps": 50}
        return options | ({"guidance_scale": self.config.sample_guidance} if self.config.sample_guidance else {})

    def finish(self, network: nn.Module, folder: Path) -> None:
        """Write the Latte with its VAE and the names of its classes, so that it can be sampled as it is."""
        save_model(network.eval(), folder)
        self.save_companions(folder)
        if self.clips.names:
            write_json(folder / "classes.json", {"names": self.clips.names})

    def save_companions(self, folder: Path) -> None:
        """Write what does not learn, and what the weights are nothing without: the VAE; and how they are sampled."""
        vae = folder / "vae"
        if not (vae / CONFIG).is_file() or digest_folder(vae) != self.vae_digest:
            with replacing_folder(vae) as draft:
                copy_files(self.vae_folder, draft)
        if self.config.sample_guidance:
            save_sampling(Sampling(Guidance(self.config.sample_guidance)), folder)
