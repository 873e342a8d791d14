"""`latte prepare` with odd files among the videos: other types, pipes, other encodings, and damage."""

import os
import re
import shutil
from fractions import Fraction

import numpy as np
import pytest
from encode_video import encode, flip
from small_runs import run, small
from tiny_data_sets import TAKEN, paths, put, put_frames

from latte.cli import main
from latte.shapes.draw import make_clip
from latte.train.data import decoded_cache
from latte.train.data.folders import open_clips
from latte.train.data.video_list import open_video_list
from latte.video import read_video


def test_files_that_are_not_read_are_counted_by_extension(prepare, videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    for name in ("a/1.xyz", "a/2.XYZ", "b/notes", "b/z.txt", "b/z.srt", ".hidden/c.xyz"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("no video")
    status, out, err = prepare("folder", data)
    said = "4 files are ignored because of their extensions (2 .xyz, 1 none, 1 .srt)\n"
    assert status == 0 and err == "" and said in out and said in (tmp_path / "out/report.txt").read_text()
    put(data / "a/w.mp4")
    many = "files are ignored because of their extensions (3 .mkv, 2 .xyz"
    assert f"8 {many}" in prepare("ucf101", data, taken=[*TAKEN[:-1], "1"])[1]
    put_frames(data / "c/clip", range(8))
    assert f"9 {many}" in prepare("sky", data)[1]
    assert " ignored " not in prepare("folder", videos)[1]


def test_pipes_sockets_and_devices_are_never_opened(prepare, tmp_path):
    """Opening a pipe blocks until someone writes to it, and here nobody does."""
    put(tmp_path / "data/a.mp4")
    put_frames(tmp_path / "data/frames", range(8))
    os.mkfifo(tmp_path / "data/b.mp4")
    os.mkfifo(tmp_path / "data/c.webp")
    os.mkfifo(tmp_path / "data/frames/clip_00099.png")
    os.mkfifo(tmp_path / "data/a.txt")
    (tmp_path / "data/link.mp4").symlink_to(tmp_path / "data/b.mp4")
    (tmp_path / "data/zero.mkv").symlink_to("/dev/zero")
    for kind, found in (("folder", ["a.mp4", "frames"]), ("ffs", ["a.mp4"]), ("sky", ["frames"])):
        status, _, err = prepare(kind, tmp_path / "data")
        assert status == 0 and paths(tmp_path / "out") == found
        assert all(f"{name} is a pipe, a socket or a device and is skipped" in err for name in ("b.mp4", "zero.mkv"))
    assert open_video_list(tmp_path / "out").videos[0].frames == 8
    (tmp_path / "data/a.mp4").unlink()
    os.mkfifo(tmp_path / "data/a.mp4")
    assert "b.mp4 is a pipe" in prepare("folder", tmp_path / "data")[2]


@pytest.mark.parametrize("kind", ["folder", "ffs"])
def test_captions_in_other_encodings_are_refused(kind, prepare, tmp_path):
    text, encodings = "a café dog runs", ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "gbk")
    for name in encodings:
        put(tmp_path / f"data/{name}.mp4")
        (tmp_path / f"data/{name}.txt").write_bytes(("一只狗在跑" if name == "gbk" else text).encode(name))
    status, out, _ = prepare(kind, tmp_path / "data")
    assert status == 0 and "2 videos, no classes, 2 with captions" in out and "5 left out: 5 caption" in out
    assert [video.caption for video in open_video_list(tmp_path / "out").videos] == [text, text]
    report = (tmp_path / "out/report.txt").read_text()
    assert all(f"{name}.txt is not a text in UTF-8; save it as one\n" in report for name in encodings[2:])


def test_names_that_are_not_utf8(tmp_path, capfdbinary):
    """As unpacked from foreign archives: the list keeps the exact bytes, and messages escape them as ASCII."""
    for name in (b"b\xe9/caf\xe9.mp4", b"b\xe9/x\xe9\ny.mp4", b"a/x.mp4"):
        put(tmp_path / "data" / os.fsdecode(name))
    (tmp_path / os.fsdecode(b"data/b\xe9/caf\xe9.txt")).write_text("a café")
    (tmp_path / os.fsdecode(b"data/a/no\xe9.mp4")).write_text("no")
    words = ["prepare", "folder", str(tmp_path / "data"), *TAKEN, "--out", str(tmp_path / os.fsdecode(b"list\xe9"))]
    assert main(words) == 0
    assert b"3 videos, 2 classes, 1 with captions" in capfdbinary.readouterr().out
    listed = open_video_list(tmp_path / os.fsdecode(b"list\xe9"))
    assert listed.classes == ["a", "b\\xe9"] and listed.videos[1].caption == "a café"
    assert [os.fsencode(video.path) for video in listed.videos[1:]] == [b"b\xe9/caf\xe9.mp4", b"b\xe9/x\xe9\ny.mp4"]
    report = (listed.root.parent / os.fsdecode(b"list\xe9/report.txt")).read_text()
    assert "data/a/no\\xe9.mp4: cannot be decoded" in report and "b\\xe9\n" in report


@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_damaged_videos_and_pixels_that_are_not_square_are_reported(quick, prepare, tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    (tmp_path / "data").mkdir()
    encode(tmp_path / "data/sound.mkv", clip, "ffv1", "bgr0")
    encode(tmp_path / "data/wide.mp4", clip, aspect=Fraction(2))
    flip(encode(tmp_path / "data/worn.mkv", clip, "ffv1", "bgr0"), 0.5)
    status, out, _ = prepare("folder", tmp_path / "data", *quick)
    report = (tmp_path / "out/report.txt").read_text()
    assert status == 0 and "1 remark on a video that is used" in out
    assert "data/wide.mp4: its pixels are not square; its frames are resampled to 64 x 32\n" in report
    sizes = {video.path: (video.height, video.width) for video in open_video_list(tmp_path / "out").videos}
    assert sizes == {"sound.mkv": (32, 32), "wide.mp4": (32, 64)}
    assert "1 damaged" in out and re.search(r"  damaged +.*data/worn\.mkv: .+", report)


def test_a_prepared_folder_without_its_list(prepare, videos, vae, tmp_path):
    """Its frames or rendered videos must not be mistaken for the data set."""
    assert prepare("folder", videos, "--frame-list", 16)[0] == 0
    (tmp_path / "out/index.json").unlink()
    with pytest.raises(ValueError, match=r"out/index\.json is missing: run `latte prepare` again"):
        open_clips(small(vae, f"data={tmp_path / 'out'}"))
    (tmp_path / "out/report.txt").write_text("a caption")
    assert open_clips(small(vae, f"data={tmp_path / 'out'}")).num_videos == 3


@pytest.mark.parametrize("classes", [[], ["a", "b"]])
def test_damaged_arrays_are_counted_and_named(classes, prepare, vae, tmp_path):
    """They might be videos, but their headers do not tell."""
    data = tmp_path / "data"
    for name in classes or ["."]:
        (data / name).mkdir(parents=True, exist_ok=True)
        np.save(data / name / "sound.npy", np.zeros((8, 16, 16, 3), np.uint8))
        (data / name / "worn.npy").write_bytes((data / name / "sound.npy").read_bytes()[:50])
    np.save(data / "labels.npy", np.zeros(8))
    status, out, err = prepare("folder", data)
    count = len(classes) or 1
    assert status == 0 and f"{count} left out: {count} broken\n" in out and err == ""
    assert "1 file is ignored because of its extension (.npy)\n" in out
    report = (tmp_path / "out/report.txt").read_text()
    assert report.count("worn.npy: cannot be read: it holds no array with a readable header\n") == count
    with pytest.warns(UserWarning, match=r"left out: .*worn\.npy cannot be read"):
        clips = open_clips(small(vae, f"data={data}"))
    assert clips.num_videos == count and len(clips.failures.reasons) == count


@pytest.fixture
def worn(tmp_path):
    """A valid video, one with a slice that FFmpeg conceals, and one that is cut in half."""
    clip = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    (tmp_path / "data").mkdir()
    encode(tmp_path / "data/sound.mkv", clip, "mpeg4", options={"g": "4"})
    flip(encode(tmp_path / "data/worn.avi", clip, "mpeg4", options={"g": "4"}), 0.5, 300)
    cut = encode(tmp_path / "data/cut.avi", clip, "mpeg4", options={"g": "4"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return tmp_path / "data"


def test_damaged_videos_are_taken_on_request(prepare, worn, vae, tmp_path):
    taken = ("--num-frames", "4", "--frame-interval", "1")
    status, out, _ = prepare("folder", worn, taken=taken)
    assert status == 0 and "folder: 1 video" in out and "2 left out: 2 damaged\n" in out and " used" not in out
    status, out, _ = prepare("folder", worn, "--damaged", "take", "--frame-list", "8", taken=taken)
    assert status == 0 and "folder: 3 videos" in out and "0 left out" in out
    assert "2 damaged videos are used, with error concealment\n" in out
    report = (tmp_path / "out/report.txt").read_text()
    assert re.search(r"worn\.avi: it is damaged, and read with FFmpeg's error concealment: \d+ .*; the first: ", report)
    listed = open_video_list(tmp_path / "out").videos
    assert {video.path: video.damaged for video in listed} == {"cut.avi": True, "sound.mkv": False, "worn.avi": True}
    assert len((tmp_path / "out/train_list.txt").read_text().splitlines()) == sum(video.frames for video in listed)
    config = small(vae, f"data={tmp_path / 'out'}", "steps=1", "latents=step", "image_size=32")
    with pytest.warns(
        UserWarning, match=r"2 damaged videos are read with FFmpeg's error concealment, such as .*cut\.avi"
    ):
        clips = open_clips(config)
    assert [video.frames for video in clips.videos] == [video.frames for video in listed]
    with pytest.warns(UserWarning, match="2 damaged videos are read"):
        run(config, tmp_path / "run")
    assert not clips.failures.reasons and not (tmp_path / "run/failed.txt").exists()
    with pytest.raises(ValueError, match="damaged=take does nothing with the list in"):
        open_clips(small(vae, f"data={tmp_path / 'out'}", "damaged=take"))
    assert "leave out quick, or damaged" in prepare("folder", worn, "--damaged", "take", "--quick")[2]
    (worn / "sound.mkv").unlink()
    assert "2 are damaged: --damaged take includes them" in prepare("folder", worn, taken=taken)[2]


@pytest.mark.parametrize("room", [decoded_cache.CACHE_BYTES, 0])
def test_damaged_videos_of_a_plain_folder(room, worn, vae, tmp_path, monkeypatch):
    """With and without a cache of decoded videos."""
    monkeypatch.setattr(decoded_cache, "CACHE_BYTES", room)
    config = small(vae, f"data={worn}", "image_size=32", "failed_share=1")
    with pytest.warns(UserWarning, match="left out: .*is damaged"):
        assert "worn.avi" not in {video.path.name for video in open_clips(config).videos} or not room
    with pytest.warns(UserWarning, match="2 damaged videos are read with FFmpeg's error concealment"):
        clips = open_clips(small(vae, f"data={worn}", "image_size=32", "damaged=take"))
    assert clips.num_videos == 3 and not clips.failures.reasons
    whole = {video.path.name: read_video(video.path, damaged="take")[0] for video in clips.videos}
    assert [video.frames for video in clips.videos] == [len(frames) for frames in whole.values()]
    for number, frames in enumerate(whole.values()):
        found = np.concatenate(
            [(block + 1).mul(127.5).round().byte().numpy() for block in clips.full_video(number).blocks]
        )
        assert np.array_equal(found, frames)


def test_arrays_in_two_ranges_are_refused(prepare, vae, tmp_path):
    """A bright clip in [-1, 1] would pass for one in [0, 1], and grey would become black."""
    (tmp_path / "a").mkdir()
    for i in range(3):
        video = make_clip(0, i, size=16).video.transpose(0, 2, 3, 1) / np.float32(127.5) - 1
        np.save(tmp_path / f"a/{i}.npy", video if i else (video + 1) / 2)
    said = "holds arrays in [-1, 1] and others in [0, 1], so black is unclear"
    status, _, error = prepare("folder", tmp_path / "a")
    assert status == 2 and said in error
    config = small(vae, f"data={tmp_path / 'a'}", "classes=false")
    with pytest.raises(ValueError, match=re.escape(said)):
        open_clips(config)
    np.save(tmp_path / "a/0.npy", make_clip(0, 0, size=16).video)  # bytes go with either range
    assert open_clips(config).num_videos == 3


@pytest.mark.parametrize("kind", ["ucf101", "ffs", "folder"])
def test_hidden_files_and_folders_are_skipped(kind, prepare, tmp_path):
    for name in ("A/a.mp4", "B/b.mp4", ".ipynb_checkpoints/c.mp4", "A/._a.mp4"):
        put(tmp_path / "data" / name)
    assert prepare(kind, tmp_path / "data")[0] == 0
    found = open_video_list(tmp_path / "out")
    assert [video.path for video in found.videos] == ["A/a.mp4", "B/b.mp4"]
    assert found.classes == ([] if kind == "ffs" else ["A", "B"])
