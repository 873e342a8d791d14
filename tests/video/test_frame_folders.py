"""Folders of pictures: which pictures are the frames of one video, and which lie beside videos."""

import numpy as np
import pytest
from PIL import Image

from latte.shapes.draw import make_clip
from latte.train.data.layouts import find_frame_folders
from latte.video import list_videos, read_video, write_video
from latte.video.find import scan_videos
from latte.video.page import GRID_FILE, SHEET_FILE, write_page


def put_pictures(folder, *names):
    folder.mkdir(exist_ok=True)
    for shade, name in enumerate(names):
        Image.new("RGB", (4, 4), (20 * shade,) * 3).save(folder / name)


def first_values(folder):
    return [round(value / 20) for value in read_video(folder)[0][:, 0, 0, 0].tolist()]


def test_thumbnails_beside_videos_are_not_frames(tmp_path):
    write_video(make_clip(0, 0, frames=2, size=16).video, tmp_path / "v1.mkv")
    put_pictures(tmp_path, "v1.jpg", "cover.jpg")
    found = scan_videos(tmp_path)
    assert [path.name for path in found.videos] == ["v1.mkv"]
    assert [path.name for path in found.others] == ["cover.jpg", "v1.jpg"]


@pytest.mark.parametrize("name", ["preview.mp4", "preview.gif", "poses.npz", "0.npz", "masks.npy"])
def test_a_file_beside_frames_does_not_hide_them(name, tmp_path):
    put_pictures(tmp_path / "a", "0.png", "1.png")
    if name.endswith(".npy"):
        np.save(tmp_path / "a" / name, np.zeros((2, 4, 4, 3), np.uint8))
    elif name.endswith(".npz"):
        (tmp_path / "a" / name).write_bytes(b"not a video")
    else:
        write_video(make_clip(0, 0, frames=2, size=16).video, tmp_path / "a" / name)
    assert not any(path.suffix == ".png" for path in scan_videos(tmp_path).others)
    assert tmp_path / "a" in list_videos(tmp_path) and first_values(tmp_path / "a") == [0, 1]
    assert [video for video, _ in find_frame_folders(tmp_path).videos] == [tmp_path / "a"]


def test_overviews_of_a_page_are_not_videos(tmp_path):
    clip = make_clip(0, 0, frames=2, size=16).video
    write_video(clip, tmp_path / "0.mp4")
    write_video(clip, tmp_path / GRID_FILE)
    put_pictures(tmp_path, SHEET_FILE)
    assert [path.name for path in list_videos(tmp_path)] == ["0.mp4", GRID_FILE]
    write_page(tmp_path, [("0.mp4", "caption")], "title", {})
    assert [path.name for path in list_videos(tmp_path)] == ["0.mp4"]


@pytest.mark.parametrize(
    ("names", "say"),
    [
        (
            ("img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_x_2.jpg"),
            r"a holds several series .*flow_x_\*, img_\*",
        ),
        (("0.png", "0_mask.png"), r"series of pictures \(\*, \*_mask\)"),
        (("left_01.png", "right_1.png"), r"series of pictures \(left_\*, right_\*\)"),
        (("00.jpg", "00.png", "01.jpg"), "a holds two pictures called 00: keep one of each"),
    ],
)
def test_several_series_in_a_folder_are_not_one_video(names, say, tmp_path):
    put_pictures(tmp_path / "a", *names)
    with pytest.raises(ValueError, match=say):
        read_video(tmp_path / "a")


@pytest.mark.parametrize(
    "names",
    [
        ("f_9.png", "f_10.bmp", "f_11.png"),
        ("a.png", "b.png"),
        ("0a1.png", "0b2.png", "1ff.png"),
        ("image.png", "image1.png", "image2.png"),
        ("Frame_001.png", "frame_002.png"),
        ("1.png", "1.5.png", "2.png"),
        ("frame_0001_of_0100.png", "frame_0002_of_0100.png"),
        ("img_001.png", "img_002_keyframe.png"),
        ("0001.JPG", "0002.jpg"),
    ],
)
def test_one_series_is_read(names, tmp_path):
    put_pictures(tmp_path / "a", *names)
    assert sorted(first_values(tmp_path / "a")) == list(range(len(names)))


def test_a_link_to_itself_concerns_its_folder_only(tmp_path):
    put_pictures(tmp_path / "a", "0.png")
    (tmp_path / "a/latest.png").symlink_to("latest.png")
    put_pictures(tmp_path / "b", "0.png")
    assert first_values(tmp_path / "b") == [0]
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_video(tmp_path / "a")
