"""A training run that is killed again and again ends with the same bits as an unbroken one."""

import random
from dataclasses import replace

from forks import fork, kill_again_and_again
from small_runs import run, same, small, tensors

from latte.train import checkpoint


def test_killed_again_and_again(vae, tmp_path):
    """At least 6 times, of which 2 are during a save; twice the newest checkpoint is damaged too.

    `make soak` does so a thousand times.
    """
    config = small(vae, "steps=200", "save_every=1", "log_every=20", "keep=3")
    run(replace(config, save_every=200), tmp_path / "whole")
    start = lambda: [fork(lambda: run(config, tmp_path / "killed"), tmp_path / "log")]
    counts = kill_again_and_again(start, tmp_path / "killed", 6, random.Random(0), 0.2, damages=2, in_saves=2)
    assert counts["in_save"] >= 2 and counts["damages"] >= 2
    whole, killed = (checkpoint.latest(tmp_path / name) for name in ("whole", "killed"))
    assert whole.name == killed.name == "step-0000200" and same(tensors(whole), tensors(killed))
    assert not list((tmp_path / "killed/checkpoints").glob(".*"))
    steps = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("whole", "killed")]
    assert steps == [10, 10]
