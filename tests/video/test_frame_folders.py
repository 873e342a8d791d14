"""Folders of pictures: which pictures are the frames of one video, and which lie beside videos."""

import pytest
from PIL import Image

from latte.shapes.draw import make_clip
from latte.video import list_videos, read_video, write_video
from latte.video.page import GRID_FILE, SHEET_FILE, write_page
from latte.video.read import scan_videos


def put_pictures(folder, *names):
    folder.mkdir(exist_ok=True)
    for shade, name in enumerate(names):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(folder / name)


def first_values(folder):
    return read_video(folder)[0][:, 0, 0, 0].tolist()


def test_pictures_beside_videos_are_not_frames(tmp_path):
    write_video(make_clip(0, 0, frames=2, size=16).video, tmp_path / "a.mkv")
    put_pictures(tmp_path, "a.jpg", "b.jpg")
    found = scan_videos(tmp_path)
    assert [path.name for path in found.videos] == ["a.mkv"]
    assert [path.name for path in found.others] == ["a.jpg", "b.jpg"]
    put_pictures(tmp_path / "frames", "0.png", "1.png")
    (tmp_path / "frames/poses.npz").write_bytes(b"not a video")
    assert tmp_path / "frames" in list_videos(tmp_path)


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
        (("img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_x_2.jpg"), r"names of 2 kinds \(flow_x_\*, img_\*\)"),
        (("0.png", "0_mask.png"), r"names of 2 kinds \(\*, \*_mask\)"),
        (("0.png", "1.png", "cover.png"), r"names of 2 kinds \(\*, cover\)"),
        (("00.jpg", "00.png", "01.jpg"), "two of its pictures are called 00: keep one of each"),
    ],
)
def test_several_series_in_a_folder_are_not_one_video(names, say, tmp_path):
    put_pictures(tmp_path / "a", *names)
    with pytest.raises(ValueError, match=say):
        read_video(tmp_path / "a")


def test_one_series_is_read_in_order(tmp_path):
    put_pictures(tmp_path / "numbers", "f_9.png", "f_10.bmp", "f_11.png")
    put_pictures(tmp_path / "words", "a.png", "b.png")
    assert first_values(tmp_path / "numbers") == [0, 1, 2] and first_values(tmp_path / "words") == [0, 1]


def test_a_link_to_itself_concerns_its_folder_only(tmp_path):
    put_pictures(tmp_path / "a", "0.png")
    (tmp_path / "a/latest.png").symlink_to("latest.png")
    put_pictures(tmp_path / "b", "0.png")
    assert first_values(tmp_path / "b") == [0]
    with pytest.raises(ValueError, match="names of 2 kinds"):
        read_video(tmp_path / "a")
