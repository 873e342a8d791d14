"""The output of a pipeline call: latents decoded by the VAE, in the form named by output_type."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image
from torch import Tensor

from latte.models.vae import VideoVAE
from latte.video.pixels import to_uint8

OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")
Frames = list[list[Image.Image]] | np.ndarray | Tensor


@dataclass
class LatteOutput:
    """The result of a call; output[0] and output["frames"] also give its frames.

    Attributes:
        frames: One entry per video, in the requested output_type.
    """

    frames: Frames

    def __getitem__(self, key: int | str) -> Any:
        return vars(self)[key] if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Frames]:
        """(frames,), as returned with return_dict=False."""
        return (self.frames,)


def require_vae(vae: VideoVAE | None, what: str, otherwise: str = "") -> None:
    """Raise ValueError if there is no VAE, with what lacks it, and with what Python can do otherwise."""
    if vae is None:
        raise ValueError(f"{what} has no VAE to decode with: name its folder with --vae (in Python: vae{otherwise})")


def decode_latents(vae: VideoVAE | None, latents: Tensor, output_type: str) -> Tensor:
    """Latents (b, f, c, h, w) -> videos (b, f, 3, h, w) on the CPU: float in [0, 1], or rounded bytes.

    Raises:
        ValueError: There is no VAE, and output_type is not "latent".
    """
    if output_type == "latent":
        return latents.cpu()
    if vae is None:
        raise ValueError("there is no VAE to decode these latents with: pass one to the pipeline")
    video = vae.decode(latents)
    in_bytes = output_type in ("uint8", "pil")
    return (to_uint8(video.clamp(-1, 1)) if in_bytes else (video.float() / 2 + 0.5).clamp(0, 1)).cpu()


def as_output(videos: Tensor, output_type: str) -> Frames:
    """Convert videos (b, f, 3, h, w), or latents (b, f, c, h, w), from decode_latents to the requested form."""
    if output_type == "latent":
        return rearrange(videos, "b f c h w -> b c f h w")
    if output_type in ("pt", "uint8"):
        return videos
    array = rearrange(videos, "b f c h w -> b f h w c").numpy()
    return array if output_type == "np" else [[Image.fromarray(frame) for frame in video] for video in array]


@contextmanager
def decode_chunk(vae: VideoVAE | None, chunk: int | None) -> Iterator[None]:
    """Within the context, the VAE works on `chunk` frames at once; None changes nothing."""
    if vae is None or chunk is None:
        yield
        return
    before = vae.chunk
    vae.set_chunk(chunk)
    try:
        yield
    finally:
        vae.set_chunk(before)
