"""How the videos of a folder are stored: the reported size is the size they are read in."""

from fractions import Fraction

import numpy as np
import pytest
from encode_video import encode, flip
from fake_detector import DETECTOR
from PIL import Image

from latte.cli import main
from latte.eval.inputs import Reading
from latte.eval.protocol import adjusted
from latte.eval.video_comparison import compare_videos
from latte.eval.video_folders import stored_as
from latte.video import read_video

CLIP = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)
TURNED = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(("attributes", "size"), [({}, "48x32"), ({"matrix": TURNED}, "32x48")])
def test_rotated_videos_and_non_square_pixels(attributes, size, tmp_path):
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


def test_pictures_of_an_unsupported_format_are_rejected(tmp_path):
    """A format the project does not read elsewhere is not read here either."""
    Image.fromarray(CLIP[0]).save(tmp_path / "0.png", "TIFF")
    with pytest.raises(ValueError, match=r"cannot be decoded: 0\.png: cannot identify"):
        stored_as(tmp_path)


def test_damaged_videos_in_a_prepared_list_are_evaluated(tmp_path):
    """They are read as in training, with a caveat that counts them; without the list they are left out."""
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    for i in range(4):
        path = encode(tmp_path / f"data/{i}.mkv", noise[:, :, ::-1] if i % 2 else noise, "ffv1", "bgr0")
    flip(path, 0.3, 5)
    words = ["--num-frames", "4", "--frame-interval", "1", "--damaged", "take"]
    assert main(["prepare", "folder", str(tmp_path / "data"), "--out", str(tmp_path / "list"), *words]) == 0
    reading = Reading(adjusted("exact", frames=4))
    result = compare_videos(tmp_path / "list", tmp_path / "list", DETECTOR, reading)
    assert result.to_dict()["real"]["clips"] == 4 and result.to_dict()["real"]["damaged"] == 1
    assert "1 real video is damaged, and read with FFmpeg's error concealment" in result.caveats
    with pytest.warns(UserWarning, match="left out: .*3.mkv"):
        result = compare_videos(tmp_path / "data", tmp_path / "data", DETECTOR, reading)
    assert result.to_dict()["real"]["clips"] == 3
