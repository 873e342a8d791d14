"""Corruptions of graded strength. A quality metric must notice each one, and a stronger one must score worse.

All randomness is a function of (seed, clip) and the same at every strength: more strength corrupts a clip further, not
differently.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import generator

# (clip, uint8 (f, 3, h, w); strength, in [0, 1]; source of randomness) -> corrupted clip of the same shape
Corruption = Callable[[Tensor, float, torch.Generator], Tensor]

NOISE_LEVELS = 64  # standard deviation of the noise at strength 1, in grey levels out of 255
BLUR_WIDTH = 4 / 64  # standard deviation of the blur at strength 1, as a fraction of the frame's side


def noisy(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Add Gaussian noise to every pixel."""
    noise = torch.randn(video.shape, generator=random)
    return (video + strength * NOISE_LEVELS * noise).round().clamp(0, 255).byte()


def blurred(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Blur every frame with a Gaussian; pixels at the border are repeated beyond it."""
    sigma = strength * BLUR_WIDTH * video.shape[-1]
    if not sigma:
        return video
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    row = (weights / weights.sum()).view(1, 1, 1, -1)
    images = F.pad(video.flatten(0, 1)[:, None].float(), (reach,) * 4, mode="replicate")
    images = F.conv2d(F.conv2d(images, row), row.transpose(2, 3))
    return images.view(video.shape).round().byte()


def frozen(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Replace each frame but the first, with probability `strength`, by the frame shown before it. 1 gives a still."""
    stays = torch.rand(len(video), generator=random) < strength
    stays[0] = False
    shown = torch.where(stays, 0, torch.arange(len(video))).cummax(0).values
    return video[shown]


def shuffled(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Choose a fraction `strength` of the frames at random, and permute them cyclically."""
    chosen = torch.randperm(len(video), generator=random)[: round(strength * len(video))]
    order = torch.arange(len(video))
    order[chosen] = chosen.roll(1)
    return video[order]


def slower(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Play at 1 / (1 + strength) of the speed, with the nearest frames. The end of the clip is not reached."""
    return video[(torch.arange(len(video)) / (1 + strength) + 0.5).long()]


def faster(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Play at 1 + strength times the speed, with the nearest frames. The last frame is then repeated."""
    return video[(torch.arange(len(video)) * (1 + strength) + 0.5).long().clamp(max=len(video) - 1)]


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noisy,
    "blur": blurred,
    "frozen frames": frozen,
    "shuffled frames": shuffled,
    "slower": slower,
    "faster": faster,
}


def corrupted(videos: Tensor, name: str, strength: float, seed: int = 0, first: int = 0) -> Tensor:
    """Corrupt clips.

    Args:
        videos: uint8 (n, f, 3, h, w).
        name: One of CORRUPTIONS.
        strength: From 0, which changes nothing, to 1.
        seed: The source of randomness, together with each clip's number.
        first: The number of the first clip, so that a part of a set is corrupted as it is within the set.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: If there is no such corruption, or if the strength is out of range.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; use one of {', '.join(CORRUPTIONS)}")
    if not 0 <= strength <= 1:
        raise ValueError(f"corruption strength is {strength}; it must be from 0 to 1")
    corrupt = CORRUPTIONS[name]
    return torch.stack([corrupt(video, strength, generator(seed, first + i)) for i, video in enumerate(videos)])
