"""Fidelity of a VAE: how far its reconstructions are from the videos that it encodes."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from latte.arguments import check_size
from latte.device import usable_device
from latte.eval.fidelity import FidelityResult, compare_each, read_if_possible
from latte.eval.inputs import find_device
from latte.eval.video_pairs import as_pair, videos_by_name
from latte.models.vae import VideoVAE
from latte.video.array_ranges import check_ranges
from latte.video.pixels import from_uint8, resize_and_crop, to_uint8
from latte.weights.manifest import digest
from latte.weights.vae_folder import load_vae, vae_files

CLIP = 16  # frames, those of Latte's clips: no more of them pass through a temporal decoder together


def compare_reconstructions(
    vae: str | Path, videos: str | Path, *, crop: int | None = None, alexnet: str | Path | None = None,
    device: str | torch.device | None = None, progress: bool = False,
) -> FidelityResult:  # fmt: skip
    """PSNR, SSIM, LPIPS and flicker of a VAE's reconstructions against the videos.

    Latents are the posterior's mean. Reconstructions are rounded to bytes, as samples are.

    Args:
        vae: A VAE, as load_vae takes it.
        videos: A folder of videos, or a file of arrays.
        crop: Pixels to which frames are resized and centre-cropped, as in training. None: unchanged.
        alexnet, device, progress: See compare_pairs; the VAE runs on the same device.

    Raises:
        ValueError: There are no videos, more than half of them cannot be read, or frames have a side that the VAE does
            not encode. CheckpointError: the weights are missing or do not fit. FileNotFoundError: no such folder.
    """
    if crop is not None:
        check_size("real_crop", crop)
    device = usable_device(find_device(device))
    network = load_vae(vae).to(device)
    paths = list(videos_by_name(Path(videos)).values())
    if not paths:
        raise ValueError(f"{videos} holds no videos")
    check_ranges(videos, paths)
    read = partial(read_with_reconstruction, network, crop)
    about = {file.name: digest(file) for file in vae_files(Path(vae))}
    return compare_each(paths, read, (str(vae), str(videos)), alexnet, device, progress, about)


def read_with_reconstruction(
    vae: VideoVAE, crop: int | None, path: Path, unreadable: dict[str, str]
) -> tuple[Tensor, Tensor] | None:
    """A video's reconstruction and the video, as read_if_possible returns a pair; None if it cannot be read."""
    if (pair := read_if_possible((path,), unreadable)) is None:
        return None
    frames = resize_and_crop(pair[0], crop) if crop else pair[0]
    try:
        for side in frames.shape[-2:]:
            vae.latent_side(side)
    except ValueError as error:
        advice = f"crop them with --real-crop (in Python: crop) to a multiple of {vae.factor}"
        raise ValueError(f"{path}: {error}; {advice}") from error
    return as_pair(reconstruct_frames(vae, frames), frames, str(path))


@torch.no_grad()
def reconstruct_frames(vae: VideoVAE, frames: Tensor) -> Tensor:
    """Encode the frames of a video, uint8 (f, 3, h, w), to the posterior's mean, and decode them, clip by clip."""
    weight = next(vae.parameters())
    clips = (from_uint8(clip[None].to(weight.device)).to(weight.dtype) for clip in frames.split(CLIP))
    return torch.cat([to_uint8(vae.decode(vae.encode(clip)).clamp(-1, 1))[0].cpu() for clip in clips])
