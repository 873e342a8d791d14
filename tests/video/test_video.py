"""Written videos read back the same, in every format."""

import os
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from latte.shapes.draw import make_clip
from latte.video import (
    count_frames,
    export_to_gif,
    export_to_video,
    from_uint8,
    list_videos,
    read_blocks,
    read_video,
    to_uint8,
    write_video,
)

CLIP = torch.from_numpy(make_clip(0, 3).video)
IMAGES = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in CLIP]


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.double() - b.double()).square().mean()))


def encode(path, codec, pixels="yuv420p", **options):
    """Encode CLIP with a codec that write_video does not offer."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 64, pixels, 4_000_000
        if "rotation" in options:
            stream.set_display_rotation(options["rotation"])
        for image in IMAGES:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("name", "lossless"), [("a.mkv", False), ("a.mp4", True), ("a.npz", False), ("a.webp", True)])
def test_lossless_round_trip(name, lossless, tmp_path):
    frames, _ = read_video(write_video(CLIP, tmp_path / name, lossless=lossless))
    assert torch.equal(frames, CLIP)
    assert count_frames(tmp_path / name) == 16
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "least"), [("a.mp4", 32), ("a.gif", 40), ("a.webp", 35), ("LOUD.MP4", 32)])
def test_lossy_round_trip(name, least, tmp_path):
    frames, fps = read_video(write_video(CLIP, tmp_path / name, fps=8))
    assert frames.shape == CLIP.shape and psnr(frames, CLIP) > least
    assert fps == pytest.approx(8, rel=0.01)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.mp4", "a.mkv"])
@pytest.mark.parametrize("fps", [0.1, 8, 24, 50])
def test_frames_that_repeat_are_kept_and_so_is_the_rate(name, fps, tmp_path):
    still = CLIP[[0] * 10 + [1] * 5 + [0] * 10]
    frames, rate = read_video(write_video(still, tmp_path / name, fps=fps))
    assert len(frames) == count_frames(tmp_path / name) == 25 and psnr(frames, still) > 32
    assert rate == pytest.approx(fps, rel=0.02)


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_animations_loop_forever(name, tmp_path):
    with Image.open(write_video(CLIP, tmp_path / name)) as image:
        assert image.info["loop"] == 0 and image.n_frames == 16


def test_mp4_uses_a_widely_playable_codec(tmp_path):
    with av.open(str(write_video(CLIP, tmp_path / "a.mp4", fps=8))) as container:
        (stream,) = container.streams
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.mov", "mpeg4")])
def test_foreign_containers(name, codec, tmp_path):
    frames, fps = read_video(encode(tmp_path / name, codec))
    assert psnr(frames, CLIP) > 28 and fps == pytest.approx(12, rel=0.01)
    assert count_frames(tmp_path / name) == 16 and list_videos(tmp_path) == [tmp_path / name]


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotated_videos_are_turned_upright(rotation, tmp_path):
    """The rotation flag counts degrees anticlockwise."""
    path = encode(tmp_path / "phone.mp4", "libx264", rotation=rotation)
    expected = torch.rot90(CLIP, rotation // 90, (2, 3))
    assert psnr(read_video(path)[0], expected) > 30 and psnr(next(read_blocks(path)), expected) > 30


def test_chosen_frames_equal_those_of_a_full_read(tmp_path):
    long = torch.randint(0, 256, (60, 3, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in ("a.mkv", "a.npz", "a.mp4", "a.webp"):
        path = write_video(long, tmp_path / name)
        full, _ = read_video(path)
        assert torch.equal(read_video(path, [50, 3, 3, 17])[0], full[[50, 3, 3, 17]])
        assert torch.equal(torch.cat(list(read_blocks(path, 25))), full)
        assert count_frames(path) == 60
        with pytest.raises(ValueError, match=rf"{name} cannot be decoded: it has no frame number 60"):
            read_video(path, [60, 2])
        with pytest.raises(ValueError, match="indices must be a non-empty list of frame numbers from 0"):
            read_video(path, [-1])


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.npz", "a.webp", "a.gif"])
def test_equal_clips_are_equal_files(name, tmp_path):
    one, two = (write_video(CLIP, tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
    assert one == two


def test_an_mp4_does_not_depend_on_what_memory_held_before(tmp_path):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (16, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    frames = np.clip(coarse.astype(int) + random.integers(-20, 21, coarse.shape), 0, 255).astype(np.uint8)
    found = set()
    for i in range(10):
        held = [np.full(random.integers(1, 400_000), 255, np.uint8) for _ in range(6)]
        del held[: 3 if i % 3 else 6]
        found.add(write_video(frames, tmp_path / "a.mp4").read_bytes())
    assert len(found) == 1


def test_hidden_files_are_skipped(tmp_path):
    for name in ("a.mkv", ".a.part7.mkv", ".trash/b.mkv", "frames/0.png", "frames/.1.part7.png"):
        write_video(CLIP, tmp_path / name)
    assert list_videos(tmp_path) == [tmp_path / "a.mkv", tmp_path / "frames"]
    assert count_frames(tmp_path / "frames") == 1
    hidden = tmp_path / ".trash"
    assert list_videos(hidden) == [hidden / "b.mkv"]


def test_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    for i, image in enumerate(IMAGES):
        image.save(tmp_path / f"frame_{i}.png")
    assert torch.equal(read_video(tmp_path)[0], CLIP)
    assert torch.equal(read_video(tmp_path, [10, 2])[0], CLIP[[10, 2]])
    assert torch.equal(torch.cat(list(read_blocks(tmp_path, 5))), CLIP)
    assert list_videos(tmp_path) == [tmp_path] and count_frames(tmp_path) == 16


def test_animated_pictures_are_videos(tmp_path):
    for name in ("a.webp", "b.webp"):
        write_video(CLIP, tmp_path / "moving" / name)
    for i in range(3):
        path = tmp_path / f"still/{i}.webp"
        path.parent.mkdir(exist_ok=True)
        IMAGES[i].save(path)
    assert [path.relative_to(tmp_path).as_posix() for path in list_videos(tmp_path)] == [
        "moving/a.webp",
        "moving/b.webp",
        "still",
    ]


def test_pictures_with_alpha_grey_levels_or_exif_orientation(tmp_path):
    seen = IMAGES[0].copy()
    seen.putalpha(128)
    seen.save(tmp_path / "0.png")
    IMAGES[0].convert("L").save(tmp_path / "1.png")
    lying = Image.Exif()
    lying[0x0112] = 8  # EXIF orientation: rotate by 90 degrees anticlockwise
    IMAGES[0].save(tmp_path / "2.png", exif=lying)
    alpha, grey, turned = read_video(tmp_path)[0]
    assert torch.equal(alpha, CLIP[0]) and (grey == grey[:1]).all() and torch.equal(turned, CLIP[0].rot90(1, (1, 2)))


def test_odd_sizes_are_made_even_for_mp4(tmp_path):
    frames, _ = read_video(write_video(CLIP[:, :, :63, :61], tmp_path / "odd.mp4"))
    assert frames.shape == (16, 3, 64, 62)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.webp", "a.npz", "10:30.mkv"])
def test_smallest_clip(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames, _ = read_video(write_video(CLIP[:1, :, 30:31, 30:31], name))
    assert frames.shape in ((1, 3, 1, 1), (1, 3, 2, 2))


def test_exports_accept_what_diffusers_accepts(tmp_path):
    arrays = [np.asarray(image) / 255 for image in IMAGES]
    assert psnr(read_video(export_to_video(arrays, str(tmp_path / "a.mp4"), fps=8))[0], CLIP) > 32
    assert len(read_video(export_to_gif(IMAGES, str(tmp_path / "a.gif")))[0]) == 16


def test_temporary_exports_leave_no_open_or_empty_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for export in (export_to_video, export_to_gif):
        with pytest.raises(ValueError, match="no frames"):
            export([])
        assert not list(tmp_path.iterdir())
    assert read_video(export_to_video(IMAGES))[0].shape == read_video(export_to_gif(IMAGES))[0].shape == CLIP.shape
    assert held is None or len(os.listdir("/proc/self/fd")) == held


@pytest.mark.parametrize(
    "frames",
    [
        CLIP.float() / 255,
        [frame.float() / 255 for frame in CLIP],
        CLIP.permute(0, 2, 3, 1).numpy(),
        IMAGES,
        [image.convert("RGBA") for image in IMAGES],
    ],
    ids=["tensor", "tensors", "array", "pictures", "alpha"],
)
def test_accepted_kinds_of_frames(frames, tmp_path):
    assert torch.equal(read_video(write_video(frames, tmp_path / "a.npz"))[0], CLIP)


def test_half_precision_and_grey_pictures(tmp_path):
    half = read_video(write_video((CLIP.float() / 255).bfloat16(), tmp_path / "half.npz"))[0]
    assert (half.int() - CLIP.int()).abs().max() <= 1
    grey = read_video(write_video([image.convert("L") for image in IMAGES], tmp_path / "grey.npz"))[0]
    assert torch.equal(grey[:, 0], grey[:, 2]) and psnr(grey, CLIP) > 15


def test_bytes_and_floats_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0]).clamp(-1, 1)).tolist() == [0, 128, 255]


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
