"""The estimated memory and time of a training run against a real run on this CPU."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_runs import TINY_VAE, small, small_t2v

from latte.cli import main
from latte.commands import bench_memory
from latte.commands.info import count_cost
from latte.eval.bench.resources import LiveTensors
from latte.eval.bench.step_time import step_time
from latte.eval.bench.training_need import CPU, Data, kept_bytes, objective_of, planned_step, training_need
from latte.models.latte_config import LatteConfig
from latte.models.vae_config import VAEConfig
from latte.processes import Ranks
from latte.train.data.latents import open_data
from latte.train.parallel import micro_batches
from latte.train.resolve import resolve
from latte.train.run import Run

step_time_module = sys.modules[step_time.__module__]
VAE = VAEConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
DATA = Data(VAE, 8)
WIDE = ["model.hidden_size=64", "model.depth=4", "num_frames=8", "image_size=32"]
SLIM = ["model.depth=2", "model.hidden_size=32", "model.num_heads=2", "image_size=64"]
SLIM_LATTE = LatteConfig(depth=2, hidden_size=32, num_heads=2, input_size=8)
SETTINGS = {
    "bf16": ["precision=bf16"],
    "self-conditioned": ["model.self_condition=true"],
    "bf16, muon": ["precision=bf16", "fast=false", "optimizer=muon", "average_every=5"],
    "recomputed": ["gradient_checkpointing=true", "micro_batch_size=2", "align_weight=0.2"],
}


@pytest.mark.parametrize("words", SETTINGS.values(), ids=SETTINGS)
def test_estimated_memory_matches_a_real_step(words, vae, tmp_path):
    """Peak memory within 3 %, and what the forward pass keeps to the byte."""
    config = small(vae, *WIDE, *words)
    need = training_need(config, DATA, as_on="cpu")
    clips = open_data(config)
    with LiveTensors() as memory:
        training = Run(config, tmp_path, clips, CPU, Ranks())
        loaded = sum(z.nbytes for z in training.objective.vae.parameters())
        training.objective.prepare(micro_batches(config, Ranks()), 0)
        stored = memory.live  # networks and the latents of all clips
        training.step(0)  # after it the optimizer has its state
        memory.peak = memory.live
        training.step(1)
    networks = need.weights + need.averages + need.vae
    assert need.vae == loaded and networks <= stored
    assert memory.peak - (stored - networks) == pytest.approx(need.most, rel=0.03)


@pytest.mark.parametrize("make", [small, small_t2v])
def test_estimated_activations_match_those_alive_after_the_forward_pass(make, vae):
    config = make(vae, "num_frames=8", "image_size=32")
    step = planned_step(objective_of(config, DATA, CPU), 4, "cpu")
    kept = kept_bytes(step.loss, step.network)
    with LiveTensors() as memory:
        loss = step.loss()
    assert kept == pytest.approx(memory.live, rel=0.01) and loss.requires_grad
    planned = replace(config, init="nowhere")  # does not affect any size
    assert training_need(planned, DATA, as_on="cpu").activations == kept  # fake tensors keep the same


def test_half_precision_attention_and_sharding_reduce_memory(vae):
    config = small(vae, *WIDE, "model.depth=2", "precision=bf16", "global_batch_size=8")
    gpu, cpu = (training_need(config, DATA, as_on=kind) for kind in ("cuda", "cpu"))
    assert gpu.activations < 0.95 * cpu.activations
    copies, sharded = (training_need(replace(config, shard=shard), DATA, 4) for shard in (False, True))
    assert copies.clips == sharded.clips == 2 and copies.activations == sharded.activations
    assert gpu.activations / 4 < copies.activations < gpu.activations  # casts of weights do not depend on clips
    assert copies.gradients == 2 * gpu.gradients  # DDP's buckets
    for name in ("weights", "gradients", "optimizer", "averages"):
        assert getattr(sharded, name) == pytest.approx(getattr(gpu, name) / 4, rel=1e-3)
    assert gpu.weights < sharded.gathered < 1.6 * gpu.weights  # with two blocks: both, plus the gradient of one


def test_step_time_is_extrapolated_from_two_blocks(vae, monkeypatch):
    """From 1 s for a pass through two blocks and 0.5 s for its update, or from the operation count if that is long."""
    timed = iter([1.0, 0.5] * 3)
    monkeypatch.setattr(step_time_module, "seconds_of", lambda work, device, least: next(timed))
    monkeypatch.setattr(step_time_module, "matmul_rate", lambda *args: 1e12)
    config = small(vae, *WIDE, "model.depth=2", "precision=fp32")
    need = training_need(config, DATA, as_on="cpu")
    said = step_time(config, DATA, need, CPU)
    assert said.how == "4 clips through two of its blocks, 1 s, times 1 by the operations" and said.seconds == 1.5
    assert step_time(config, DATA, replace(need, operations=2 * need.operations), CPU).seconds == 2.5
    assert step_time(config, DATA, replace(need, weights=2 * need.weights), CPU).seconds == 2.0
    monkeypatch.setattr(step_time_module, "matmul_rate", lambda *args: 1e3)
    said = step_time(config, DATA, need, CPU)
    assert said.seconds == 3 * need.operations / 1e3 and "the speed of large matrix products" in said.how


def test_memory_of_published_sizes_needs_no_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_memory, "step_time", lambda *of: SimpleNamespace(seconds=2.0, how="a clock"))
    out = tmp_path / "need.json"
    words = ["--processes", "8", "--device", "cpu", "--out", str(out), "precision=fp32", "data=nowhere"]
    assert main(["bench", "memory", "--config", "ucf101", *words, *SLIM]) == 0
    said, progress = capsys.readouterr()
    assert "counting memory" in progress
    assert "there is no VAE sd-vae-ft-ema yet" in said and "are not counted" in said
    assert "1 x 5 clips a step in each of 8 processes, fp32; these settings: plain" in said
    assert "a step takes about 2 s on cpu" in said and "measured: a clock" in said
    found = json.loads(out.read_text())["bytes"]
    assert len(found) == 4 and found["plain"]["weights"] == 4 * count_cost(SLIM_LATTE).parameters
    assert found["shard=true"]["weights"] == found["plain"]["weights"] // 8
    activations = [found[name]["activations"] for name in ("gradient_checkpointing=true", "plain")]
    assert activations[0] < activations[1] / 3


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["key=1"], "key=value does nothing without --config"),
        (["--config", "shapes", "--height", "64"], "--height does nothing with --config"),
        (["--config", "shapes", "--processes", "0"], "--processes is 0"),
        (["--config", "shapes-features"], "kind=features"),
        (["--config", "shapes", "--processes", "3"], "cannot be split over 3 processes"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(words, say, capsys):
    assert main(["bench", "memory", *words]) == 2
    error = capsys.readouterr().err
    assert say in error and error.count("\n") == 1


def test_a_vae_is_trained_too():
    settings = [*TINY_VAE, "precision=fp32"]
    one, two = (
        bench_memory.needs_of(resolve("shapes-vae", [*settings, f"global_batch_size={size}"]), DATA, 1)
        for size in (8, 16)
    )
    assert list(one) == ["plain"]
    assert two["plain"].activations == pytest.approx(2 * one["plain"].activations, rel=0.1)
