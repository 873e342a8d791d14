"""`latte prepare`: the published layouts, the videos left out, and the list that training reads."""

import os
import shutil
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from tiny_data_sets import paths, put, put_frames, put_ucf101

from latte.shapes.draw import make_clip
from latte.train.data import prepare_videos
from latte.train.data.video_list import open_video_list
from latte.video.read import read_video
from latte.video.write import write_video


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    return put_ucf101(tmp_path_factory.mktemp("data") / "UCF-101")


def test_ucf101(prepare, ucf, tmp_path):
    status, out, err = prepare("ucf101", ucf)
    assert status == 0
    assert "5 videos found; ucf101 was published with 13,320" in err and "2 classes found" in err
    assert out.startswith("ucf101: 3 videos, 2 classes, 1 with captions\n24 frames, 8 to 8 per video; ")
    assert "4 left out: 2 misplaced, 1 short, 1 broken\n1 short video is long enough with --frame-interval 1\n" in out
    index = open_video_list(tmp_path / "out")
    assert index == open_video_list(tmp_path / "out/index.json")
    assert (index.kind, index.classes, index.root) == ("ucf101", ["Archery", "Biking"], ucf.resolve())
    assert [(video.path, video.label, video.caption) for video in index.videos] == [
        ("Archery/v_Archery_g01_c01.mp4", 0, ""),
        ("Biking/v_Biking_g01_c01.mp4", 1, ""),
        ("Biking/v_Biking_g01_c02.mp4", 1, "a bicycle"),
    ]
    first = index.videos[0]
    assert (first.frames, first.height, first.width) == (8, 24, 24)
    assert first.bytes == index.path(first).stat().st_size
    report = (tmp_path / "out/report.txt").read_text()
    assert f"short      {ucf}/Archery/v_Archery_g02_c01.mp4: 6 frames, 7 needed\n" in report
    assert f"broken     {ucf}/Biking/v_Biking_g09_c09.avi: cannot be decoded: Invalid data" in report
    assert f"misplaced  {ucf}/aside.mp4: not in a class folder\n" in report
    assert "        2  Biking\n" in report and "        3  24 x 24\n" in report
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_split_of_ucf101(prepare, ucf, tmp_path):
    """Only the listed videos are used, and a class keeps its index."""
    (tmp_path / "trainlist01.txt").write_text("Biking/v_Biking_g01_c01.mp4 1\n\nBiking/v_Biking_g77_c01.avi 1\n")
    status, out, err = prepare("ucf101", ucf, "--split", tmp_path / "trainlist01.txt")
    assert status == 0 and err == "" and "3 left out: 2 misplaced, 1 missing" in out
    index = open_video_list(tmp_path / "out")
    assert index.classes == ["Archery", "Biking"]
    assert [(video.path, video.label) for video in index.videos] == [("Biking/v_Biking_g01_c01.mp4", 1)]
    assert "v_Biking_g77_c01.avi: named in " in (tmp_path / "out/report.txt").read_text()
    (tmp_path / "trainlist01.txt").write_text("Rowing/v.avi\n")
    assert "names no video of" in prepare("ucf101", ucf, "--split", tmp_path / "trainlist01.txt")[2]


def test_ffs_at_any_depth(prepare, ucf, tmp_path):
    status, out, err = prepare("ffs", ucf)
    assert status == 0 and "7 videos found; ffs was published with 704" in err
    assert "5 videos, no classes" in out and len(paths(tmp_path / "out")) == 5


def test_folders_of_frames(prepare, tmp_path):
    """Frames must be numbered; with selection crop, SkyTimelapse skips videos that are exactly one crop long."""
    for name, numbers in (("a/one", range(8)), ("b/c/two", range(5, 14)), ("b/short", range(3))):
        put_frames(tmp_path / "sky" / name, numbers)
    put_frames(tmp_path / "sky/unnumbered", range(1), name="cover.png")
    put_frames(tmp_path / "sky/twice", range(8), name="{}_same_7.png")
    put_frames(tmp_path / "sky/broken", range(8))
    (tmp_path / "sky/broken/clip_00003.png").write_text("no")
    status, out, _ = prepare("sky", tmp_path / "sky")
    assert status == 0 and "4 left out: 3 broken, 1 short" in out
    assert [(v.path, v.frames) for v in open_video_list(tmp_path / "out").videos] == [("a/one", 8), ("b/c/two", 9)]
    report = (tmp_path / "out/report.txt").read_text()
    assert "cover.png has no number in its name" in report and "1_same_7.png comes after 0_same_7.png" in report
    assert ": cannot be decoded: clip_00003.png: " in report
    prepare("sky", tmp_path / "sky", "--selection", "crop")
    assert paths(tmp_path / "out") == ["b/c/two"]
    prepare("taichi", tmp_path / "sky", "--selection", "crop")
    assert paths(tmp_path / "out") == ["a/one", "b/c/two"]


def test_any_folder(prepare, videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    put(data / "aside.mkv")
    (data / "b/gone.mkv").symlink_to(tmp_path / "nowhere")
    status, out, err = prepare("folder", data)
    assert status == 0 and err == "" and "3 videos, 2 classes" in out and "1 misplaced, 1 broken" in out
    assert [video.label for video in open_video_list(tmp_path / "out").videos] == [0, 0, 1]
    (data / "b").rename(data / "b\u00a0c")
    assert "cannot be printed: rename it" in prepare("folder", data)[2]
    shutil.rmtree(data / "b\u00a0c")
    prepare("folder", data)
    index = open_video_list(tmp_path / "out")
    assert index.classes == [] and [v.path for v in index.videos] == ["a/x.mkv", "a/y.mkv", "aside.mkv"]


def test_shapes(prepare, tmp_path):
    """They are long enough, and their windows are the clips of the built-in data set."""
    status, out, _ = prepare("shapes", None, "--clips", "3", taken=())
    assert status == 0 and "3 videos, 3 classes, 3 with captions\n138 frames" in out
    shutil.move(tmp_path / "out", tmp_path / "moved")
    index = open_video_list(tmp_path / "moved")
    assert index.root == tmp_path / "moved/videos"
    for video in index.videos:
        clip = make_clip(0, int(Path(video.path).stem))
        assert torch.equal(read_video(index.path(video), range(0, 46, 3))[0], torch.from_numpy(clip.video))
        assert (video.caption, index.classes[video.label]) == (clip.caption, clip.motion)


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ((), 3),
        (("--num-frames", "3"), 4),
        (("--frame-interval", "1"), 4),
        (("--selection", "linspace"), 4),
        (("--num-frames", "5"), None),
    ],
)
def test_options_determine_which_videos_are_too_short(words, taken, prepare, ucf, tmp_path):
    status, _, err = prepare("ucf101", ucf, *words)
    assert (len(paths(tmp_path / "out")) if status == 0 else None) == taken
    assert (taken is None) == ("none of 7 videos can be used; the first is" in err)
    assert (taken is None) == err.endswith("; 4 are too short: lower --frame-interval or --num-frames\n")


def test_a_smaller_interval_is_advised_only_for_videos_that_it_would_keep(prepare, tmp_path):
    for name, frames in (("a", 16), ("b", 10), ("c", 9), ("d", 3)):
        write_video(torch.zeros(frames, 3, 16, 16, dtype=torch.uint8), tmp_path / f"data/{name}.mkv")
    advice = "2 short videos are long enough with --frame-interval 1\n"
    for interval, selection, advised in ((2, "stride", True), (1, "stride", False), (2, "linspace", False)):
        words = ["--num-frames", "8", "--selection", selection, "--frame-interval", str(interval)]
        status, out, _ = prepare("folder", tmp_path / "data", *words)
        assert status == 0 and (advice in out) == ("--frame-interval" in out) == advised


@pytest.mark.parametrize("kind", ["ucf101", "ffs", "folder"])
def test_links_to_folders_are_followed(kind, prepare, ucf, tmp_path):
    for name in ("Biking", "Archery"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(ucf / name)
    prepare(kind, tmp_path / "data")
    linked = paths(tmp_path / "out")
    prepare(kind, ucf)
    assert linked == [path for path in paths(tmp_path / "out") if "/" in path] and len(linked) > 2


def test_a_link_to_a_parent_folder_is_not_followed_forever(prepare, tmp_path):
    put(tmp_path / "data/a/b/clip.mp4")
    (tmp_path / "data/a/b/up").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/twin").symlink_to(tmp_path / "data/a/b")
    (tmp_path / "data/self").symlink_to(tmp_path / "data/self")
    prepare("ffs", tmp_path / "data")
    assert paths(tmp_path / "out") == ["a/b/clip.mp4", "twin/clip.mp4"]


def test_a_folder_that_cannot_be_read_is_skipped(prepare, tmp_path, monkeypatch):
    """Such as lost+found on a disk."""
    put(tmp_path / "data/a.mp4")
    put(tmp_path / "data/lost+found/b.mp4")
    listdir = os.listdir

    def forbidden(folder):
        if "lost+found" in str(folder):
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr("latte.folder_tree.os.listdir", forbidden)
    status, _, err = prepare("ffs", tmp_path / "data")
    assert status == 0 and paths(tmp_path / "out") == ["a.mp4"]
    assert "lost+found cannot be read and is skipped: Permission denied" in err


def test_quick_decodes_only_first_frames(prepare, tmp_path):
    path = put(tmp_path / "data/a.mp4", frames=40, size=32)
    put(tmp_path / "data/b.mp4")
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for pos, size in places[30:]:
        content[pos : pos + size] = bytes(size)
    path.write_bytes(content)
    prepare("ffs", tmp_path / "data")
    assert paths(tmp_path / "out") == ["b.mp4"]
    prepare("ffs", tmp_path / "data", "--quick")
    assert paths(tmp_path / "out") == ["a.mp4", "b.mp4"] and open_video_list(tmp_path / "out").videos[0].frames == 40


def test_frame_list(prepare, ucf, tmp_path):
    """The original's joint training reads the class between the first two "_" of a line."""
    prepare("ucf101", ucf, "--frame-list")
    lines = (tmp_path / "out/train_list.txt").read_text().splitlines()
    assert len(lines) == 24 and lines[7:9] == ["v_Archery_g01_c01/000007.jpg", "v_Biking_g01_c01/000000.jpg"]
    assert [line.split("_")[1] for line in lines[::8]] == ["Archery", "Biking", "Biking"]
    assert all(Image.open(tmp_path / "out/frames" / line).size == (256, 256) for line in lines[::8])
    prepare("ffs", ucf, "--frame-list", "24")
    lines = (tmp_path / "out/train_list.txt").read_text().splitlines()
    assert lines[0] == "Archery/v_Archery_g01_c01/000000.jpg" and len(lines) == 40
    frame = torch.from_numpy(read_video(ucf / "Archery/v_Archery_g01_c01.mp4", [5])[0].numpy())
    jpg = read_video(tmp_path / "out/frames/Archery/v_Archery_g01_c01")[0][5]
    assert (frame[0].float() - jpg.float()).abs().mean() < 3
    assert not (tmp_path / "out/frames/v_Archery_g01_c01").exists()
    put(ucf.parent / "twins/a.mp4")
    put(ucf.parent / "twins/a.avi.mp4").rename(ucf.parent / "twins/a.avi")
    assert "a.mp4 and a.avi would both be in frames/a" in prepare("ffs", ucf.parent / "twins", "--frame-list")[2]
    put(ucf.parent / "lines/a.mp4").rename(ucf.parent / "lines/a\nb.mp4")
    assert "cannot be printed in a list: rename it" in prepare("ffs", ucf.parent / "lines", "--frame-list")[2]
    put(ucf.parent / "odd/a_b/v.mp4")
    assert "class 'a_b' has a '_'" in prepare("ucf101", ucf.parent / "odd", "--frame-list")[2]
    assert open_video_list(tmp_path / "out").kind == "ffs"


def test_only_an_earlier_result_is_replaced(prepare, videos, tmp_path, monkeypatch):
    prepare("shapes", None, "--clips", "2")
    assert prepare("folder", videos)[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.json", "report.txt"}
    written = (tmp_path / "out/index.json").read_bytes()
    monkeypatch.setattr(prepare_videos, "format_report", lambda *_: 1 / 0)
    assert prepare("shapes", None, "--clips", "2")[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/index.json").read_bytes() == written
    monkeypatch.undo()
    (tmp_path / "out/notes").touch()
    assert "was not written by `latte prepare`" in prepare("folder", videos)[2]
    (tmp_path / "out/notes").unlink()
    (tmp_path / "out/index.json").write_text("{}")
    assert "was not written by `latte prepare`" in prepare("folder", videos)[2]


@pytest.mark.skipif("LATTE_TEST_DATA" not in os.environ, reason="LATTE_TEST_DATA names no folder of real clips")
def test_real_videos_in_published_layouts(prepare, tmp_path):
    real, root = Path(os.environ["LATTE_TEST_DATA"]), tmp_path / "UCF-101"
    for name in ("ApplyEyeMakeup", "Archery"):
        (root / name).mkdir(parents=True)
        (root / name / f"v_{name}_g01_c01.avi").symlink_to(real / f"ucf101/v_{name}_320x240.avi")
    assert prepare("ucf101", root, taken=())[0] == 0
    videos = open_video_list(tmp_path / "out").videos
    assert [(v.frames, v.height, v.width, v.label) for v in videos] == [(164, 240, 320, 0), (131, 240, 320, 1)]
    assert prepare("ffs", real / "faces", "--quick", taken=())[0] == 0
    assert len(paths(tmp_path / "out")) == 9
