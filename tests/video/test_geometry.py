"""Frames are rotated, mirrored and resampled as players show them."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from av import VideoFrame
from av.video.reformatter import VideoReformatter
from encode_video import encode

from latte.video import inspect_video, read_blocks, read_video
from latte.video.geometry import to_shown_rgb

ONE, W = 1 << 16, 1 << 30
CORNERS = np.zeros((4, 48, 64, 3), np.uint8)
CORNERS[:, :24, :32, 0], CORNERS[:, :24, 32:, 1], CORNERS[:, 24:, :32, 2] = 255, 255, 255  # red, green; blue, black
EIGHT = {  # how (a, b, c, d) of the display matrix moves the corners: rows from the top left
    (1, 0, 0, 1): "rg bk",
    (-1, 0, 0, 1): "gr kb",
    (1, 0, 0, -1): "bk rg",
    (-1, 0, 0, -1): "kb gr",
    (0, 1, -1, 0): "br kg",
    (0, -1, 1, 0): "gk rb",
    (0, 1, 1, 0): "rb gk",
    (0, -1, -1, 0): "kg br",
}


def corners(frame):
    """The colours of the four corners of a frame (3, h, w)."""
    h, w = frame.shape[1:]
    name = lambda y, x: "krgb"[1 + int(frame[:, y, x].argmax()) if frame[:, y, x].max() > 128 else 0]
    rows = [[name(y, x) for x in (w // 4, 3 * w // 4)] for y in (h // 4, 3 * h // 4)]
    return " ".join("".join(row) for row in rows)


@pytest.mark.parametrize(("matrix", "shown"), EIGHT.items())
def test_eight_orientations(matrix, shown, tmp_path):
    a, b, c, d = matrix
    path = encode(tmp_path / "a.mp4", CORNERS, matrix=(a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, W))
    frames = read_video(path)[0]
    assert corners(frames[0]) == corners(read_video(path, [2])[0][0]) == corners(next(read_blocks(path))[0]) == shown
    assert frames.shape[2:] == ((48, 64) if a else (64, 48))


@pytest.mark.parametrize(
    ("aspect", "width"), [((2, 1), 128), ((1, 2), 32), ((16, 15), 68), ((1, 1), 64), ((50, 1), 64)]
)
def test_pixels_become_square(aspect, width, tmp_path):
    """A disc that is stored narrow is round again; an implausible aspect is ignored."""
    y, x = np.mgrid[:64, :64]
    disc = ((x - 32) / 14 * width / 64) ** 2 + ((y - 32) / 14) ** 2 < 1
    path = encode(tmp_path / "a.mp4", np.repeat(disc[None, ..., None] * np.uint8(255), 3, -1), aspect=Fraction(*aspect))
    frame = read_video(path)[0][0, 0] > 128
    assert frame.shape == (64, width) and int(frame.any(0).sum()) == pytest.approx(int(frame.any(1).sum()), abs=4)
    facts = inspect_video(path, quick=True)
    assert (facts.height, facts.width, facts.resampled) == (64, width, width != 64) and not facts.damage


def test_a_rotated_video_with_non_square_pixels(tmp_path):
    path = encode(tmp_path / "a.mp4", CORNERS, aspect=Fraction(2), matrix=(0, ONE, 0, -ONE, 0, 0, 0, 0, W))
    frames = read_video(path)[0]
    assert frames.shape[2:] == (128, 48) and corners(frames[0]) == "br kg"


def test_one_converter_for_all_frames_gives_the_same_result():
    random, converter = np.random.default_rng(0), VideoReformatter()
    kinds = product(
        (1, 5), (1, 2), (Fraction(1), Fraction(4, 3)), ("yuv420p", "yuv422p", "rgb24"), ((64, 48), (34, 50))
    )
    for matrix, colours, aspect, pixels, size in kinds:  # all of these may change in the middle of a stream
        frame = VideoFrame(*size, pixels)
        for plane in frame.planes:
            plane.update(random.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
        frame.colorspace, frame.color_range = matrix, colours
        assert np.array_equal(to_shown_rgb(frame, aspect, converter), to_shown_rgb(frame, aspect))
