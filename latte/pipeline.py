"""What every pipeline has: parts to hold and move, the loop from noise to latents, and videos in the asked form."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from latte.diffusion.schedule import Schedule
from latte.models.latte_t2v import LatteT2VConfig
from latte.models.vae import VideoVAE
from latte.pab import PyramidAttentionBroadcastMixin
from latte.video.pixels import to_uint8

MOST_VIDEOS = 1_000_000  # of one call
OUTPUT_TYPES = ("np", "pt", "uint8", "pil", "latent")


@dataclass
class LatteOutput:
    """`frames`: one entry a video, in the asked output_type."""

    frames: list | np.ndarray | Tensor


class LattePipeline(PyramidAttentionBroadcastMixin):
    """A Latte and what it takes to make videos with it.

    LattePipeline(transformer, ...) and LattePipeline.from_pretrained(path, ...) give the pipeline of that model:
    ClassPipeline, of classes or unconditional, or TextPipeline, of prompts.
    """

    current_timestep: float | Tensor | None = None  # within a call, of the network's present evaluation

    def __new__(cls, transformer: nn.Module | None = None, *parts, **named):
        """The pipeline that the transformer needs, where none is named; without one, it can only be of prompts."""
        if cls is LattePipeline:
            from latte.class_pipeline import ClassPipeline
            from latte.text_pipeline import TextPipeline

            of_text = transformer is None or isinstance(transformer.config, LatteT2VConfig)
            cls = TextPipeline if of_text else ClassPipeline
        return super().__new__(cls)

    @classmethod
    def from_pretrained(cls, path: str | Path, **options) -> "LattePipeline":
        """Read a model, and with it what the folder holds; options: see the two pipelines.

        path: anything that latte.load_model takes, a text-to-video folder (published, or of ours), a shipped name, or a
        name on the Hugging Face hub whose files are in its cache on this machine.
        """
        from latte.class_pipeline import ClassPipeline
        from latte.text_pipeline import TextPipeline
        from latte.weights.hub import find_pipeline
        from latte.weights.load import is_text_pipeline

        path = find_pipeline(path)
        kind = TextPipeline if is_text_pipeline(path) else ClassPipeline
        known = inspect.signature(kind.from_pretrained).parameters
        if unknown := sorted(options.keys() - known.keys()):
            raise ValueError(f"{unknown[0]} is no option of {path}, a model for {kind.made_of}: {', '.join(known)}")
        return kind.from_pretrained(path, **options)

    @property
    def components(self) -> dict:
        """The parts, by the names that LattePipeline(**components) takes."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self).__init__).parameters)[1:]}

    def networks(self) -> list[nn.Module]:
        """Those of its parts that have weights."""
        return [part for part in self.components.values() if isinstance(part, nn.Module)]

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "LattePipeline":
        """Move the networks; returns self."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for network in self.networks():
            network.to(device=None if self.stays(network) else device, dtype=dtype)
        return self

    def stays(self, network: nn.Module) -> bool:
        """Whether .to() leaves it on its device."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the denoiser is, or what there is in its place."""
        return next(self.networks()[0].parameters()).device

    def latent_shape(
        self,
        name: str,
        frames: int | None,
        height: int | None,
        width: int | None,
        trained_frames: int,
        trained_side: int,
        tubelet: int = 1,
    ) -> tuple[int, int, int, int]:
        """(f, c, h, w) of one video's latents, from sizes in pixels; None: as trained.

        ValueError: a size that the VAE and the patches do not divide, or a number of frames (called `name`).
        """
        cfg = self.transformer.config
        factor = self.vae.factor if self.vae is not None else 8
        height, width = (trained_side * factor if size is None else size for size in (height, width))
        frames = trained_frames if frames is None else frames
        step = factor * cfg.patch_size
        for called, value, unit in (("height", height, step), ("width", width, step), (name, frames, tubelet)):
            if not isinstance(value, int) or not 1 <= value <= 65_536 or value % unit:
                raise ValueError(f"{called} is {value}; this model needs a multiple of {unit}, up to 65536")
        return frames, cfg.in_channels, height // factor, width // factor

    def denoise(
        self, denoiser: Callable, x: Tensor, sampler: Callable, schedule: Schedule, noise: Callable, callback: Callable
    ) -> Tensor:
        """x (b, f, c, h, w) from noise to clean latents; callback(step, t, x) after every step.

        sampler(denoiser, x, schedule, noise) yields x; denoiser(x, t), which may compute in half precision, is given
        and gives what the sampler computes in: float32.
        """

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            self.current_timestep = t[0]
            return denoiser(x, t).float()

        self.restart_broadcast()
        try:
            for step, after in enumerate(sampler(evaluate, x, schedule, noise)):
                callback(step, schedule.timesteps[-1 - step].item(), after)
        finally:
            self.current_timestep = None
            self.restart_broadcast()
        return after

    def decode(self, latents: Tensor, output_type: str) -> Tensor:
        """Latents (b, f, c, h, w) -> videos (b, f, 3, h, w) on the CPU: float in [0, 1], or rounded bytes."""
        if output_type == "latent":
            return latents.cpu()
        video = self.vae.decode(latents)
        in_bytes = output_type in ("uint8", "pil")
        return (to_uint8(video) if in_bytes else (video.float() / 2 + 0.5).clamp(0, 1)).cpu()


def check_vae(vae: VideoVAE | None, transformer: nn.Module | None) -> None:
    """ValueError: the VAE's latents are not the model's, or its pixels not a video's."""
    if vae is None or transformer is None:
        return
    channels = (vae.config.latent_channels, vae.config.in_channels, vae.config.out_channels)
    if channels != (transformer.config.in_channels, 3, 3):
        latent, pixels = f"{channels[0]} latent", f"{channels[1]} and {channels[2]} pixel"
        raise ValueError(
            f"the VAE has {latent} and {pixels} channels; the model's latents have "
            f"{transformer.config.in_channels}, and a video 3"
        )


def told(pipeline: LattePipeline, callback: Callable | None, step: int, t: float, x: Tensor) -> None:
    """callback_on_step_end as diffusers has it: called with (pipeline, step, t, {"latents"}), may return other latents.

    latents are (b, c, f, h, w). A sampler that joins steps in pairs (dpm_singlestep) goes on from what it was given
    after the second of a pair alone.
    """
    if callback is None:
        return
    latents = rearrange(x, "b f c h w -> b c f h w")
    out = callback(pipeline, step, t, {"latents": latents})
    if isinstance(out, dict) and out.get("latents") is not None and out["latents"] is not latents:
        if out["latents"].shape != latents.shape:
            raise ValueError(f"callback_on_step_end returned latents of shape {tuple(out['latents'].shape)}")
        x.copy_(rearrange(out["latents"], "b c f h w -> b f c h w"))  # in place: the sampler goes on from x


def as_output(videos: Tensor, output_type: str) -> list | np.ndarray | Tensor:
    """Videos (b, f, 3, h, w), or latents (b, f, c, h, w), as decode gives them, in the asked form."""
    if output_type == "latent":
        return rearrange(videos, "b f c h w -> b c f h w")
    if output_type in ("pt", "uint8"):
        return videos
    array = rearrange(videos, "b f c h w -> b f h w c").numpy()
    return array if output_type == "np" else [[Image.fromarray(frame) for frame in video] for video in array]


def check_count(name: str, value: int, most: int | None = None, least: int = 1) -> None:
    """ValueError: not a whole number from `least` to `most`."""
    if not isinstance(value, int) or value < least or (most and value > most):
        allowed = f"in {least} to {most}" if most else f"{least} or more"
        raise ValueError(f"{name} is {value}; it must be a whole number, {allowed}")


def check_choice(name: str, value: object, allowed) -> None:
    """ValueError: the value is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(map(str, allowed))}")


@contextmanager
def chunked(vae: VideoVAE | None, chunk: int | None) -> Iterator[None]:
    """Inside it, the VAE works on `chunk` frames at once; None: as many as before."""
    if vae is None or chunk is None:
        yield
        return
    before = vae.chunk
    vae.set_chunk(chunk)
    try:
        yield
    finally:
        vae.set_chunk(before)
