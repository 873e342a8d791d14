"""Two commands that would write one folder at the same time: the second is told so, and touches nothing."""

import os
import signal
import time

import pytest
from forks import child_processes, fork, start_together, status
from small_runs import TINY, run, same, small, tensors

from latte.cli import main
from latte.folder_lock import exclusive
from latte.train import checkpoint
from latte.train.objectives import OBJECTIVES


@pytest.fixture
def slow(monkeypatch, tmp_path):
    """Training pauses in step 6 until the file "go" exists; the file "there" tells that it has come so far."""

    class Waiting(OBJECTIVES["latte"]):
        def __call__(self, network, step, slots):
            while step == 6 and not (tmp_path / "go").exists():
                (tmp_path / "there").touch()
                time.sleep(0.01)
            return super().__call__(network, step, slots)

    monkeypatch.setitem(OBJECTIVES, "latte", Waiting)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_runs_in_one_folder(vae, tmp_path, slow, capsys):
    config = small(vae)
    first = fork(lambda: run(config, tmp_path / "run"), tmp_path / "log")
    wait_for(tmp_path / "there")
    draft = tmp_path / "run/checkpoints/.step-0000010.part7-0123abcd-99"
    draft.mkdir()  # being written by the first run
    before = content(tmp_path / "run")
    assert (
        main(["train", "--config", "shapes", "--device", "cpu", *TINY, f"vae={vae}", "--run", str(tmp_path / "run")])
        == 2
    )
    assert f"run is in use by process {first} on" in capsys.readouterr().err
    assert content(tmp_path / "run") == before and draft.exists()
    assert main(["plot", str(tmp_path / "run"), "--out", str(tmp_path / "curves.png")]) == 0  # reading is allowed
    (tmp_path / "go").touch()
    assert status(first) == 0, (tmp_path / "log").read_text()[-2000:]
    run(config, tmp_path / "whole")
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("run", "whole")))
    assert not (tmp_path / "run/.lock").exists()


def test_the_ranks_of_a_run_share_the_lock_and_fail_together(vae, tmp_path):
    config = small(vae, "steps=1", "micro_batch_size=2")
    work = lambda: run(config, tmp_path / "run")
    with exclusive(tmp_path / "run"):
        assert [status(pid) for pid in start_together(2, work, tmp_path / "log")] == [1, 1]
        assert (tmp_path / "log").read_text().count(f"is in use by process {os.getpid()}") == 2
    assert [status(pid) for pid in start_together(2, work, tmp_path / "log2")] == [0, 0]


def test_a_killed_run_with_workers_leaves_its_folder_free(vae, videos, tmp_path):
    config = small(vae, f"data={videos}", "latents=step", "num_workers=2", "steps=100000", "save_every=2")
    pid = fork(lambda: run(config, tmp_path / "run"), tmp_path / "log")
    wait_for(tmp_path / "run/checkpoints/step-0000002")
    assert child_processes(pid)
    os.kill(pid, signal.SIGKILL)
    status(pid)
    with exclusive(tmp_path / "run"):
        pass


@pytest.mark.parametrize("command", ["encode", "prepare", "sample"])
def test_other_commands_lock_their_output_folder(command, vae, videos, tmp_path, capsys):
    out = tmp_path / "out"
    words = {
        "encode": ["--config", "folder", *TINY, f"vae={vae}", f"data={videos}", "--device", "cpu"],
        "prepare": ["folder", str(videos), "--num-frames", "4"],
        "sample": ["shapes", "--classes", "0", "--num-sampling-steps", "1", "--num-videos", "1", "--device", "cpu"],
    }[command]
    with exclusive(out, replaced=True):
        assert main([command, *words, "--out", str(out)]) == 2
        assert "out is in use: this process writes it already" in capsys.readouterr().err
    assert main([command, *words, "--out", str(out)]) == 0
    assert not list(tmp_path.glob(".*")) and not (out / ".lock").exists()
