"""Where a Latte's latents come from: encoded once and kept, anew in every step, or from a folder of `latte encode`.

A source gives, for some slots of a step, the posterior's mean and deviation, scaled. With the same data the second and
the third give the same numbers, but for rounding.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from latte.diffusion.randomness import generator
from latte.models.vae import VideoVAE
from latte.train.config import TrainConfig
from latte.train.data.batches import Batches, Draw, Slots
from latte.train.data.clips import Clips
from latte.train.data.latent_files import Stored, open_latents
from latte.train.data.windows import choose_frames


class Latents(NamedTuple):
    """Of some slots: a clip, and after its frames the still images that go with it."""

    mean: Tensor  # (b, f + num_images, c, h, w)
    deviation: Tensor
    labels: Tensor  # (b, 1 + num_images)
    captions: list[list[str]]


def scaled(vae: VideoVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents of videos (b, f, 3, h, w) in [-1, 1], in float32."""
    weights, scale = next(vae.parameters()), vae.config.scaling_factor
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
        mean, logvar = vae.posterior(video.to(weights))
    return scale * mean.float(), scale * (0.5 * logvar.float()).exp()


def latent_side(vae: VideoVAE, image_size: int) -> int:
    """Side of the latents of square frames. ValueError: the VAE does not divide that size."""
    if image_size % vae.factor:
        raise ValueError(f"image_size is {image_size}; this VAE needs a multiple of {vae.factor}")
    return image_size // vae.factor


class Kept:
    """All clips are encoded before the first step: each number is one window of a video, for the whole run."""

    def __init__(self, vae: VideoVAE, clips: Clips, config: TrainConfig):
        self.vae, self.clips, self.config, self.places = vae, clips, config, Slots(len(clips), config)

    def prepare(self, units: list[range], first: int) -> None:
        """Encode: mean and deviation (n, f, c, h, w) on the CPU, labels, captions."""
        rows, self.labels, self.captions = [], [], []
        for i in tqdm(range(len(self.clips)), desc="encoding", unit="clip", leave=False):
            sample = self.clips.clip(i, generator(self.config.seed, i, Draw.WINDOW))
            self.clips.failures.note(sample.failed, "another video takes its place")
            self.clips.failures.check()
            rows.append([moment[0].cpu() for moment in scaled(self.vae, sample.video[None])])
            self.labels.append(sample.label)
            self.captions.append(sample.caption)
        self.mean, self.deviation = (torch.stack(column) for column in zip(*rows))

    def batch(self, step: int, slots: range) -> Latents:
        """Of some slots."""
        places = [self.places(step, slot) for slot in slots]
        numbers = [[place.clip, *place.images] for place in places]
        stills = [torch.randint(self.mean.shape[1], (len(p.images),), generator=p.frames) for p in places]
        moments = [
            torch.stack([torch.cat([z[p.clip], z[p.images, still]]) for p, still in zip(places, stills)])
            for z in (self.mean, self.deviation)
        ]
        captions = [[self.captions[i] for i in row] for row in numbers]
        return Latents(*moments, torch.tensor([[self.labels[i] for i in row] for row in numbers]), captions)


class Fresh:
    """Each step's videos are read and encoded in that step, from windows drawn anew."""

    def __init__(self, vae: VideoVAE, clips: Clips, config: TrainConfig):
        self.vae, self.batches = vae, Batches(clips, config)
        self.prepare = self.batches.prepare

    def batch(self, step: int, slots: range) -> Latents:
        """Of some slots, on the VAE's device."""
        batch = self.batches.batch(step, slots)
        return Latents(*scaled(self.vae, batch.videos), batch.labels, batch.captions)


class FromFiles:
    """Windows drawn anew in each step, out of a folder's latents of whole videos."""

    def __init__(self, vae: VideoVAE, clips: Stored, config: TrainConfig):
        self.scale, self.clips, self.config = vae.config.scaling_factor, clips, config
        self.places, self.open = Slots(len(clips), config), {}

    def prepare(self, units: list[range], first: int) -> None:
        """Nothing: files are read as they are needed."""

    def batch(self, step: int, slots: range) -> Latents:
        """Of some slots."""
        rows = [self.row(step, slot) for slot in slots]
        moments = [torch.stack(column) for column in zip(*(moments for moments, *_ in rows))]
        return Latents(*moments, torch.tensor([labels for _, labels, _ in rows]), [captions for *_, captions in rows])

    def row(self, step: int, slot: int) -> tuple[list[Tensor], list[int], list[str]]:
        """Mean and deviation, labels and captions of one slot."""
        place, cfg = self.places(step, slot), self.config
        video = self.clips.video(place.clip)
        choose = lambda frames, draw: choose_frames(cfg.selection, frames, cfg.num_frames, cfg.frame_interval, draw)
        parts, seen = [self.read(place.clip, choose(video.frames, place.window), place.window)], [video]
        for image in place.images:
            video = self.clips.video(image)
            still = [int(torch.randint(video.frames, (), generator=place.frames))]
            parts.append(self.read(image, still, place.frames))
            seen.append(video)
        moments = [torch.cat(column) for column in zip(*parts)]
        return moments, [video.label for video in seen], [video.caption for video in seen]

    def read(self, number: int, frames, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Scaled mean and deviation of some frames of a video, mirrored or not."""
        mirrored = self.config.flip and bool(torch.rand((), generator=random) < 0.5)
        video = self.clips.video(number)
        if video.shard not in self.open:
            self.open[video.shard] = safe_open(self.clips.folder / video.shard, "pt")
        file, first = self.open[video.shard], min(frames)
        name, inside = f"{video.name}{'.mirrored' if mirrored else ''}", [frame - first for frame in frames]
        mean, logvar = (file.get_slice(f"{name}.{kind}")[first : max(frames) + 1] for kind in ("mean", "logvar"))
        return self.scale * mean[inside].float(), self.scale * (0.5 * logvar[inside].float()).exp()


def open_source(vae: VideoVAE, vae_digest: str, clips: Clips, config: TrainConfig) -> Kept | Fresh | FromFiles:
    """The source that config.latents names. ValueError: a folder's latents are not those of this data and VAE."""
    if isinstance(clips, Stored):
        clips.check(config, vae_digest)
    return {"once": Kept, "step": Fresh}.get(config.latents, FromFiles)(vae, clips, config)


def stored(config: TrainConfig) -> Stored | None:
    """The folder that config.latents names; None: it names none."""
    if config.latents in ("once", "step"):
        return None
    return replace(open_latents(Path(config.latents)), clips=config.clips)
