"""Replaced files and folders: what a kill, another process or a full disk leaves behind."""

import errno
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forks import fork, status
from killed_calls import Replacing, contents, count_changes, hidden, kill_at

from latte import drafts
from latte.cli import explain, main
from latte.disk_errors import naming
from latte.files import read_lines, replacing, replacing_folder, writable, write_text
from latte.models.latte import Latte, LatteConfig
from latte.weights.load import load_model, save_model
from latte.weights.tensors import write_tensors


def write_folder(path, files, **options):
    with replacing_folder(path, **options) as draft:
        for name, text in files.items():
            write_text(draft / name, text)


def read_folder(path):
    return {str(file.relative_to(path)): file.read_text() for file in sorted(path.rglob("*")) if file.is_file()}


OLD, NEW = {"a/x": "1", "b.json": "1"}, {"a/x": "2", "c.json": "2"}
NOTES = {".git/head": "mine", "notes.txt": "mine"}


def test_a_folder_is_writable_if_it_can_be_created(tmp_path):
    (tmp_path / "file").touch()
    assert writable(tmp_path) and writable(tmp_path / "new" / "deep") and os.listdir(tmp_path) == ["file"]
    assert not any(map(writable, (tmp_path / "file" / "new", tmp_path / "new" / ("x" * 300), Path("/proc/new"))))


def test_files_kept_by_a_replaced_folder(tmp_path):
    path = tmp_path / "out"
    for options, expected in (
        ({}, {".git/head": "mine", **NEW}),
        ({"keep": True}, {**NOTES, **OLD, **NEW}),
        ({"into": True}, {**NOTES, **OLD, **NEW}),
    ):
        subprocess.run(["rm", "-rf", path], check=True)
        for name, text in {**OLD, **NOTES}.items():
            write_text(path / name, text)
        path.chmod(0o750)
        write_folder(path, NEW, **options)
        assert read_folder(path) == expected and path.stat().st_mode & 0o777 == 0o750
        assert list(tmp_path.iterdir()) == [path]


def test_the_working_directory_stays_the_same_folder(tmp_path, monkeypatch):
    """A shell working there must not end up in a deleted folder."""
    path = tmp_path / "out"
    write_folder(path, OLD)
    monkeypatch.chdir(path)
    before = path.stat().st_ino
    write_folder(Path("."), NEW)
    assert read_folder(path) == NEW and path.stat().st_ino == before and os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_is_written_in_place(tmp_path):
    (path := tmp_path / "out").mkdir()
    for options in (["-t", "tmpfs", "none"], ["--bind", str(tmp_path)]):
        subprocess.run(["mount", *options, path], check=True)
        try:
            (path / "out").mkdir(exist_ok=True)
            write_folder(path, OLD)
            write_folder(path, NEW)
            assert read_folder(path) == NEW and not hidden(path)
        finally:
            subprocess.run(["umount", path], check=True)


def test_a_folder_that_is_read_only_is_refused(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", OLD)
    monkeypatch.setattr("latte.files.os.access", lambda path, mode: Path(path) != tmp_path / "out")
    with pytest.raises(PermissionError) as caught:
        write_folder(tmp_path / "out", NEW)
    assert (
        explain(caught.value) == (2, f"{tmp_path / 'out'}: permission denied") and read_folder(tmp_path / "out") == OLD
    )


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_kill_at_any_change_leaves_one_complete(exchanges, tmp_path, monkeypatch):
    """Where names cannot be exchanged, none exists between two renames, and the next writer restores the old one."""
    if not exchanges:
        monkeypatch.setattr(drafts, "exchange", lambda one, other: False)
    folder, path = tmp_path / "work", tmp_path / "work/out"
    case = Replacing(folder, lambda: write_folder(path, OLD), lambda: write_folder(path, NEW), path)
    folder.mkdir()
    case.first()
    old, changes, absent = contents(path), count_changes(case, tmp_path / "log"), 0
    new = contents(path)
    for number in range(1, changes + 1):
        case.first()
        kill_at(case, number, tmp_path / "log")
        if not path.exists():
            absent += 1
            drafts.remove_abandoned(folder)
        assert contents(path) in (old, new)
    case.command()
    assert not hidden(folder) and absent == (0 if exchanges else 1) and changes > 10


def test_replacing_a_model_survives_any_kill(tiny, tmp_path):
    folder, path = tmp_path / "work", tmp_path / "work/out"
    other = Latte(LatteConfig(**{**vars(tiny.config), "num_heads": 4})).eval()
    case = Replacing(folder, lambda: save_model(tiny, path), lambda: save_model(other, path), path)
    folder.mkdir()
    case.first()
    for number in range(1, count_changes(case, tmp_path / "log") + 1, 4):
        case.first()
        kill_at(case, number, tmp_path / "log")
        assert load_model(path).config in (tiny.config, other.config)
    case.command()
    assert load_model(path).config == other.config and not hidden(folder)


def test_only_the_drafts_of_dead_processes_are_removed(tmp_path, monkeypatch):
    """Not those of live processes, nor new ones of another machine, whose processes cannot be seen from here."""
    dead = fork(lambda: None, tmp_path / "log")
    assert status(dead) == 0
    here, start = drafts.machine(), drafts.start_of(os.getpid())
    ours, reused = f".x.part{os.getpid()}-{here}-{start}.json", f".x.part{os.getpid()}-{here}-{start + 1}.json"
    elsewhere, abandoned = ".x.part1-00000000-5.json", ".y.part1-00000000-5.json"
    killed, not_ours = f".x.part{dead}-{here}-5.json", ".x.part7.json"
    for name in (ours, reused, elsewhere, abandoned, killed, not_ours):
        (tmp_path / name).write_text("half")
    (tmp_path / f".z.part{dead}-{here}-5/deep").mkdir(parents=True)
    day = time.time() - drafts.ABANDONED_SECONDS - 60
    os.utime(tmp_path / abandoned, (day, day))
    write_text(tmp_path / "other.json", "{}")
    expected = {"log", "other.json", ours, elsewhere, not_ours}
    assert set(os.listdir(tmp_path)) == expected


def test_names_of_the_maximum_length(tmp_path):
    path = tmp_path / ("x" * 250 + ".json")
    assert write_text(path, "{}").read_text() == "{}" and len(os.listdir(tmp_path)) == 1


def test_a_librarys_temporary_files_are_removed_with_the_draft(tmp_path):
    def work():
        with replacing(tmp_path / "x.bin", alone=True) as draft:
            (draft.parent / ".tmp123456").write_text("half")
            os._exit(9)

    assert status(fork(work, tmp_path / "log")) == 9 and len(hidden(tmp_path)) == 2
    write_tensors(tmp_path / "x.bin", {"a": torch.zeros(2)})
    assert {path.name for path in tmp_path.rglob("*")} == {"log", "x.bin"}


def test_errors_do_not_name_the_hidden_draft_folder(tmp_path, monkeypatch):
    def refused(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError) as caught:
        write_tensors(tmp_path / "x.bin", {"a": torch.zeros(2)})
    assert caught.value.filename == str(tmp_path / "x.bin")


TEXTS = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), errno.ENOSPC, "no space left on device"),
    (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), errno.EDQUOT, "no space left: the disk quota is used up"),
    (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), errno.EFBIG, "may not be this large"),
    (OSError(errno.EROFS, os.strerror(errno.EROFS)), errno.EROFS, "the file system is read-only"),
    (OSError(errno.EIO, os.strerror(errno.EIO)), errno.EIO, "the disk or the network drive failed"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), errno.ENOSPC, "no space left on device"),
    (RuntimeError("I/O error: Disk quota exceeded (os error 122)"), errno.EDQUOT, "the disk quota is used up"),
    (RuntimeError("write(): fd 7 failed with No space left on device"), errno.ENOSPC, "no space left on device"),
    (ValueError("x.mkv cannot be encoded: No space left on device"), errno.ENOSPC, "no space left on device"),
]


@pytest.mark.parametrize(("raised", "number", "say"), TEXTS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_failed_write_names_the_file_and_the_reason(raised, number, say, wrapped, tmp_path):
    path = tmp_path / "x.bin"
    path.write_text("old")
    with pytest.raises(OSError, match=say) as caught, replacing(path, 5 << 20) as draft:
        draft.write_text("half")
        try:
            raise raised
        except Exception as error:
            if wrapped:
                raise RuntimeError("unexpected pos 704 vs 598") from error
            raise
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    status, line = explain(caught.value)
    assert status == 2 and line.startswith(f"{path}: ") and say in line and ".part" not in line and "\n" not in line
    assert ("5.0 MiB are needed" in line) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.bin"]


def test_a_write_error_hidden_by_a_library_is_found_by_writing(tmp_path):
    text = "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"
    with pytest.raises(RuntimeError, match="inline_container"), replacing(tmp_path / "x") as draft:
        draft.write_text("half")
        raise RuntimeError(text)  # and the disk is not full
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(OSError, match="may not be this large") as caught, replacing(tmp_path / "x.pt") as draft:
            torch.save({"a": torch.zeros(5000)}, draft)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "x.pt") and not list(tmp_path.iterdir())


def test_errors_about_other_files_are_unchanged(tmp_path):
    with pytest.raises(PermissionError) as caught, naming(tmp_path / "x", tmp_path / ".x.part"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/video.mp4")
    assert caught.value.filename == "/elsewhere/video.mp4"
    assert explain(caught.value) == (2, "/elsewhere/video.mp4: permission denied")
    with pytest.raises(ValueError, match="not a video"), replacing(tmp_path / "x"):
        raise ValueError("not a video")


def test_a_full_standard_output_is_reported(monkeypatch, capsys):
    """/dev/full behaves like a full disk."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["ablate", "--list"]) == 2
    assert capsys.readouterr().err == "latte ablate: error: standard output: no space left on device\n"


def test_convert_on_a_full_disk(tiny, tmp_path, capsys):
    source, target = save_model(tiny, tmp_path / "model"), save_model(tiny, tmp_path / "out")
    before = contents(target)

    def full(*_, **__):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("latte.weights.tensors.save_file", full)
        assert main(["convert", str(source), str(target), "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"latte convert: error: {target}/model.safetensors: no space left on device: 60.")
    assert error.count("\n") == 1 and contents(target) == before and not hidden(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_kept(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    said = "a file lies where a folder is to be written"
    with pytest.raises(NotADirectoryError, match=said), replacing_folder(notes):
        pass
    assert main(["convert", "shapes-t2v", str(notes)]) == 2
    assert notes.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_split_only_at_newlines(end, tmp_path):
    lines = ["a cat\u2028in the rain", "a\x85b", "a\x0cb\x1cc"]
    (tmp_path / "a.txt").write_bytes(f"\ufeff {end.join(lines)}{end}{end}".encode())
    assert read_lines(tmp_path / "a.txt") == lines
