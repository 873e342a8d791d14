"""Training and sampling are killed, damaged and run out of disk space many times. Each test prints what happened."""

import os
import random
import subprocess
from contextlib import contextmanager

import pytest
import torch
from forks import fork, kill_again_and_again, kill_under_torchrun, kill_workers, start_together, together
from safetensors import SafetensorError
from small_runs import TINY, run, same, small, tensors
from soak_length import count

from latte import LattePipeline
from latte.models.latte import Latte, LatteConfig
from latte.sample_many import sample_many
from latte.train import checkpoint
from latte.train.objectives import OBJECTIVES
from latte.train.resolve import resolve
from latte.train.run import Run
from latte.weights.manifest import digest
from latte.weights.vae_folder import load_vae


def newest(folder):
    return tensors(checkpoint.latest(folder))


def test_a_thousand_kills_change_nothing(vae, tmp_path):
    config = small(vae, f"steps={count(4000)}", "save_every=1", "log_every=100", "keep=3")
    run(config, tmp_path / "whole")
    start = lambda: [fork(lambda: run(config, tmp_path / "killed"), tmp_path / "log")]
    counts = kill_again_and_again(
        start, tmp_path / "killed", count(1000), random.Random(1), 0.1, count(300), count(100)
    )
    print(counts)
    assert counts["in_save"] >= count(100) and counts["damages"] >= 0.9 * count(300)
    assert same(newest(tmp_path / "whole"), newest(tmp_path / "killed"))


@pytest.mark.parametrize("shard", ["false", "true"])
def test_killing_either_of_two_processes_changes_nothing(shard, vae, tmp_path):
    words = [f"steps={count(300)}", "save_every=2", "log_every=50", "micro_batch_size=2", f"shard={shard}"]
    config = small(vae, *words)
    together(2, lambda: run(config, tmp_path / "whole"), tmp_path / "log")
    start = lambda: start_together(2, lambda: run(config, tmp_path / "killed"), tmp_path / "log")
    counts = kill_again_and_again(start, tmp_path / "killed", count(50), random.Random(2), 0.2)
    print(counts)
    assert same(newest(tmp_path / "whole"), newest(tmp_path / "killed"))


@pytest.mark.parametrize("shard", ["false", "true"])
def test_kills_with_restarts_by_torchrun_change_nothing(shard, vae, tmp_path):
    words = [*TINY, f"vae={vae}", f"steps={count(600)}", "save_every=2", "log_every=50", "micro_batch_size=2"]
    words += [f"shard={shard}"]
    config = resolve("shapes", words)
    together(2, lambda: run(config, tmp_path / "whole"), tmp_path / "log")
    counts = kill_under_torchrun(
        ["--config", "shapes", *words], tmp_path / "killed", count(50), random.Random(5), tmp_path / "torchrun.log"
    )
    print(counts)
    assert same(newest(tmp_path / "whole"), newest(tmp_path / "killed"))


def test_killed_workers_complete_the_same_set(vae, tmp_path):
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4, num_classes=3)
    pipe, settings = LattePipeline(Latte(config), load_vae(vae)), {"num_inference_steps": 4, "batch_size": 2}
    make = lambda name, *ranks: sample_many(pipe, count(1000), tmp_path / name, [0, 1, 2], settings, None, 8, *ranks)
    make("whole")
    counts = kill_workers(
        lambda *ranks: make("killed", *ranks), tmp_path / "killed", count(60), random.Random(4), tmp_path / "log"
    )
    print(counts)
    assert digests(tmp_path / "whole") == digests(tmp_path / "killed")


def digests(folder):
    return {path.name: digest(path) for path in folder.iterdir()}


@contextmanager
def disk(folder, size):
    """Mount a disk of `size` bytes at `folder`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_during_a_save_keeps_the_last_checkpoint(tmp_path):
    tables = {name: {"weight": torch.randn(80_000)} for name in ("model", "ema", "optimizer")}
    save = lambda run, step: checkpoint.save(run, step, tables, {"state": {"step": step}}, 2)
    failed, page = 0, 4096
    whole = save(tmp_path / "measure", 1)
    size = sum(-(-path.stat().st_size // page) * page for path in whole.iterdir())
    sizes = range(size + 8 * page, 2 * size, max(page, size // count(200) // page * page))
    for number, room in enumerate(sizes):
        with disk(tmp_path / str(number), room) as folder:
            save(folder, 1)
            try:
                save(folder, 2)
            except (OSError, SafetensorError):
                failed += 1
                names = [path.name for path in (folder / "checkpoints").iterdir()]
                assert names == ["step-0000001"] and checkpoint.latest(folder) is not None
    print({"disks": len(sizes), "failed": failed})
    assert failed == len(sizes)


def test_random_nonfinite_steps_are_skipped(vae, tmp_path, monkeypatch):
    rng, steps = random.Random(3), count(400)
    bad = {step: rng.randrange(2) for step in rng.sample(range(steps), count(100))}
    loss = OBJECTIVES["latte"]

    class SometimesNotFinite(loss):
        def __call__(self, network, step, slots):
            value, terms = super().__call__(network, step, slots)
            return value * (torch.nan if bad.get(step) == int(os.environ["RANK"]) else 1), terms

    monkeypatch.setitem(OBJECTIVES, "latte", SometimesNotFinite)
    words = [f"steps={steps}", "micro_batch_size=2", "skip_limit=99", "save_every=100"]
    together(2, lambda: run(small(vae, *words), tmp_path / "skipped"), tmp_path / "log")
    assert checkpoint.read_state(checkpoint.latest(tmp_path / "skipped"))["health"]["skipped"] == sorted(bad)
    step = Run.step
    skip = lambda self, n: {"loss": 0.0, "grad_norm": 0.0} if n in bad else step(self, n)
    monkeypatch.setattr(Run, "step", skip)
    together(2, lambda: run(small(vae, *words), tmp_path / "oracle"), tmp_path / "log")
    assert same(newest(tmp_path / "skipped"), newest(tmp_path / "oracle"))
    print({"skipped": len(bad)})
