"""What the metrics take: uint8 videos (b, f, 3, h, w)."""

import torch
from torch import Tensor


def expect_videos(*videos: Tensor) -> None:
    """ValueError: one is not bytes (b, f, 3, h, w) with a pixel in it, or they differ in shape."""
    for each in videos:
        if each.dtype != torch.uint8 or each.ndim != 5 or each.shape[2] != 3 or not each.numel():
            kind = str(each.dtype).removeprefix("torch.")
            raise ValueError(f"expected uint8 videos (b, f, 3, h, w), not {kind} {tuple(each.shape)}")
        if each.shape != videos[0].shape:
            raise ValueError(f"videos of {tuple(videos[0].shape)} and {tuple(each.shape)} cannot be compared")
