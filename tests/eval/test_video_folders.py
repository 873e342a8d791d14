"""What the videos of a folder are stored as: their size is the one in which they are read."""

from fractions import Fraction

import numpy as np
import pytest
from encode_video import encode
from PIL import Image

from latte.eval.video_folders import stored_as
from latte.video import read_video

CLIP = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)
TURNED = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(("attributes", "size"), [({}, "48x32"), ({"matrix": TURNED}, "32x48")])
def test_films_that_are_turned_or_have_narrow_pixels(attributes, size, tmp_path):
    path = encode(tmp_path / "a.mp4", CLIP, **attributes)
    assert stored_as(path) == ("h264", size)
    narrow = encode(tmp_path / "b.mp4", CLIP, aspect=Fraction(1, 2), **attributes)
    height, width = read_video(narrow)[0].shape[2:]
    assert stored_as(narrow) == ("h264", f"{width}x{height}") and 24 in (height, width)


def test_pictures_that_are_turned(tmp_path):
    lying = Image.Exif()
    lying[0x0112] = 6
    for i in range(2):
        Image.fromarray(CLIP[i]).save(tmp_path / f"{i}.jpg", exif=lying)
    assert stored_as(tmp_path) == ("jpg", "32x48")


def test_pictures_that_are_no_pictures(tmp_path):
    """A format that the project does not read is not read here either."""
    Image.fromarray(CLIP[0]).save(tmp_path / "0.png", "TIFF")
    with pytest.raises(ValueError, match=r"0\.png cannot be decoded: cannot identify"):
        stored_as(tmp_path)
