"""Typical mistakes with `latte prepare` give a one-line error each, and nothing is written."""

import re
from pathlib import Path

import pytest
from tiny_data_sets import TAKEN, put, put_frames, put_ucf101

from latte.cli import main
from latte.train.data import prepare_videos


def mistakes(root):
    """Pairs of a command line and a pattern for its error message."""
    put(root / "flat/a.mp4")
    put(root / "splits/sky_train/a.mp4")
    put_frames(root / "frames/train/clip", range(8))
    put_frames(root / "frames/test/clip", range(8))
    put(root / "splits/sky_test/b.mp4")
    put(root / "mkv/a.mkv")
    (root / "empty").mkdir()
    (root / "packed").mkdir()
    (root / "packed/UCF101.rar").touch()
    (root / "clips.zip").touch()
    return [
        ("ucf101 data", "is too high: the class folders are in .*UCF-101.*; give the folder that holds them"),
        ("ucf101 data/UCF-101/Archery", "holds videos directly.*: give .*UCF-101, or use the kind ffs or folder"),
        ("ucf101 flat", "holds videos directly"),
        (
            "ucf101 frames",
            "no avi or mp4 files; it holds 2 folders of frames, which `latte prepare` sky, taichi or folder can read",
        ),
        ("ffs mkv", "no avi or mp4 files; it holds 1 video files, which `latte prepare folder` can read"),
        ("ffs splits", "holds several splits, .*sky_test, .*sky_train: give one of them"),
        ("sky frames", "holds several splits, .*test, .*train: give one of them"),
        ("sky frames/train/clip", "holds pictures, so it is a single clip"),
        ("taichi flat", "no folders of frames; it holds 1 video files"),
        ("folder empty", "holds no videos; it holds nothing"),
        ("ucf101 packed", "it holds 1 .rar files"),
        ("ffs clips.zip", "clips.zip is a file: unpack it"),
        ("ffs nowhere", "no folder at .*nowhere"),
        ("ffs", "ffs needs a source"),
        ("shapes flat", "leave out the source"),
        ("shapes --clips 0", "clips is 0; it must be 1 or more"),
        ("ffs flat --clips 3", "clips is for shapes, not for ffs: leave it out"),
        ("ffs flat --split list.txt", "split is for ucf101, not for ffs"),
        ("ucf101 data/UCF-101 --split nowhere.txt", "there is no file nowhere.txt"),
        ("ucf101 data/UCF-101 --split clip.bin", "clip.bin is not a text in UTF-8"),
        ("sky frames --frame-list", "frame_list is for ffs, ucf101, folder and 1 more, not for sky"),
        ("ffs flat --frame-list --quick", "frame_list decodes every frame: leave out quick"),
        ("ffs flat --frame-list 0", "frame_list is 0; it must be"),
        ("ffs flat --num-frames 0", "num_frames is 0"),
        ("ffs flat --out flat/out", "overlap"),
        ("ffs flat --out .", "overlap"),
        ("ffs flat --out clips.zip", "was not written by `latte prepare`"),
        ("ffs flat --out clips.zip/out", "cannot be written"),
        ("ffs flat --out mkv", "was not written by `latte prepare`"),
    ]


def test_typical_mistakes_give_one_line_errors(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_ucf101(tmp_path / "data/UCF-101")
    (tmp_path / "clip.bin").write_bytes(b"\xff\xfe")
    expected = mistakes(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for words, message in expected:
        words = words.split() if "--out" in words else [*words.split(), "--out", "out"]
        assert main(["prepare", *words, *TAKEN[: 0 if "--num-frames" in words else 4]]) == 2, words
        line = capsys.readouterr().err.splitlines()[-1]
        assert re.search(f"error: .*{message}", line), (words, line)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "option"), [("ffs", {"clips": 3}), ("ffs", {"split": Path("x")}), ("sky", {"frame_list": 8})]
)
def test_options_of_other_kinds_are_refused(kind, option, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is for .*, not for {kind}"):
        prepare_videos.prepare_data_set(kind, tmp_path, tmp_path / "out", prepare_videos.ClipRule(), **option)
