"""From decoded frames to a square clip: named chains, uint8 (f, 3, h, w) -> float32 (f, 3, size, size) in [-1, 1].

The original's (Vchitect/Latte, datasets/video_transforms.py) resize without antialiasing and round nothing. It mirrors
half of the clips of FaceForensics, UCF101 and Taichi-HD, none of SkyTimelapse, before anything else: call `flip` on the
decoded frames. Where a crop leaves an odd rest, the order matters by one pixel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.video.pixels import from_uint8, resize_and_crop


def flip(video: Tensor, random: torch.Generator) -> Tensor:
    """The whole clip (f, 3, h, w), of any type, mirrored left to right in half of the cases."""
    return video.flip(-1) if torch.rand((), generator=random) < 0.5 else video


def antialiased(video: Tensor, size: int) -> Tensor:
    """Ours: as resize_and_crop, whose bytes may be kept in its place and taken through latte.video.read.from_uint8."""
    return from_uint8(resize_and_crop(video, size))


def resize_then_crop(video: Tensor, size: int) -> Tensor:
    """The original's chain of FaceForensics and UCF101."""
    short = min(video.shape[-2:])
    scale = size / short
    while math.floor(short * scale) < size:  # by rounding, as with 49 -> 32, where the original fails
        scale = math.nextafter(scale, math.inf)
    resized = F.interpolate(video.float() / 255, scale_factor=scale, mode="bilinear", align_corners=False)
    return normalised(middle(resized, size))


def crop_then_resize(video: Tensor, size: int) -> Tensor:
    """The original's chain of SkyTimelapse."""
    square = middle(video.float() / 255, min(video.shape[-2:]))
    return normalised(F.interpolate(square, (size, size), mode="bilinear", align_corners=False))


def as_they_are(video: Tensor, size: int) -> Tensor:
    """The original's chain of Taichi-HD. ValueError: frames are of another size."""
    if video.shape[-2:] != (size, size):
        height, width = video.shape[-2:]
        raise ValueError(f"frames of {height} x {width} pixels: the transform 'taichi' takes {size} x {size} only")
    return normalised(video.float() / 255)


def middle(video: Tensor, size: int) -> Tensor:
    """The central size x size pixels; half a pixel goes where Python rounds it to, the even number."""
    top, left = (round((side - size) / 2) for side in video.shape[-2:])
    return video[..., top : top + size, left : left + size]


def normalised(video: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return (video - 0.5) / 0.5


TRANSFORMS = {
    "ours": antialiased,
    "ffs": resize_then_crop,
    "ucf101": resize_then_crop,
    "sky": crop_then_resize,
    "taichi": as_they_are,
}


def transform(name: str, video: Tensor, size: int) -> Tensor:
    """uint8 (f, 3, h, w) through a named chain. ValueError: no such chain, or (taichi) frames of another size."""
    if name not in TRANSFORMS:
        raise ValueError(f"no transform is called {name!r}; there are {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name](video, size)
