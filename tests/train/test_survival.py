"""Non-finite values, a full disk, signals and damaged files: what ends a run and what does not."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import time
from contextlib import contextmanager, nullcontext

import pytest
import torch
from forks import fork, status
from safetensors import SafetensorError
from small_runs import run, same, small, tensors

from latte.train import checkpoint
from latte.train.metrics import MetricsWriter, remove_lines_after
from latte.train.objectives import OBJECTIVES
from latte.train.run import Run
from latte.train.step import GROWTH_INTERVAL, StepHistory


@pytest.fixture
def meddle(monkeypatch):
    """meddle(f) multiplies the loss of each step by f(step)."""

    def install(factor):
        class Meddled(Denoising):
            def __call__(self, network, step, slots):
                loss, terms = super().__call__(network, step, slots)
                return loss * factor(step), terms

        monkeypatch.setitem(OBJECTIVES, "latte", Meddled)

    Denoising = OBJECTIVES["latte"]
    return install


def newest(folder):
    return checkpoint.latest(folder)


def test_steps_that_are_not_finite_change_nothing(vae, tmp_path, meddle, monkeypatch):
    bad = (0, 3, 4, 8)
    meddle(lambda step: torch.nan if step in bad else 1)
    run(small(vae, "skip_limit=4"), tmp_path / "skipped")
    state = checkpoint.read_state(newest(tmp_path / "skipped"))
    assert state["health"]["skipped"] == list(bad)
    lines = [json.loads(line) for line in (tmp_path / "skipped/metrics.jsonl").read_text().splitlines()]
    assert [line.get("skipped", 0) for line in lines] == [1, 1, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4]
    meddle(lambda step: 1)
    step = Run.step
    monkeypatch.setattr(Run, "step", lambda self, n: {"loss": 0.0, "grad_norm": 0.0} if n in bad else step(self, n))
    run(small(vae, "skip_limit=4"), tmp_path / "oracle")
    assert same(*(tensors(newest(tmp_path / name)) for name in ("skipped", "oracle")))


def test_too_many_nonfinite_steps_end_the_run(vae, tmp_path, meddle):
    meddle(lambda step: torch.inf if step > 5 else 1)
    with pytest.raises(ValueError, match="of 3 steps, up to step 8, were not finite"):
        run(small(vae, "skip_limit=3"), tmp_path / "run")
    meddle(lambda step: 1)
    run(small(vae, "skip_limit=3"), tmp_path / "run")
    run(small(vae), tmp_path / "whole")
    assert same(*(tensors(newest(tmp_path / name)) for name in ("run", "whole")))


def test_a_nonfinite_step_every_other_time_ends_the_run(vae, tmp_path, meddle):
    meddle(lambda step: torch.nan if step % 2 else 1)
    with pytest.raises(ValueError, match="of 3 steps, up to step 5, were not finite"):
        run(small(vae, "skip_limit=3"), tmp_path / "run")
    meddle(lambda step: torch.nan if step % 5 == 4 else 1)
    run(small(vae, "skip_limit=3"), tmp_path / "seldom")


def test_a_run_stopped_before_its_first_finite_step_resumes_bit_exactly(vae, tmp_path, meddle):
    words = ["skip_limit=9", "save_every=2", "keep=9"]
    meddle(lambda step: torch.nan if step < 3 else 1)
    run(small(vae, *words), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for folder in checkpoint.list_checkpoints(tmp_path / "cut")[1:]:
        shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "cut/final")
    (tmp_path / "cut/checkpoints/step-0000009.bak").mkdir()
    run(small(vae, *words), tmp_path / "cut")
    assert same(*(tensors(newest(tmp_path / name)) for name in ("whole", "cut")))


def test_the_scale_of_a_loss_in_half_precision():
    health = StepHistory(scale=8.0)
    health.step_skipped(0, fp16=True, limit=2)
    assert (health.scale, health.skipped) == (4.0, [0])
    for _ in range(GROWTH_INTERVAL):
        health.step_taken(fp16=True)
    assert (health.scale, health.good) == (8.0, 0)
    health.step_skipped(1, fp16=False, limit=9)
    assert health.scale == 8.0
    with pytest.raises(ValueError, match="of 2 steps, up to step 1,"):
        StepHistory(skipped=[0]).step_skipped(1, fp16=False, limit=2)


@pytest.mark.parametrize(
    ("skipped", "too_many"), [((0, 3, 5), True), ((0, 3, 6), False), ((0, 1, 9, 10), False), ((0, 1, 9, 10, 11), True)]
)
def test_the_limit_on_skipped_steps(skipped, too_many):
    """Three of six steps, however many were skipped before."""
    history, words = StepHistory(), {"fp16": False, "limit": 3}
    for step in skipped[:-1]:
        history.step_skipped(step, **words)
    with pytest.raises(ValueError, match=f"of 3 steps, up to step {skipped[-1]}") if too_many else nullcontext():
        history.step_skipped(skipped[-1], **words)
    assert history.skipped == list(skipped)


def test_half_precision_overflows_and_recovers(vae, tmp_path, meddle):
    """With a large loss scale, gradients overflow until it has come down. A new last layer gives none at first."""
    run(small(vae, "precision=fp16"), tmp_path / "plain")
    meddle(lambda step: 2.0**40)
    run(small(vae, "precision=fp16", "skip_limit=99", "steps=40"), tmp_path / "scaled")
    health = checkpoint.read_state(newest(tmp_path / "scaled"))["health"]
    assert health["scale"] < 1e-3 and health["skipped"][:20] == list(range(1, 21)) and len(health["skipped"]) < 39
    assert checkpoint.read_state(newest(tmp_path / "plain"))["health"]["scale"] == 2.0**14


def test_a_signal_saves(vae, tmp_path, meddle):
    meddle(lambda step: os.kill(os.getpid(), signal.SIGUSR1) or 1 if step == 6 else 1)
    run(small(vae, "keep=9"), tmp_path)
    assert [checkpoint.step_of(folder) for folder in checkpoint.list_checkpoints(tmp_path)] == [5, 7, 10, 12]


def test_a_signal_stops_at_the_next_step_and_saves(vae, tmp_path, meddle):
    meddle(lambda step: os.kill(os.getpid(), signal.SIGTERM) or 1 if step == 6 else 1)
    with pytest.raises(KeyboardInterrupt):
        run(small(vae, "keep=9"), tmp_path)
    assert [checkpoint.step_of(folder) for folder in checkpoint.list_checkpoints(tmp_path)] == [5, 7]


def test_an_error_at_the_start_leaves_no_signal_handlers(vae, tmp_path, monkeypatch):
    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in watched]
    monkeypatch.setattr("latte.train.loop.Progress", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(small(vae), tmp_path)
    assert [signal.getsignal(number) for number in watched] == before


def test_a_signal_to_the_process_group_spares_the_workers(vae, tmp_path):
    """A terminal sends Ctrl-C to the data workers, too, as torchrun does with SIGTERM."""
    config = small(vae, "latents=step", "num_workers=2", "steps=100000", "save_every=100000")

    def work():
        os.setsid()
        run(config, tmp_path / "run")

    for number in (signal.SIGTERM, signal.SIGINT):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        child, deadline = fork(work, tmp_path / "log"), time.monotonic() + 60
        while not (tmp_path / "run/metrics.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(child, number)
        assert status(child) == 130, (tmp_path / "log").read_text()[-2000:]
        assert len(checkpoint.list_checkpoints(tmp_path / "run")) == 1


def test_some_checkpoints_stay_for_good(vae, tmp_path):
    run(small(vae, "save_every=1", "keep=2", "keep_every=4"), tmp_path)
    assert [checkpoint.step_of(folder) for folder in checkpoint.list_checkpoints(tmp_path)] == [4, 8, 11, 12]


@contextmanager
def files_at_most(size):
    """Limit the size of files: writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_fails_leaves_everything_as_it_was(tmp_path):
    tables = {"model": {"a": torch.arange(3000.0)}, "ema": {"a": torch.arange(9000.0)}}
    checkpoint.save(tmp_path, 1, tables, {"state": {"step": 1}}, 2)
    for size in random.Random(0).sample(range(37_000), 20):
        with files_at_most(size), pytest.raises((OSError, SafetensorError)):
            checkpoint.save(tmp_path, 2, tables, {"state": {"step": 2}}, 1)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000001"]
        assert checkpoint.latest(tmp_path) == checkpoint.list_checkpoints(tmp_path)[0]
    checkpoint.save(tmp_path, 2, tables, {"state": {"step": 2}}, 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000002"]


def test_a_full_disk_costs_a_save_and_not_the_run(vae, tmp_path, monkeypatch):
    full, save = {5}, checkpoint.save

    def saving(run, step, *rest):
        if step in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(run, step, *rest)

    monkeypatch.setattr(checkpoint, "save", saving)
    with pytest.warns(UserWarning, match="step 5 is not saved, training continues: .*No space left"):
        run(small(vae), tmp_path / "full")
    full = set()
    run(small(vae), tmp_path / "whole")
    assert same(*(tensors(newest(tmp_path / name)) for name in ("full", "whole")))
    full = {12}
    with pytest.raises(
        OSError, match=r"the last step, 12, could not be saved: .*free some space, then run the same command"
    ):
        run(small(vae), tmp_path / "last")
    full = {1, 2, 3}
    with pytest.warns(UserWarning), pytest.raises(OSError, match="3 checkpoints in a row could not be saved"):
        run(small(vae, "save_every=1"), tmp_path / "always")
    full = set()
    run(small(vae), tmp_path / "last")
    assert same(*(tensors(newest(tmp_path / name)) for name in ("last", "whole")))


def test_lines_that_do_not_fit_on_the_disk_are_written_later(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write({"step": 1})
        with files_at_most(16), pytest.warns(UserWarning, match="cannot write, will retry with the next line"):
            metrics.write({"step": 2})
        assert path.read_text() == '{"step": 1}\n'
        metrics.write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    remove_lines_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_run_with_only_damaged_checkpoints_is_rejected(vae, tmp_path):
    run(small(vae), tmp_path)
    shutil.rmtree(tmp_path / "final")
    for folder in checkpoint.list_checkpoints(tmp_path):
        (folder / "model.safetensors").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="renamed to damaged-"),
        pytest.raises(ValueError, match="all checkpoints are damaged"),
    ):
        run(small(vae), tmp_path)
    with pytest.raises(ValueError, match="all checkpoints are damaged"):
        run(small(vae), tmp_path)
