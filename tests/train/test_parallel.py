"""Training in several processes matches one process, and any number of processes can resume its checkpoints."""

import json
import os
import subprocess
import sys

import pytest
import torch
from forks import together
from safetensors.torch import load_file
from small_runs import TINY, TINY_FEATURES, TINY_VAE, run, same, small, small_t2v, tensors
from torch.distributed.tensor import DTensor

from latte.processes import Ranks, local_device, processes
from latte.train import checkpoint
from latte.train.objectives import OBJECTIVES
from latte.train.parallel import FixedPointGradients, Gradients, micro_batches
from latte.train.resolve import resolve
from latte.train.run import Run
from latte.train.step import StepHistory, optimizer_step


def trained(config, folder, size):
    """Train in `size` processes, and return the tensors of the newest checkpoint."""
    together(size, lambda: run(config, folder), folder.with_suffix(".log"))
    return tensors(checkpoint.latest(folder))


def far(a, b):
    """The largest difference between tensors of the same name."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def alone(config, folder):
    run(config, folder)
    return tensors(checkpoint.latest(folder))


def test_torchrun_is_bit_identical_to_one_process(vae, tmp_path):
    words = [
        "train",
        "--config",
        "shapes",
        "--device",
        "cpu",
        *TINY,
        f"vae={vae}",
        "micro_batch_size=2",
        "--run-dir",
        str(tmp_path / "two"),
    ]
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, "-m", "latte", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.count
    assert said("in each of 2 processes") == said("2 CPU processes") == said("trained for 12 steps") == 1
    expected = alone(small(vae, "micro_batch_size=2"), tmp_path / "one")
    assert same(tensors(checkpoint.latest(tmp_path / "two")), expected)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    for one, two in zip(*(map(json.loads, each) for each in lines), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-6) and one["step"] == two["step"]
    finals = [load_file(tmp_path / name / "final/model.safetensors") for name in ("one", "two")]
    assert same(*finals)


@pytest.mark.parametrize("kind", ["latte", "t2v", "vae", "features"])
def test_replicas_learn_the_same_as_one_process(kind, vae, tmp_path):
    changes = ["steps=5", "micro_batch_size=2"]
    config = {
        "latte": lambda: small(vae, *changes, "num_images=1"),
        "t2v": lambda: small_t2v(vae, *changes),
        "vae": lambda: resolve("shapes-vae", [*TINY_VAE, *changes, "precision=fp32"]),
        "features": lambda: resolve("shapes-features", [*TINY_FEATURES, *changes]),
    }[kind]()
    assert same(trained(config, tmp_path / "two", 2), alone(config, tmp_path / "one"))


def test_gradients_are_finished_after_the_last_micro_batch(vae):
    """Replicas average their gradients after the last micro-batch, and sums are completed after it."""
    network, calls = torch.nn.Linear(1, 1), []

    class Recorded(Gradients):
        def accumulate(self, step, slots, share, last):
            calls.append((step, list(slots), share, last))
            loss = (network(torch.ones(1, 1)) * len(calls)).mean()
            (share * loss).backward()
            return loss, {"mse": loss.detach() + 1}

        def finish(self):
            calls.append("finish")

    config = small(vae, "global_batch_size=8", "micro_batch_size=2", "precision=fp32", "clip_grad=100.0")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    history = StepHistory(scale=4.0)
    logged = optimizer_step(config, Recorded(), optimizer, 1, Ranks(), history)
    batches = [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert calls == [*((1, slots, 0.25 * 4, slots == [6, 7]) for slots in batches), "finish"]
    assert logged["grad_norm"] == pytest.approx(2.5 * 2**0.5)  # of weight and bias, each the mean of 1, 2, 3, 4
    assert logged["mse"] - 1 == pytest.approx(logged["loss"], abs=1e-6)
    assert logged["learning_rate"] == optimizer.param_groups[0]["lr"] == config.learning_rate and history.skipped == []


@pytest.mark.parametrize("images", [0, 1])
@pytest.mark.parametrize("kind", ["latte", "t2v"])
def test_sharded_training_learns_the_same_as_one_process(kind, images, vae, tmp_path, monkeypatch):
    make = small if kind == "latte" else small_t2v
    words = ["steps=5", "micro_batch_size=2", *(["num_images=1", "gradient_checkpointing=true"] if images else [])]
    config = make(vae, *words, "shard=true")
    expected = alone(make(vae, *words), tmp_path / "one")
    step = Run.step

    def of_parts(self, number):
        parts = [p for network in (self.network, self.ema) for p in network.parameters()]
        assert all(isinstance(p, DTensor) for p in parts)
        assert sum(p.to_local().numel() for p in parts) < 0.6 * sum(p.numel() for p in parts)
        return step(self, number)

    monkeypatch.setattr(Run, "step", of_parts)
    assert far(trained(config, tmp_path / "two", 2), expected) < 1e-5


def test_a_checkpoint_resumes_on_any_number_of_processes(vae, tmp_path):
    """One process, two and four sharded ones, and two replicas: each resumes from the checkpoint of the one before."""
    words = ["micro_batch_size=1", "global_batch_size=4", "schedule=constant"]
    expected = alone(small(vae, *words, "steps=8"), tmp_path / "whole")
    for steps, size, shard in ((2, 1, False), (4, 2, True), (6, 4, True), (8, 2, False)):
        trained(small(vae, *words, f"steps={steps}", f"shard={str(shard).lower()}"), tmp_path / "changing", size)
    assert far(tensors(checkpoint.latest(tmp_path / "changing")), expected) < 1e-5


def test_deterministic_sums_are_bit_exact_on_any_number_of_processes(vae, tmp_path):
    words = ["micro_batch_size=1", "global_batch_size=12", "deterministic_reduce=true"]
    config = small(vae, *words, "steps=4")
    expected = alone(config, tmp_path / "1")
    plain = alone(small(vae, *words[:2], "steps=4"), tmp_path / "plain")
    assert not same(plain, expected) and far(plain, expected) < 1e-5
    for size in (2, 3):
        assert same(trained(config, tmp_path / str(size), size), expected)
    for steps, size in ((1, 3), (2, 1), (4, 4)):
        trained(small(vae, *words, f"steps={steps}", "schedule=constant"), tmp_path / "changing", size)
    whole = alone(small(vae, *words, "steps=4", "schedule=constant"), tmp_path / "constant")
    assert same(tensors(checkpoint.latest(tmp_path / "changing")), whole)


@pytest.mark.parametrize(
    ("slopes", "total"),
    [([1e6, 1e6, 1e6], 3e6), ([3e6, 3e6, 3e6], None), ([-3e6, 3e6], None), ([1.0, float("nan")], None), ([5e6], None)],
)
def test_overflowing_fixed_point_gradients_are_nan(slopes, total):
    class Slope(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def forward(self, step, slots):
            return slopes[slots.start] * self.weight.sum(), {}

    loss = Slope()
    gradients = FixedPointGradients(loss, Ranks())
    for again in range(2):
        for i in range(len(slopes)):
            gradients.accumulate(0, range(i, i + 1), 1.0, i == len(slopes) - 1)
        gradients.finish()
        assert loss.weight.grad.tolist() == [total] * 2 if total else loss.weight.grad.isnan().all(), again


@pytest.mark.parametrize("words", [[], ["deterministic_reduce=true"]])
def test_a_nonfinite_step_on_one_process_is_skipped_on_all(words, vae, tmp_path, monkeypatch):
    class Spoilt(OBJECTIVES["latte"]):
        def __call__(self, network, step, slots):
            loss, terms = super().__call__(network, step, slots)
            return loss * (torch.nan if step in (1, 3) and os.environ.get("RANK") == "1" else 1), terms

    monkeypatch.setitem(OBJECTIVES, "latte", Spoilt)
    config = small(vae, "micro_batch_size=2", "steps=6", *words)
    skipped = trained(config, tmp_path / "two", 2)
    assert checkpoint.read_state(checkpoint.latest(tmp_path / "two"))["health"]["skipped"] == [1, 3]
    assert all(tensor.isfinite().all() for tensor in skipped.values())


def test_each_process_has_its_own_device(monkeypatch):
    assert local_device("cuda") == "cuda" and local_device("cpu") == "cpu"
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="LOCAL_RANK is not"):
        local_device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("cuda") == "cuda:1" and local_device("cuda:0") == "cuda:0" and local_device("cpu") == "cpu"


def test_an_evaluation_that_cannot_be_set_up_is_an_error_in_every_process(vae, tmp_path):
    config = small(vae, "eval_every=1", f"eval_real={tmp_path / 'no'}")

    def refused():
        with processes(torch.device("cpu")), pytest.raises(FileNotFoundError, match="no folder of videos"):
            run(config, tmp_path / "run")

    together(2, refused, tmp_path / "log")


def test_batches_that_cannot_be_split_are_refused(vae, tmp_path):
    assert micro_batches(small(vae, "global_batch_size=12", "micro_batch_size=2"), Ranks(1, 3)) == [
        range(2, 4),
        range(8, 10),
    ]
    assert micro_batches(small(vae, "global_batch_size=4"), Ranks(1, 2)) == [range(2, 4)]
    for size, micro in ((3, 1), (3, 0), (8, 1)):
        with pytest.raises(ValueError, match="cannot be split over"):
            micro_batches(small(vae, "global_batch_size=4", f"micro_batch_size={micro}"), Ranks(0, size))
    with pytest.raises(ValueError, match="start them with torchrun"):
        run(small(vae, "shard=true"), tmp_path / "run")
    with pytest.raises(ValueError, match="deterministic_reduce does nothing with shard=True"):
        small(vae, "shard=true", "deterministic_reduce=true")
