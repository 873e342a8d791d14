"""Known ways to spoil a clip, by name, each with a strength: what a measure of quality must notice, more of it more.

Everything random in them is a function of (seed, clip), the same at every strength: a clip is spoiled more, not anew.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import generator

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]

GREY_LEVELS = 64  # of 255, the noise's standard deviation at strength 1
BLUR = 4 / 64  # likewise the blur's, in sides of a frame


def noisy(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Gaussian noise on every pixel."""
    noise = torch.randn(video.shape, generator=random)
    return (video + strength * GREY_LEVELS * noise).round().clamp(0, 255).byte()


def blurred(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """A Gaussian blur of every frame; beyond the border its last pixels go on."""
    sigma = strength * BLUR * video.shape[-1]
    if not sigma:
        return video
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    row = (weights / weights.sum()).view(1, 1, 1, -1)
    images = F.pad(video.flatten(0, 1)[:, None].float(), (reach,) * 4, mode="replicate")
    images = F.conv2d(F.conv2d(images, row), row.transpose(2, 3))
    return images.view(video.shape).round().byte()


def frozen(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Each frame but the first is, with a chance of `strength`, what was shown before it again; 1: a still."""
    stays = torch.rand(len(video), generator=random) < strength
    stays[0] = False
    shown = torch.where(stays, 0, torch.arange(len(video))).cummax(0).values
    return video[shown]


def shuffled(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """A share of the frames, wherever they stand, change places with each other, each with the next of them."""
    chosen = torch.randperm(len(video), generator=random)[: round(strength * len(video))]
    order = torch.arange(len(video))
    order[chosen] = chosen.roll(1)
    return video[order]


def slower(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Played at 1 / (1 + strength) of its speed, the nearest frame each time; its end is not reached."""
    return video[(torch.arange(len(video)) / (1 + strength) + 0.5).long()]


def faster(video: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Played at 1 + strength times its speed, the nearest frame each time; its last frame stays."""
    return video[(torch.arange(len(video)) * (1 + strength) + 0.5).long().clamp(max=len(video) - 1)]


CORRUPTIONS: dict[str, Corruption] = {  # clip uint8 (f, 3, h, w), strength in [0, 1], its randomness -> the same shape
    "noise": noisy,
    "blur": blurred,
    "frozen frames": frozen,
    "shuffled frames": shuffled,
    "slower": slower,
    "faster": faster,
}


def corrupted(videos: Tensor, name: str, strength: float, seed: int = 0, first: int = 0) -> Tensor:
    """Spoil clips, uint8 (n, f, 3, h, w), the i-th as (seed, first + i) says; strength 0 changes nothing.

    ValueError: no such corruption, or a strength outside of 0 to 1.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption is called {name!r}; there are {', '.join(CORRUPTIONS)}")
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of a corruption is {strength}; it must be in 0 to 1")
    spoil = CORRUPTIONS[name]
    return torch.stack([spoil(video, strength, generator(seed, first + i)) for i, video in enumerate(videos)])
