"""Pixels in memory: uint8 in files and metrics, float32 in [-1, 1] inside the networks, and square crops."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latte.video.array_layout import EXPECTED, frame_axes

PIXELS_AT_ONCE = 1 << 21  # of frames that are processed as floats: 25 MB for three channels


def check_dense(values: Tensor | np.ndarray) -> None:
    """Raise ValueError for a tensor or an array that does not hold all of its values: a masked or sparse one."""
    if isinstance(values, np.ndarray):
        if np.ma.is_masked(values):
            raise ValueError("some values are masked: fill them first, as numpy.ma.filled does")
    elif values.is_meta or values.layout != torch.strided or values.is_quantized:
        kind = "meta" if values.is_meta else str(values.dtype if values.is_quantized else values.layout)
        raise ValueError(f"the tensor is {kind.removeprefix('torch.')}: expected a dense one, which holds its values")


def as_array(values: Tensor | np.ndarray) -> np.ndarray:
    """The values of a tensor or an array in NumPy, of any data type. Raises ValueError as `check_dense` does."""
    check_dense(values)
    if isinstance(values, Tensor):  # NumPy has no bfloat16
        values = (values.float() if values.is_floating_point() else values).detach().cpu()
        return values.resolve_conj().resolve_neg().numpy()
    return np.asarray(values)


def as_tensor(values: Tensor | np.ndarray) -> Tensor:
    """The values of a tensor or an array in PyTorch; copied only if they have negative strides or another byte order.

    Raises:
        ValueError: They are not numbers that PyTorch supports; or see `check_dense`.
    """
    check_dense(values)
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind not in "buifc" or array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        raise ValueError(f"the values are {array.dtype}: expected numbers of 64 bits or fewer")
    if not array.dtype.isnative or min(array.strides, default=0) < 0:
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
        return torch.from_numpy(array)


def to_uint8(video: Tensor) -> Tensor:
    """Convert network inputs, or network outputs that were clamped, to pixels.

    Args:
        video: Floats in [-1, 1], of any shape.

    Returns:
        uint8 of the same shape, rounded to the nearest level.

    Raises:
        ValueError: If values are NaN, infinite or out of range. Decoders overshoot a little: clamp what they return.
    """
    levels = ((video.float() + 1) * 127.5).round()
    if levels.numel():
        low, high = (float(extreme) for extreme in levels.aminmax())
        if not (low >= 0 and high <= 255):  # comparisons with NaN are false
            low, high = (float(extreme) for extreme in video.aminmax())
            raise ValueError(f"the video holds values from {low:.4g} to {high:.4g}; expected finite floats in [-1, 1]")
    return levels.to(torch.uint8)


def from_uint8(video: Tensor) -> Tensor:
    """Convert pixels, uint8 in [0, 255] of any shape, to network inputs, float32 in [-1, 1]."""
    return (video / 127.5).sub_(1)


def channels_first(videos: Tensor | np.ndarray) -> Tensor:
    """A view of videos with their channels where the networks and metrics expect them.

    Args:
        videos: One video of four axes, or several of five, in any order that `latte.video.array_layout.frame_axes`
            knows. An alpha channel is dropped.

    Returns:
        (f, 3, h, w) or (n, f, 3, h, w), where grey is repeated.

    Raises:
        ValueError: If it is unclear which axis is which.
    """
    tensor = as_tensor(videos)
    if (axes := frame_axes(tuple(tensor.shape))) is None:
        raise ValueError(f"shape {tuple(tensor.shape)} is not that of videos; expected {EXPECTED}")
    frames = tensor.permute(axes)[..., :3].movedim(-1, -3)
    return frames.expand(*frames.shape[:-3], 3, *frames.shape[-2:])


def expect_videos(*videos: Tensor) -> None:
    """Check that all arguments are non-empty uint8 videos (b, f, 3, h, w) of one shape.

    Raises:
        ValueError: If one is not, or if their shapes differ.
    """
    for each in videos:
        if each.dtype != torch.uint8 or each.ndim != 5 or each.shape[2] != 3 or not each.numel():
            dtype = str(each.dtype).removeprefix("torch.")
            advice = ": multiply values in [0, 1] by 255, and convert them to uint8" if each.is_floating_point() else ""
            raise ValueError(f"expected uint8 videos (b, f, 3, h, w), got {dtype} {tuple(each.shape)}{advice}")
        if each.shape != videos[0].shape:
            shapes = f"{tuple(videos[0].shape)} and {tuple(each.shape)}"
            raise ValueError(f"videos of shapes {shapes} cannot be compared; they must be equal")


def slice_by_slice(work: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """Apply a function of single frames to many (f, 3, h, w), a few large ones at a time, so that it needs less memory.

    Args:
        work: Maps frames (n, 3, h, w) to a tensor (n, ...), each frame independently.
        frames: The frames.

    Returns:
        The result of `work` for all frames, bit for bit.
    """
    at_once = max(1, PIXELS_AT_ONCE // (frames.shape[-2] * frames.shape[-1]))
    return work(frames) if len(frames) <= at_once else torch.cat([work(part) for part in frames.split(at_once)])


def resize_and_crop(video: Tensor, size: int, mode: str = "bicubic") -> Tensor:
    """Resize the short side, bicubically or bilinearly, with antialiasing, then crop the centre to a square.

    Args:
        video: uint8 (f, 3, h, w).
        size: The side of the result, in pixels.
        mode: "bicubic" or "bilinear".

    Returns:
        uint8 (f, 3, size, size).
    """
    h, w = video.shape[-2:]
    height, width = max(size, round(h * size / min(h, w))), max(size, round(w * size / min(h, w)))
    top, left = (height - size) // 2, (width - size) // 2

    def resize(frames: Tensor) -> Tensor:
        resized = F.interpolate(frames.float(), (height, width), mode=mode, antialias=True, align_corners=False)
        return resized[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)

    return slice_by_slice(resize, video)
