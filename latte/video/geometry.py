"""Frames as they are displayed: turned or mirrored as the display matrix says, with square pixels."""

import struct
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# Players ignore pixels that are further from square than any camera or disc makes them.
MAX_PIXEL_ASPECT = 8


class DisplaySize(NamedTuple):
    """The size of a stored frame in square pixels."""

    height: int
    width: int


def pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Width of a stored pixel over its height; 1 if the file states none, or an implausible value."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else Fraction(1)


def display_size(height: int, width: int, aspect: Fraction) -> DisplaySize:
    """The size of a stored frame in square pixels: as in players, the height stays the same."""
    return DisplaySize(height, max(1, round(width * aspect)))


def to_shown_rgb(
    frame: av.VideoFrame, aspect: Fraction = Fraction(1), converter: VideoReformatter | None = None
) -> np.ndarray:
    """Convert a decoded frame to RGB (h, w, 3) as it is to be shown.

    Args:
        frame: The frame.
        aspect: Width of its pixels over their height. Pixels that are not square are resampled.
        converter: A shared one saves its setup for every frame of a video.
    """
    converter = converter or VideoReformatter()
    # By default, converting starts threads for every frame, which takes 20 times as long on a busy machine.
    with av.logging.Capture():  # it warns about JPEG's colour range, frame by frame
        if aspect == 1:
            converted = converter.reformat(frame, format="rgb24", threads=1)
        else:
            height, width = display_size(frame.height, frame.width, aspect)
            converted = converter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
    image = converted.to_ndarray()
    matrix: Any = frame.side_data.get("DISPLAYMATRIX") if len(frame.side_data) else None
    return orient(image, bytes(matrix)) if matrix else image


def orient(image: np.ndarray, matrix: bytes) -> np.ndarray:
    """Turn and mirror an image (h, w, 3) by a display matrix.

    A matrix [a b u; c d v; x y w] moves a pixel (p, q) to (a p + c q + x, b p + d q + y); see libavutil/display.h and
    ISO/IEC 14496-12, 8.3.2. Only eight orientations keep the pixel grid; others are rounded to the nearest.
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
