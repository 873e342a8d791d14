"""What a file's suffix determines, in upper or lower case, and what it does not."""

import shutil

import numpy as np
import pytest
import torch
from encode_video import encode
from PIL import Image

from latte.eval.statistics import is_statistics, read_feature_set
from latte.eval.video_folders import stored_as, videos_of
from latte.shapes.draw import make_clip
from latte.train.data.layouts import find_any_videos
from latte.video import count_frames, inspect_video, list_videos, read_blocks, read_video, write_video
from latte.video.formats import STREAM_SUFFIXES

CLIP = make_clip(0, 4, frames=8, size=32).video
OF_MPEG2 = dict.fromkeys(
    (".m2p", ".m2t", ".m2ts", ".m2v", ".mts", ".mpg", ".ts", ".vob", ".evo", ".mod", ".tod", ".tp", ".trp", ".mxf"),
    "mpeg2video",
)
OF_MPEG1 = dict.fromkeys((".m1v", ".mpe", ".mpeg"), "mpeg1video")
CODECS = {**OF_MPEG2, **OF_MPEG1, ".flv": "flv", ".ogm": "libvpx", ".ogv": "libvpx", ".webm": "libvpx", ".gif": "gif"}
CODECS |= {".ivf": "libvpx", ".y4m": "rawvideo"}


@pytest.mark.parametrize("suffix", STREAM_SUFFIXES)
def test_every_video_suffix_works_in_both_cases(suffix, tmp_path):
    codec = CODECS.get(suffix, "mpeg4")
    path = encode(tmp_path / f"a{suffix}", CLIP.transpose(0, 2, 3, 1), codec, "rgb8" if suffix == ".gif" else "yuv420p")
    upper = shutil.copy(path, tmp_path / f"b{suffix.upper()}")
    frames, fps = read_video(path)
    assert (frames.int() - torch.from_numpy(CLIP).int()).abs().float().mean() < 25
    assert torch.equal(read_video(upper, [3, 7])[0], frames[[3, 7]]) and fps == 25
    assert count_frames(path) == count_frames(upper) == inspect_video(upper).frames == 8
    assert list_videos(tmp_path) == [path, upper] == [video for video, _ in find_any_videos(tmp_path).videos]


@pytest.mark.parametrize("suffix", [".MP4", ".Mkv", ".GIF", ".WEBP", ".NPZ"])
def test_writing_in_upper_case(suffix, tmp_path):
    path, lower = tmp_path / f"a{suffix}", tmp_path / f"b{suffix.lower()}"
    assert write_video(CLIP, path).read_bytes() == write_video(CLIP, lower).read_bytes()
    assert torch.equal(read_video(path)[0], read_video(lower)[0]) and list_videos(tmp_path) == [path, lower]
    assert stored_as(path) == stored_as(lower)


def test_arrays_pictures_and_statistics_in_upper_case(tmp_path):
    np.save(tmp_path / "a.npy", CLIP)
    np.savez(tmp_path / "set.npz", np.stack([CLIP, CLIP]))
    np.savez(tmp_path / "fid.npz", mu=np.zeros(4), sigma=np.eye(4))
    for name in ("a.npy", "set.npz", "fid.npz"):
        (tmp_path / name).rename(tmp_path / name.upper())
    (tmp_path / "frames").mkdir()
    for i, name in enumerate(("1.PNG", "2.Jpg", "10.BMP")):
        Image.new("RGB", (16, 8), (100 * i, 0, 0)).save(tmp_path / "frames" / name)
    assert read_video(tmp_path / "frames")[0][:, 0, 0, 0].tolist() == [0, 100, 200]
    assert stored_as(tmp_path / "frames") == ("bmp and jpg and png", "16x8")
    assert torch.equal(read_video(tmp_path / "A.NPY")[0], torch.from_numpy(CLIP))
    assert torch.equal(read_video(tmp_path / "SET.NPZ/000001")[0], torch.from_numpy(CLIP))
    assert videos_of(tmp_path / "SET.NPZ") == [tmp_path / f"SET.NPZ/{i:06d}" for i in range(2)]
    assert is_statistics(tmp_path / "FID.NPZ") and read_feature_set(tmp_path / "FID.NPZ").width == 4


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_an_animation_is_not_a_frame_of_a_folder(kind, tmp_path):
    """Only its first picture would be read, silently."""
    pictures = [Image.new("RGB", (8, 8), (100 * i, 0, 0)) for i in range(3)]
    pictures[0].save(tmp_path / f"0.{kind}", save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / "1.png")
    for read in (read_video, inspect_video, lambda path: list(read_blocks(path))):
        with pytest.raises(ValueError, match=f" cannot be decoded: 0.{kind}: it is an animation of 3 frames"):
            read(tmp_path)


def test_a_rotated_webp_is_turned_upright(tmp_path):
    lying = Image.Exif()
    lying[0x0112] = 6  # EXIF orientation: rotate by 90 degrees clockwise
    picture = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.webp", exif=lying, lossless=True)
    assert np.array_equal(read_video(tmp_path / "a.webp")[0][0].permute(1, 2, 0), np.rot90(picture, -1))
    assert stored_as(tmp_path / "a.webp") == ("webp", "8x16") and inspect_video(tmp_path / "a.webp").width == 8
