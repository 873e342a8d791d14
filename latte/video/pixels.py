"""Pixels in memory: bytes in files and metrics, floats in [-1, 1] inside the networks, and square crops."""

import torch
import torch.nn.functional as F
from torch import Tensor


def to_uint8(video: Tensor) -> Tensor:
    """[-1, 1] floats -> bytes, clamped and rounded."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(video: Tensor) -> Tensor:
    """Bytes -> [-1, 1] float32."""
    return (video / 127.5).sub_(1)


def expect_videos(*videos: Tensor) -> None:
    """ValueError: one is not bytes (b, f, 3, h, w) with a pixel in it, or they differ in shape."""
    for each in videos:
        if each.dtype != torch.uint8 or each.ndim != 5 or each.shape[2] != 3 or not each.numel():
            kind = str(each.dtype).removeprefix("torch.")
            raise ValueError(f"expected uint8 videos (b, f, 3, h, w), not {kind} {tuple(each.shape)}")
        if each.shape != videos[0].shape:
            raise ValueError(f"videos of {tuple(videos[0].shape)} and {tuple(each.shape)} cannot be compared")


def resize_and_crop(video: Tensor, size: int) -> Tensor:
    """(f, 3, h, w) bytes -> (f, 3, size, size): the short side resized with antialiasing, the middle cut out."""
    h, w = video.shape[-2:]
    height, width = max(size, round(h * size / min(h, w))), max(size, round(w * size / min(h, w)))
    resized = F.interpolate(video.float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)
