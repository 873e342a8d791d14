"""Folders that are splits are distinguished from folders that are classes."""

import shutil
import warnings
from pathlib import Path

import pytest
from small_runs import small

from latte.cli import main
from latte.shapes.draw import make_clip
from latte.train.data.folders import open_clips
from latte.train.data.splits import reject_splits, split_names, warn_of_hidden_classes
from latte.video.write import write_video

ROOT = Path("data")


def check(*folders, classes=True):
    reject_splits(ROOT, [ROOT / folder / "clip.mp4" for folder in folders], classes)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("train val test", 3),
        ("Training Validation Testing", 3),
        ("train valid", 2),
        ("train dev eval", 3),
        ("train_256 val_256", 2),
        ("kinetics400_train kinetics400_val", 2),
        ("k600-test k600-train replacement", 2),
        ("trainset testset", 2),
        ("train2017 val2017 annotations", 2),
        ("videos_train videos_val", 2),
        ("training_data test_data", 2),
        ("training-set held-out", 2),
        ("trainA trainB testA testB", 4),
        ("Train_Videos TestVideos", 2),
        ("Train car bus", 0),
        ("train test_tube", 0),
        ("training_dog testing_car", 0),
        ("train_left train_right", 0),
        ("test1 test2", 0),
        ("pretrain testify contest", 0),
        ("valid invalid", 0),
        ("medieval strain", 0),
    ],
)
def test_names_of_splits(names, splits):
    assert len(split_names(names.split())) == splits


def test_splits_are_refused_at_any_depth():
    for folders in (
        ["train/cats", "train/dogs", "val/cats"],
        ["train", "test"],
        ["videos/train", "videos/val"],
        ["cats/train", "cats/test", "dogs/train"],
        ["train", "val", "test", "unlabelled"],
        ["train/cats", "val/cats", "extra"],
    ):
        with pytest.raises(ValueError, match=r"holds several splits, data/.*: give one of them"):
            check(*folders)


def test_splits_within_classes_are_rejected():
    with pytest.raises(ValueError, match=r"data/cats holds several .*: give one of them, or if each class has its spl"):
        check("cats/train", "cats/test", "dogs/train")
    check("cats/train", "dogs/train")


def test_a_single_split_that_hides_its_classes_gives_a_warning():
    alone = lambda *folders: warn_of_hidden_classes(ROOT, [ROOT / folder / "clip.mp4" for folder in folders])
    with pytest.warns(UserWarning, match="in val, so .* cats, dogs, are not classes; if they should be, give data/val"):
        alone("val/cats", "val/dogs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folders in (["val"], ["val/cats"], ["val/cats", "val/dogs", "other"], ["val/cats", "val/dogs", ""]):
            alone(*folders)


def test_classes_that_are_named_like_a_split_stay_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check("train", "bus", "car")
        check("test/a", "test/b")
        check("test", "quiz")
    with pytest.warns(UserWarning, match=r"several splits, data/test, data/train; they are taken for classes"):
        check("train", "test", "bus")
    with pytest.raises(ValueError, match="several splits"):
        check("train", "test", "bus", classes=False)


def test_prepare_and_training_ask_for_one_split(vae, tmp_path, capsys):
    for name in ("train/cats", "train/dogs", "val/cats", "val/dogs"):
        write_video(make_clip(2, 0, frames=8, size=24).video, tmp_path / "data" / name / "x.mkv")
    words = ["--out", str(tmp_path / "out"), "--num-frames", "4", "--frame-interval", "1"]
    for kind in ("folder", "ffs", "ucf101"):
        write_video(make_clip(2, 0, frames=8, size=24).video, tmp_path / "data/train/cats/y.mp4")
        write_video(make_clip(2, 0, frames=8, size=24).video, tmp_path / "data/val/cats/y.mp4")
        assert main(["prepare", kind, str(tmp_path / "data"), *words]) == 2
        assert "holds several splits" in capsys.readouterr().err
    for changes in ([], ["classes=false"]):
        with pytest.raises(ValueError, match="holds several splits"):
            open_clips(small(vae, f"data={tmp_path / 'data'}", *changes))
    assert open_clips(small(vae, f"data={tmp_path / 'data/train'}")).names == ["cats", "dogs"]
    shutil.rmtree(tmp_path / "data/val")
    with pytest.warns(UserWarning, match=r"cats, dogs, are not classes; if they should be, give .*/data/train"):
        assert open_clips(small(vae, f"data={tmp_path / 'data'}")).names == []
