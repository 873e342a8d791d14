"""Checkpoints on their own, without training: what is kept, what is found, and how damage is reported."""

import os
from pathlib import Path

import pytest
import torch

from latte.train import checkpoint

TABLES = {"model": {"a": torch.arange(3.0)}, "ema": {"a": torch.ones(2)}}


def save(run, *steps, **rule):
    for step in steps:
        checkpoint.save(run, step, TABLES, {"state": {"step": step}}, **{"keep": 9, **rule})
    return [checkpoint.step_of(folder) for folder in checkpoint.list_checkpoints(run)]


def test_saved_data_is_read_back(tmp_path):
    assert checkpoint.list_checkpoints(tmp_path) == [] and checkpoint.latest(tmp_path) is None
    assert save(tmp_path, 9, 12_345_678) == [9, 12_345_678]
    folder = checkpoint.latest(tmp_path)
    assert folder == tmp_path / "checkpoints/step-12345678" and checkpoint.read_state(folder) == {"step": 12_345_678}
    for name, table in TABLES.items():
        assert torch.equal(checkpoint.load_tensors(folder, name)["a"], table["a"])
    assert {path.name for path in folder.iterdir()} == {*checkpoint.NEEDED, checkpoint.MANIFEST}
    assert checkpoint.list_checkpoints(tmp_path)[0].name == "step-0000009"


def test_retention_of_old_checkpoints(tmp_path):
    assert save(tmp_path / "few", 1, 2, 3, 4, 5, keep=2) == [4, 5]
    assert save(tmp_path / "some", *range(1, 10), keep=2, keep_every=3) == [3, 6, 8, 9]
    assert not [path for path in (tmp_path / "some/checkpoints").iterdir() if path.name[0] == "."]


def test_no_file_stays_open(tmp_path):
    lowest = lambda: os.dup(0)
    handle = lowest()
    os.close(handle)
    save(tmp_path, 1, 2, keep=1)
    again = lowest()
    os.close(again)
    assert again == handle


def test_everything_is_flushed_to_disk_before_the_rename(tmp_path, monkeypatch):
    flushed, replace = [], os.replace

    def renamed(old, new):
        if Path(new).name.startswith("step-"):
            assert {path.stat().st_ino for path in (old, *old.iterdir())} <= set(flushed)
            flushed.clear()
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(os, "replace", renamed)
    save(tmp_path, 1)
    assert flushed == [(tmp_path / "checkpoints").stat().st_ino]


def test_remains_of_a_crash_are_removed(tmp_path):
    for name in (".draft-0000001", ".old-step-0000000"):
        (tmp_path / "checkpoints" / name / "deep").mkdir(parents=True)
    assert save(tmp_path, 1) == [1] and os.listdir(tmp_path / "checkpoints") == ["step-0000001"]


def test_the_newest_valid_checkpoint_is_found(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    folders = checkpoint.list_checkpoints(tmp_path)
    (folders[3] / "manifest.json").unlink()
    (folders[2] / "ema.safetensors").unlink()
    for name in ("step-old", "notes", "step-", "0000007"):
        (tmp_path / "checkpoints" / name).mkdir()
    with pytest.warns(UserWarning, match=r"step-\d+: .*trying the one before it") as said:
        assert checkpoint.latest(tmp_path) == folders[1]
    assert len(said) == 2 and "manifest.json is missing" in str(said[0].message)
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left >= {"damaged-step-0000004", "damaged-step-0000003", "step-0000002", "step-old", "0000007"}
    for folder in folders[:2]:
        (folder / "state.json").write_text("{}")
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"all checkpoints are damaged \(damaged-step-0000004"),
    ):
        checkpoint.latest(tmp_path)


def test_no_checkpoint_is_promised_before_the_first(tmp_path):
    save(tmp_path, 1, 2)
    for folder in checkpoint.list_checkpoints(tmp_path):
        (folder / "ema.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning) as said, pytest.raises(ValueError, match="all checkpoints are damaged"):
        checkpoint.latest(tmp_path)
    ends = [str(one.message).rpartition("; ")[2] for one in said]
    assert ends == ["trying the one before it", "renamed to damaged-step-0000001"]


def test_a_damaged_checkpoint_without_another_is_the_only_one(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "checkpoints/step-0000003/ema.safetensors").write_bytes(b"")
    wanted = r"the only checkpoint is damaged \(damaged-step-0000003\)"
    with pytest.warns(UserWarning, match="renamed to damaged-step-0000003$"), pytest.raises(ValueError, match=wanted):
        checkpoint.latest(tmp_path)


def test_a_checkpoints_path_that_is_not_a_folder_is_an_error(tmp_path):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ValueError, match=r"a link to .*unmounted, which is not a folder"):
        checkpoint.latest(tmp_path)
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ValueError, match="is not a folder: put the checkpoints back"):
        checkpoint.latest(tmp_path)


def test_a_file_in_the_place_of_a_checkpoint_is_kept(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-0000001").write_text("mine")
    assert save(tmp_path, 1) == [1]
    assert [path.read_text() for path in (tmp_path / "checkpoints").iterdir() if path.is_file()] == ["mine"]


def test_a_save_that_fails_changes_nothing(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)
    monkeypatch.setattr(checkpoint, "write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, 3, keep=1)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-0000001", "step-0000002"]
