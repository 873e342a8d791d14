"""How arrays hold videos: which axis is which, and which numbers are black and white."""

from collections.abc import Sequence
from math import isfinite, prod

import numpy as np

EXPECTED = "(f, h, w, 3) or (f, 3, h, w), or in grey (f, h, w), (f, h, w, 1) or (f, 1, h, w)"
SETS = "; a set of videos needs a leading axis, and a channel axis even if grey: (n, f, h, w, 1)"
SLACK = 1 / 512  # less than half a level of 255, so that rounding errors do not count as out of range
CLEARLY_BYTES = 127
CLEARLY_NEGATIVE = -0.25  # decoders that write [0, 1] overshoot below 0, but not as far as this


def frame_axes(shape: Sequence[int]) -> tuple[int, ...] | None:
    """The order in which axes are to be taken to get (f, h, w, c) or (n, f, h, w, c), where c is 3, 4 or 1.

    Args:
        shape: The shape of one video (four axes) or of several (five axes). (n, c, f, h, w) is recognised too.

    Returns:
        The axes; None if there are no pixels, or if no axis in a place for channels has the length 3, 4 or 1.
    """
    axes = list(range(len(shape)))
    if len(shape) not in (4, 5) or not prod(shape):
        return None
    places = [(-1, 3), (-3, 3), (-1, 4), (-1, 1), (-3, 1), *([(1, 3), (1, 1)] if len(shape) == 5 else [])]
    for place, channels in places:
        if shape[place] == channels:
            axes.append(axes.pop(place))
            return tuple(axes)
    return None


def with_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of videos; that of a grey one without an axis of channels, (f, h, w), as (f, h, w, 1).

    Raises:
        ValueError: It is not the shape of videos, or may as well be that of one picture.
    """
    if len(shape) == 3 and (shape[0] in (3, 4) or shape[-1] in (3, 4)):
        raise ValueError(f"shape {shape} may be that of one picture; expected {EXPECTED}")
    full = (*shape, 1) if len(shape) == 3 else shape
    if frame_axes(full) is None:
        raise ValueError(f"shape {shape} is not that of videos; expected {EXPECTED}{SETS if len(shape) == 4 else ''}")
    return full


def channels_last(array: np.ndarray) -> np.ndarray:
    """A view (f, h, w, c) or (n, f, h, w, c) of videos, where c is 3, 4 (with alpha) or 1 (grey).

    Raises:
        ValueError: See with_channels.
    """
    full = array.reshape(with_channels(array.shape))
    return full.transpose(frame_axes(full.shape))


def as_rgb(frames: np.ndarray) -> np.ndarray:
    """Frames of 1, 3 or 4 channels, which are the last axis, as RGB: grey is repeated, alpha is dropped."""
    return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames[..., :3]


def value_range(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """The values of black and white in some arrays, taken together.

    Bytes are in (0, 255). For other numbers, the extremes decide: floats in [0, 1] are in (0, 1); floats in [-1, 1] of
    which one is clearly negative are in (-1, 1); and numbers in [0, 255] are in (0, 255), if integers exceed 1 or
    floats exceed 127.

    Args:
        arrays: Videos of one data type.

    Returns:
        The values of black and white.

    Raises:
        ValueError: The values are not numbers, not finite, or in none of these ranges. The message names their range.
    """
    kinds = {array.dtype for array in arrays}
    dtype = kinds.pop()
    if kinds or dtype.kind not in "uif":
        raise ValueError(f"the values are {' and '.join(map(str, sorted({dtype, *kinds}, key=str)))}; expected uint8")
    if dtype == np.uint8:
        return 0.0, 255.0
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    if not isfinite(low) or not isfinite(high):
        raise ValueError("NaN or infinite values are among them, which are not finite numbers")
    floats = dtype.kind == "f"
    if low == high == 0:
        raise ValueError(
            f"all values are 0 in {dtype}, which is black in some ranges and grey in others: save them as uint8"
        )
    if floats and low >= -SLACK and high <= 1 + SLACK:
        return 0.0, 1.0
    if floats and -1 - 2 * SLACK <= low < CLEARLY_NEGATIVE and high <= 1 + 2 * SLACK:
        return -1.0, 1.0
    whole = floats or np.iinfo(dtype).max >= 255  # int8 holds half of the levels: white is unclear
    if low >= 0 and (CLEARLY_BYTES if floats else 1) < high <= 255 and whole:
        return 0.0, 255.0
    ranges = (
        "0 to 255 with some above 127, 0 to 1, or -1 to 1 with some below -0.25"
        if floats
        else "0 to 255 with some above 1"
    )
    raise ValueError(f"the values are {dtype} from {low:g} to {high:g}; expected {ranges}: save them as uint8")


def to_bytes(array: np.ndarray, black_white: tuple[float, float]) -> np.ndarray:
    """Convert values to uint8, rounded to the nearest level; the array must be within the range, see value_range."""
    if array.dtype == np.uint8:
        return array
    black, white = black_white
    return ((array.astype(np.float32) - black) * (255 / (white - black))).round().astype(np.uint8)
