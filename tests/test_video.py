"""Videos in and out: what is written is what is read, and a bad file is told by name."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latte.gallery import contact_sheet, tile, write_page
from latte.shapes import make_clip
from latte.video import (
    count_frames,
    export_to_gif,
    export_to_video,
    from_uint8,
    list_videos,
    read_video,
    to_uint8,
    write_video,
)

CLIP = torch.from_numpy(make_clip(0, 3).video)


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.double() - b.double()).square().mean()))


@pytest.mark.parametrize(("name", "lossless"), [("a.mkv", False), ("a.mp4", True), ("a.npz", False), ("a.webp", True)])
def test_lossless_round_trip(name, lossless, tmp_path):
    frames, _ = read_video(write_video(CLIP, tmp_path / name, lossless=lossless))
    assert torch.equal(frames, CLIP)
    assert count_frames(tmp_path / name) == 16
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "least"), [("a.mp4", 32), ("a.gif", 24), ("a.webp", 30)])
def test_lossy_round_trip(name, least, tmp_path):
    frames, fps = read_video(write_video(CLIP, tmp_path / name, fps=8))
    assert frames.shape == CLIP.shape and psnr(frames, CLIP) > least
    assert fps == pytest.approx(8, abs=0.4)


def test_chosen_frames_are_those_of_the_whole(tmp_path):
    long = torch.randint(0, 256, (60, 3, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in ("a.mkv", "a.npz", "a.mp4"):
        path = write_video(long, tmp_path / name)
        whole, _ = read_video(path)
        assert torch.equal(read_video(path, [50, 3, 3, 17])[0], whole[[50, 3, 3, 17]])
        assert count_frames(path) == 60
    with pytest.raises(ValueError, match=r"a\.mkv has fewer frames"):
        read_video(tmp_path / "a.mkv", [60])


def test_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    for i, frame in enumerate(CLIP):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / f"frame_{i}.png")
    assert torch.equal(read_video(tmp_path)[0], CLIP)
    assert torch.equal(read_video(tmp_path, [10, 2])[0], CLIP[[10, 2]])
    assert list_videos(tmp_path) == [tmp_path]


def test_odd_sizes_are_made_even_for_mp4(tmp_path):
    frames, _ = read_video(write_video(CLIP[:, :, :63, :61], tmp_path / "odd.mp4"))
    assert frames.shape == (16, 3, 64, 62)


def test_exports_take_what_diffusers_takes(tmp_path):
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in CLIP]
    arrays = [np.asarray(image) / 255 for image in images]
    assert psnr(read_video(export_to_video(arrays, str(tmp_path / "a.mp4"), fps=8))[0], CLIP) > 32
    assert len(read_video(export_to_gif(images, str(tmp_path / "a.gif")))[0]) == 16
    path = export_to_video(images)
    assert read_video(path)[0].shape == CLIP.shape
    os.remove(path)


def test_bytes_and_floats():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0, 128, 255]


def test_bad_files_are_told_by_name(tmp_path):
    good = write_video(CLIP, tmp_path / "good.mp4").read_bytes()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "cut.mp4").write_bytes(good[: len(good) // 3])
    (tmp_path / "empty.gif").write_bytes(b"")
    np.savez(tmp_path / "wrong.npz", video=np.zeros((2, 3)))
    (tmp_path / "folder").mkdir()
    for name in ("text.mp4", "cut.mp4", "empty.gif", "wrong.npz", "folder"):
        with pytest.raises(ValueError, match=name) as told:
            read_video(tmp_path / name)
        assert "\n" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="no video at"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="cannot write"):
        write_video(CLIP, tmp_path / "a.doc")
    with pytest.raises(ValueError, match="not finite"):
        write_video(np.full((2, 8, 8, 3), np.nan), tmp_path / "nan.mp4")
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "a.doc").exists()


def test_gallery(tmp_path):
    videos = torch.stack([CLIP, CLIP.flip(0), 255 - CLIP])
    sheet = np.asarray(Image.open(contact_sheet(videos, ["a", "b", "c <x>"], tmp_path / "sheet.png", columns=4)))
    assert np.array_equal(sheet[:64, -64:], CLIP[15].permute(1, 2, 0)) and sheet.shape[0] == 3 * 64
    tiled = tile(videos, 2)
    assert tiled.shape == (16, 3, 128, 128) and torch.equal(tiled[:, :, 64:, :64], videos[2])
    page = write_page(tmp_path, [("a.mp4", "c <x>")], "title", {"fact": "1 & 2"}).read_text()
    assert "c &lt;x&gt;" in page and "1 &amp; 2" in page and 'src="a.mp4"' in page


@pytest.mark.skipif("LATTE_TEST_DATA" not in os.environ, reason="LATTE_TEST_DATA names no folder of real clips")
def test_real_clips():
    root = Path(os.environ["LATTE_TEST_DATA"])
    paths = [*(root / "ucf101").glob("v_*.avi"), root / "ucf101/example0.mp4", *(root / "clips").glob("*.mkv")]
    assert len(paths) == 4
    for path in paths:
        frames, fps = read_video(path)
        assert len(frames) == count_frames(path) and 5 < fps < 61
        assert torch.equal(read_video(path, [9, 4])[0], frames[[9, 4]])
    assert len(read_video(root / "ucf101/v_Archery_320x240.avi")[0]) == 131
