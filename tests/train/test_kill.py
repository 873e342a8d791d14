"""A training run that is killed again and again is bit-identical to an unbroken one, and so is a distillation."""

import random
from dataclasses import replace

from forks import fork, kill_again_and_again
from small_runs import run, same, small, tensors

from latte.train import checkpoint


def test_a_repeatedly_killed_run_is_bit_exact(vae, tmp_path):
    """At least 4 times, once during a save; once the newest checkpoint is damaged, too.

    `make soak` does so a thousand times.
    """
    config = small(vae, "steps=100", "save_every=1", "log_every=10", "keep=3")
    run(replace(config, save_every=100), tmp_path / "whole")
    start = lambda: [fork(lambda: run(config, tmp_path / "killed"), tmp_path / "log")]
    counts = kill_again_and_again(start, tmp_path / "killed", 4, random.Random(0), 0.2, damages=1, in_saves=1)
    assert counts["in_save"] >= 1 and counts["damages"] >= 1
    whole, killed = (checkpoint.latest(tmp_path / name) for name in ("whole", "killed"))
    assert whole.name == killed.name == "step-0000100" and same(tensors(whole), tensors(killed))
    assert not list((tmp_path / "killed/checkpoints").glob(".*"))
    steps = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("whole", "killed")]
    assert steps == [10, 10]


def test_a_killed_distillation_is_bit_exact(vae, tmp_path):
    words = ["clips=4", "model.class_dropout_prob=0"]
    teacher = run(small(vae, "steps=1", *words), tmp_path / "teacher")
    config = small(vae, f"teacher={teacher}", f"init={teacher}", "steps=60", "save_every=1", "keep=2", *words)
    run(replace(config, save_every=60), tmp_path / "whole")
    start = lambda: [fork(lambda: run(config, tmp_path / "killed"), tmp_path / "log")]
    assert kill_again_and_again(start, tmp_path / "killed", 2, random.Random(1), 0.1)["kills"] == 2
    whole, killed = (tensors(checkpoint.latest(tmp_path / name)) for name in ("whole", "killed"))
    assert same(whole, killed)
