"""From decoded frames to a square clip: named transforms, uint8 (f, 3, h, w) -> float32 (f, 3, size, size) in [-1, 1].

All but "ours" follow the original (Vchitect/Latte, datasets/video_transforms.py): they resize without antialiasing and
do not round. The original mirrors half of the clips of FaceForensics, UCF101 and Taichi-HD, and none of SkyTimelapse,
before anything else; with these transforms, apply `flip` to the decoded frames. If a crop leaves an odd number of
pixels, mirroring after it would shift the picture by one.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.video.pixels import from_uint8, resize_and_crop


def flip(video: Tensor, random: torch.Generator) -> Tensor:
    """Mirror a clip (f, 3, h, w) of any dtype left to right with probability 1/2."""
    return video.flip(-1) if torch.rand((), generator=random) < 0.5 else video


def antialiased(video: Tensor, size: int) -> Tensor:
    """Ours: `resize_and_crop`. Its uint8 frames can be cached, and `from_uint8` then gives the same clip."""
    return from_uint8(resize_and_crop(video, size))


def resize_then_crop(video: Tensor, size: int) -> Tensor:
    """The original's transform of FaceForensics and UCF101."""
    short = min(video.shape[-2:])
    scale = size / short
    while math.floor(short * scale) < size:  # rounding, as with 49 -> 32, where the original fails
        scale = math.nextafter(scale, math.inf)
    resized = F.interpolate(video.float() / 255, scale_factor=scale, mode="bilinear", align_corners=False)
    return normalise(center_crop(resized, size))


def crop_then_resize(video: Tensor, size: int) -> Tensor:
    """The original's transform of SkyTimelapse."""
    square = center_crop(video.float() / 255, min(video.shape[-2:]))
    return normalise(F.interpolate(square, (size, size), mode="bilinear", align_corners=False))


def without_resizing(video: Tensor, size: int) -> Tensor:
    """The original's transform of Taichi-HD, whose frames have the right size. Raises ValueError if they do not."""
    if video.shape[-2:] != (size, size):
        height, width = video.shape[-2:]
        raise ValueError(f"frames of {height} x {width} pixels: the transform 'taichi' takes {size} x {size} only")
    return normalise(video.float() / 255)


def center_crop(video: Tensor, size: int) -> Tensor:
    """Cut out the central size x size pixels; half a pixel is rounded to the even number, as Python does."""
    top, left = (round((side - size) / 2) for side in video.shape[-2:])
    return video[..., top : top + size, left : left + size]


def normalise(video: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1]."""
    return (video - 0.5) / 0.5


TRANSFORMS = {
    "ours": antialiased,
    "ffs": resize_then_crop,
    "ucf101": resize_then_crop,
    "sky": crop_then_resize,
    "taichi": without_resizing,
}


def transform(name: str, video: Tensor, size: int) -> Tensor:
    """Make decoded frames square and scale their pixels.

    Args:
        name: A transform of `TRANSFORMS`.
        video: Frames (f, 3, h, w), uint8.
        size: Side of the result, in pixels.

    Returns:
        Frames (f, 3, size, size), float32 in [-1, 1].

    Raises:
        ValueError: There is no such transform, or it cannot take frames of this size ("taichi").
    """
    if name not in TRANSFORMS:
        raise ValueError(f"no transform is called {name!r}: choose one of {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name](video, size)
