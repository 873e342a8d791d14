"""From labels to videos: a Latte, a VAE and a sampler behind one call, in diffusers' words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from latte.checkpoint import find_model, load_model
from latte.diffusion.guidance import guided
from latte.diffusion.randomness import normal
from latte.diffusion.samplers import SAMPLERS
from latte.diffusion.schedule import linear_schedule, respace
from latte.files import read_json
from latte.models.latte import Latte
from latte.models.vae import VideoVAE
from latte.vae_io import load_vae


@dataclass
class LatteOutput:
    """`frames`: one entry a video, in the asked output_type."""

    frames: list | np.ndarray | Tensor


class LattePipeline:
    """Class-conditional or unconditional video generation. Hold the parts: `transformer`, `vae`, `class_names`."""

    def __init__(self, transformer: Latte, vae: VideoVAE | None = None, class_names: list[str] | None = None):
        self.transformer, self.vae, self.class_names = transformer.eval(), vae, class_names or []

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        vae: str | Path | VideoVAE | None = None,
        torch_dtype: torch.dtype | None = None,
        weights: str = "ema",
        num_heads: int | None = None,
    ) -> "LattePipeline":
        """Read a model (anything that latte.load_model takes, or a shipped name) and its VAE.

        vae: a folder, a shipped name or a VideoVAE; None: the folder `vae` inside the model's, where there is one.
        """
        path = find_model(path)
        transformer = load_model(path, num_heads, weights)
        if vae is None and (path / "vae").is_dir():
            vae = path / "vae"
        if isinstance(vae, str | Path):
            vae = load_vae(find_model(vae))
        names = read_json(path / "classes.json")["names"] if (path / "classes.json").is_file() else []
        pipe = cls(transformer, vae, names)
        return pipe if torch_dtype is None else pipe.to(dtype=torch_dtype)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "LattePipeline":
        """Move the networks; returns self."""
        for network in (self.transformer, self.vae):
            if network is not None:
                network.to(device=device, dtype=dtype)
        return self

    def class_index(self, label: int | str) -> int:
        """A class by number or name; ValueError lists the classes."""
        count = self.transformer.config.num_classes
        if isinstance(label, str) and label in self.class_names:
            return self.class_names.index(label)
        text = str(label)
        if not text.lstrip("-").isdecimal() or not 0 <= int(text) < count:
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.class_names)) or f"0 to {count - 1}"
            raise ValueError(f"no class {label!r}; the classes are {known}")
        return int(text)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int | str] | int | str | None = None,
        num_videos: int = 1,
        num_inference_steps: int | str = 50,
        guidance_scale: float = 4.0,
        seed: int = 0,
        sampler: str = "ddim",
        eta: float = 0.0,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 1,
        output_type: str = "np",
        progress: bool = False,
        callback_on_step_end: Callable[[int, int, Tensor], None] | None = None,
    ) -> LatteOutput:
        """Make one video per class label, or num_videos of an unconditional model.

        num_inference_steps: a count, or a respacing such as "ddim50"; sampler "ddim" (with eta) or "ddpm".
        height, width: of the pixels; None, and num_frames None: as the model was trained. guidance_scale 1: none.
        output_type: "np" (b, f, h, w, 3) float in [0, 1], "pt" (b, f, 3, h, w) float in [0, 1], "uint8" the same as
        bytes, "pil" lists of images, "latent" (b, c, f, h, w), diffusers' order.
        Video i depends on (seed, i) and its label alone: work goes in units of batch_size, the last one filled up, so
        that asking for more videos changes no bit of the earlier ones.
        callback_on_step_end(step, t, x) sees the latents x (b, f, c, h, w) after every step.
        Raises ValueError for labels, sizes or options that the model does not have.
        """
        self.check(class_labels, output_type, sampler, batch_size)
        labels = self.labels(class_labels, num_videos)
        shape = self.latent_shape(num_frames, height, width)
        schedule = respace(linear_schedule(), str(num_inference_steps))
        units = [list(range(i, i + batch_size)) for i in range(0, len(labels), batch_size)]
        bar = tqdm(total=len(units) * len(schedule), disable=not progress, unit="step", desc="sampling")
        done = []
        for unit in units:
            y = [labels[min(i, len(labels) - 1)] for i in unit]
            for step, x in enumerate(self.denoise(unit, y, shape, schedule, guidance_scale, seed, sampler, eta)):
                bar.update()
                if callback_on_step_end is not None:
                    callback_on_step_end(step, int(schedule.timesteps[-1 - step]), x)
            kept = x[: len(labels) - unit[0]]
            done.append(kept.cpu() if output_type == "latent" else self.decode(kept))
        bar.close()
        return LatteOutput(convert(torch.cat(done), output_type))

    def denoise(
        self, unit: list[int], y: list[int], shape: tuple, schedule, scale: float, seed: int, sampler: str, eta: float
    ) -> Iterator[Tensor]:
        """The latents (b, f, c, h, w) of the videos numbered in `unit`, after every step; float32."""
        device = next(self.transformer.parameters()).device
        x = torch.stack([normal(shape, seed, i, 0) for i in unit]).to(device)
        classes = self.transformer.config.num_classes
        if classes:
            label = torch.tensor(y, device=device)
            model = guided(self.transformer, label, torch.full_like(label, classes), scale)
        else:
            model = self.transformer
        options = {"eta": eta} if sampler == "ddim" else {}
        fresh = lambda step: torch.stack([normal(shape, seed, i, step + 1) for i in unit])
        return SAMPLERS[sampler](lambda x, t: model(x, t).float(), x, schedule, fresh, **options)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, f, c, h, w) -> uint8 videos (b, f, 3, h, w) on the CPU, rounded."""
        dtype = next(self.vae.parameters()).dtype
        video = self.vae.decode(latents.to(dtype)).float()
        return ((video.clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)

    def check(self, class_labels, output_type: str, sampler: str, batch_size: int) -> None:
        """One clear ValueError for a wrong combination."""
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}, not one of {', '.join(OUTPUT_TYPES)}")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler is {sampler!r}, not one of {', '.join(SAMPLERS)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        if self.vae is None and output_type != "latent":
            raise ValueError("this model has no VAE to decode with: give vae=..., or output_type='latent'")
        if self.transformer.config.num_classes and class_labels is None:
            raise ValueError(f"this model has {self.transformer.config.num_classes} classes: give class_labels")
        if not self.transformer.config.num_classes and class_labels is not None:
            raise ValueError("this model is unconditional: give num_videos, not class_labels")

    def labels(self, class_labels, num_videos: int) -> list[int]:
        """One class index per video; zeros where there are no classes."""
        if class_labels is None:
            if num_videos < 1:
                raise ValueError(f"num_videos is {num_videos}; it must be 1 or more")
            return [0] * num_videos
        several = class_labels if isinstance(class_labels, list | tuple) else [class_labels]
        if not several:
            raise ValueError("class_labels is empty: name at least one class")
        return [self.class_index(label) for label in several]

    def latent_shape(self, num_frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        """(f, c, h, w) of one video's latents; ValueError: a size that the VAE and the patches do not divide."""
        cfg = self.transformer.config
        factor = self.vae.factor if self.vae is not None else 8
        side = cfg.input_size * factor
        height, width, frames = height or side, width or side, num_frames or cfg.num_frames
        step = factor * cfg.patch_size
        for name, value, unit in (
            ("height", height, step),
            ("width", width, step),
            ("num_frames", frames, cfg.tubelet),
        ):
            if value < 1 or value % unit:
                raise ValueError(f"{name} is {value}; this model needs a multiple of {unit}")
        return frames, cfg.in_channels, height // factor, width // factor


OUTPUT_TYPES = ("np", "pt", "uint8", "pil", "latent")


def convert(videos: Tensor, output_type: str) -> list | np.ndarray | Tensor:
    """uint8 videos (b, f, 3, h, w), or latents (b, f, c, h, w), in the asked form."""
    if output_type == "uint8":
        return videos
    if output_type == "latent":
        return rearrange(videos, "b f c h w -> b c f h w")
    if output_type == "pt":
        return videos.float() / 255
    array = rearrange(videos, "b f c h w -> b f h w c").numpy()
    if output_type == "np":
        return array.astype(np.float32) / 255
    return [[Image.fromarray(frame) for frame in video] for video in array]
