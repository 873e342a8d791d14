"""The original's blocks compute what ours do, by the operations of the original code."""

from contextlib import nullcontext

import pytest
import torch
from goldens import relative_error
from small_latte import T, X, text_model, warm
from torch.utils.flop_counter import FlopCounterMode

from latte.cli import main
from latte.eval.bench.original_blocks import check_has_original, original_blocks
from latte.eval.bench.resources import OperationCount
from latte.files import read_json

Y = torch.tensor([1, 5])


def test_outputs_and_gradients_are_those_of_our_blocks():
    network = warm()
    plain = network(X, T, Y)
    gradients = torch.autograd.grad(plain.square().mean(), list(network.parameters()))
    with original_blocks(network):
        ours = network(X, T, Y)
        assert relative_error(ours, plain) < 1e-6
        for a, b in zip(torch.autograd.grad(ours.square().mean(), list(network.parameters())), gradients):
            assert (a - b).norm() <= 1e-5 * max(b.norm(), 1e-3)
    assert torch.equal(network(X, T, Y), plain)


def test_conditions_are_repeated_and_attention_is_written_out():
    """The original computes the modulation of each block once per frame or place, ours once per video."""
    network, counts = warm(), []
    with torch.no_grad():
        for blocks in (nullcontext(), original_blocks(network)):
            with blocks, OperationCount() as count:
                network(X, T, Y)
            counts.append(count.total)
    b, f, _, h, w = X.shape
    s, d = h * w // network.config.patch_size**2, network.config.hidden_size
    pairs = len(network.blocks) // 2
    assert counts[1] - counts[0] == pairs * b * (f - 1 + s - 1) * 2 * d * 6 * d
    with torch.no_grad(), original_blocks(network), FlopCounterMode(display=False) as counter:
        network(X, T, Y)
    assert not any("scaled_dot_product" in str(operation) for operation in counter.get_flop_counts()["Global"])


OTHERS = {
    "variant 2": lambda: warm(variant=2),
    "tokens": lambda: warm(conditioning="tokens"),
    "rope": lambda: warm(temporal_pos="rope"),
    "text": text_model,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_networks_are_refused(make):
    words = "those of a Latte with variant=1 conditioning=adaln temporal_pos=sincos"
    with pytest.raises(ValueError, match=words), original_blocks(make()):
        pass


def test_joint_training_is_refused():
    check_has_original(warm())
    with pytest.raises(ValueError, match="set num_images=0"):
        check_has_original(warm(), 2)


SHAPE = ["depth=2", "hidden_size=16", "num_heads=2", "num_classes=3", "input_size=4", "num_frames=4"]


def test_the_speed_benchmark_compares_with_the_original(tmp_path, capsys):
    out = tmp_path / "speed.json"
    words = ["bench", "speed", "random-latte", *SHAPE, "--parts", "forward", "--rounds", "1", "--device", "cpu"]
    assert main([*words, "--original", "--out", str(out)]) == 0
    rows = read_json(out)["forward"][0]["rows"]
    assert {"readable", "fast", "original"} < rows.keys() and rows["original"]["error"] < 1e-6
    assert rows["original"]["flops"] > rows["readable"]["flops"]
    assert "| original |" in capsys.readouterr().out
    assert main([*words, "temporal_pos=1"]) == 2 and "expected key=NUMBER" in capsys.readouterr().err
    assert (
        main(["bench", "speed", "random", "num_layers=1", "--original", "--parts", "forward", "--device", "cpu"]) == 2
    )
    assert "the original code has no such blocks" in capsys.readouterr().err


def test_the_training_benchmark_compares_with_the_original(tmp_path, capsys, vae):
    shape = "depth: 2, hidden_size: 16, num_heads: 2"
    settings = [f"vae={vae}", "image_size=64", "clips=2", "global_batch_size=2", f"model={{{shape}}}"]
    words = ["bench", "train", *settings, "--config", "shapes-plain", "--precisions", "fp32", "--sources", "latents"]
    words += ["--steps", "1", "--warmup", "0", "--device", "cpu"]
    blocks, out = ["fast", "readable", "original"], tmp_path / "train.json"
    assert main([*words, "--blocks", *blocks, "--out", str(out)]) == 0
    rows = read_json(out)["rows"]
    assert [row["blocks"] for row in rows] == blocks and all(row["seconds"] > 0 for row in rows)
    assert main([*words, "--blocks", "fast", "--out", str(out)]) == 0
    assert [row["blocks"] for row in read_json(out)["rows"]] == ["fast"]
    slow = [*words[:2], "fast=false", *words[2:]]
    assert main([*slow, "--blocks", "fast", "--out", str(out)]) == 0
    assert [row["blocks"] for row in read_json(out)["rows"]] == ["readable"]
    settings[-1] = f"model={{variant: 2, {shape}}}"
    assert main(["bench", "train", *settings, "--config", "shapes-plain", "--blocks", "original", "--steps", "1"]) == 2
    assert "the original code has no such blocks" in capsys.readouterr().err
    words = ["bench", "train", *settings[:-1], "fast=false", "--config", "shapes-plain", "--blocks", "fast", "readable"]
    assert main(words) == 2 and "with fast=false, fast blocks compute as" in capsys.readouterr().err
    words.remove("fast=false")
    assert main([*words, "--compiled", "yes"]) == 2 and "with --compiled yes" in capsys.readouterr().err
