"""Training learns, resumes bit-exactly, and reports errors."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TINY, TINY_FEATURES, TINY_PLAIN, TINY_VAE, run, same, small, tensors

import latte
from latte.cli import main
from latte.shapes.draw import make_clip
from latte.train import checkpoint
from latte.train.data.folders import open_clips
from latte.train.objectives import OBJECTIVES
from latte.train.resolve import resolve
from latte.train.step import update_ema
from latte.weights.find_models import find_model
from latte.weights.vae_folder import load_vae


def test_a_stopped_and_resumed_run_is_bit_exact(vae, tmp_path):
    config, cut = small(vae), tmp_path / "cut"
    run(config, tmp_path / "whole")
    words = ["train", "--config", "shapes-plain", "--run", str(cut), "--device", "cpu", *TINY_PLAIN, f"vae={vae}"]
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "latte", *words], stderr=subprocess.PIPE)
    while process.poll() is None and not checkpoint.list_checkpoints(cut):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    assert checkpoint.list_checkpoints(cut)[-1].name < "step-0000012"
    run(config, cut)
    assert_same_run(tmp_path / "whole", cut)


def assert_same_run(one, other):
    """Check that two runs have the same weights, averages, optimizer state and metrics, except for the speed."""
    a, b = (checkpoint.latest(folder) for folder in (one, other))
    assert a.name == b.name == "step-0000012" and same(tensors(a), tensors(b))
    lines = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, other)]
    for line in [*lines[0], *lines[1]]:
        line.pop("clips_per_second")
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == list(range(1, 13))


@pytest.mark.parametrize("kind", ["folder", "vae", "folder-vae", "features"])
def test_every_kind_of_run_resumes_bit_exactly(kind, vae, videos, tmp_path):
    """Metrics after the newest checkpoint are rewritten, even if the last line was truncated."""
    given = {"folder": [*TINY, f"vae={vae}"], "vae": TINY_VAE, "folder-vae": TINY_VAE, "features": TINY_FEATURES}
    changes = given[kind]
    if "folder" in kind:
        changes = [*changes, f"data={videos}", "flip=true", "frame_interval=2"]
    config = resolve(kind if "folder" in kind else f"shapes-{kind}", [*changes, "micro_batch_size=2", "keep=9"])
    run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for folder in checkpoint.list_checkpoints(tmp_path / "cut")[1:]:
        shutil.rmtree(folder)
    with (tmp_path / "cut/metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 13, "lo')
    run(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_damaged_checkpoint_is_set_aside(vae, tmp_path):
    config = small(vae)
    run(config, tmp_path / "whole")
    run(config, tmp_path / "hurt")
    newest = checkpoint.list_checkpoints(tmp_path / "hurt")[-1]
    file = newest / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"ema\.safetensors is not what was written"):
        run(config, tmp_path / "hurt")
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("whole", "hurt")))
    assert (newest.parent / f"damaged-{newest.name}").is_dir()


def test_vae_and_latte_learn_and_can_be_sampled(tmp_path, capsys):
    vae_run, latte_run = tmp_path / "vae", tmp_path / "latte"
    steps = ["steps=30", "global_batch_size=8", "warmup=1"]
    assert main(["train", "--config", "shapes-vae", "--run", str(vae_run), *TINY_VAE, *steps]) == 0
    losses = [json.loads(line)["loss"] for line in (vae_run / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    trained = load_vae(vae_run / "final")
    videos = (
        torch.stack([torch.from_numpy(make_clip(0, i, frames=4, size=16).video) for i in range(8)]).float() / 127.5 - 1
    )
    assert 0.5 < trained.encode(videos).std() < 2
    words = [
        "train",
        "--config",
        "shapes",
        "--run",
        str(latte_run),
        *TINY,
        *steps,
        f"vae={vae_run / 'final'}",
        "learning_rate=1e-2",
    ]
    assert main(words) == 0
    losses = [json.loads(line)["mse"] for line in (latte_run / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    out = tmp_path / "out"
    sample = ["sample", str(latte_run / "final"), "--out", str(out), "--device", "cpu"]
    assert main([*sample, "--classes", "left", "3", "--num-videos", "1", "--num-sampling-steps", "2"]) == 0
    assert {path.suffix for path in out.iterdir()} == {".mp4", ".png", ".webp", ".html"}
    assert len(list(out.glob("*.mp4"))) == 2
    assert "2 videos of 4 x 16 x 16" in capsys.readouterr().out
    assert main([*sample, "--overwrite", "--classes", "sideways"]) == 2
    assert "0 left, 1 right" in capsys.readouterr().err
    assert latte.load_model(latte_run / "checkpoints/step-0000030", weights="model").config.num_classes == 8
    assert find_model(latte_run) == latte_run / "final"
    shutil.rmtree(latte_run / "final")
    words = ["--overwrite", "--out", str(out), "--num-sampling-steps", "1", "--classes", "growing", "--num-videos", "1"]
    assert main(["sample", str(latte_run), *words, "--device", "cpu"]) == 0
    assert main(["convert", str(latte_run), str(tmp_path / "converted")]) == 0
    shutil.move(latte_run / "vae", tmp_path / "vae")
    assert main(["sample", str(latte_run), *words, "--device", "cpu"]) == 2
    assert main(["sample", str(latte_run), *words, "--vae", str(vae_run), "--device", "cpu"]) == 0
    assert main(["sample", str(tmp_path / "converted"), *words, "--device", "cpu"]) == 0
    with pytest.raises(ValueError, match="give the run's folder `final`"):
        load_vae(vae_run / "checkpoints/step-0000030")


def test_another_configuration_in_the_same_folder_is_refused(vae, tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        run(small(vae, "steps=6", "skip_limit=3", "learning_rate=1e30"), tmp_path / "failed")
    with pytest.raises(ValueError, match="but no checkpoint"):
        run(small(vae, "steps=2"), tmp_path / "failed")
    run(small(vae, "steps=2"), tmp_path / "run")
    with pytest.raises(ValueError, match="with different settings: to keep its own, add learning_rate="):
        run(small(vae, "steps=2", "learning_rate=0.5"), tmp_path / "run")
    with pytest.raises(ValueError, match="already holds checkpoints"):
        run(small(vae, "steps=2"), tmp_path / "run", resume=False)


def test_accumulated_gradients_are_those_of_the_whole_batch(vae, tmp_path):
    """Adam hides wrongly scaled gradients; their norm shows it."""
    first = []
    for micro in (0, 1, 2):
        run(small(vae, f"micro_batch_size={micro}", "precision=fp32", "steps=2"), tmp_path / str(micro))
        first.append(json.loads((tmp_path / str(micro) / "metrics.jsonl").read_text().splitlines()[1]))
    for name in ("loss", "mse", "vb", "grad_norm"):
        assert [line[name] for line in first] == pytest.approx([first[0][name]] * 3, rel=1e-4)


def test_a_folder_that_holds_something_else_is_left_alone(vae, tmp_path):
    config, folder = small(vae), tmp_path / "run"
    run(config, folder)
    with pytest.raises(ValueError, match="has done 12 steps: give steps=12 or more"):
        run(small(vae, "steps=3"), folder)
    before = (folder / "metrics.jsonl").read_text()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match="holds final but no checkpoint"):
        run(config, folder)
    shutil.rmtree(folder / "final")
    with pytest.raises(ValueError, match=r"holds a run with different settings \(seed\) but no checkpoint"):
        run(small(vae, "seed=1"), folder)
    assert (folder / "metrics.jsonl").read_text() == before
    run(config, folder)  # the same run, as if stopped before its first checkpoint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("my: own")
    with pytest.raises(ValueError, match=r"holds config\.yaml"):
        run(config, tmp_path / "mine")
    assert (tmp_path / "mine/config.yaml").read_text() == "my: own"


@pytest.mark.parametrize(("kind", "tiny"), [("shapes", TINY), ("shapes-vae", TINY_VAE)])
def test_training_can_start_from_the_weights_of_another_run(kind, tiny, vae, tmp_path):
    words = [*tiny, "steps=2"] if kind == "shapes-vae" else [*tiny, "steps=2", f"vae={vae}"]
    first = run(resolve(kind, words), tmp_path / "first")
    for again, same_weights in (([f"init={first}", "learning_rate=0"], True), (["learning_rate=0"], False)):
        second = run(resolve(kind, [*words, *again]), tmp_path / f"second-{same_weights}")
        a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
        # the mean of a VAE's latents is subtracted again, though it is 0 up to rounding
        assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a) == same_weights
    wider = "model.hidden_size=32" if kind == "shapes" else "model.block_out_channels=[4,8,8,16]"
    with pytest.raises(ValueError, match=r"tensors missing|has hidden_size 16, this run 32"):
        run(resolve(kind, [*words, f"init={first}", wider]), tmp_path / "third")


def test_ema_update():
    network, ema = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    network.weight.data.fill_(2.0)
    ema.weight.data.fill_(1.0)
    update_ema(ema, network, 0.9, step=0)
    assert ema.weight.item() == pytest.approx(1.9)  # decay (1 + 0) / (10 + 0)
    update_ema(ema, network, 0.9, step=10_000)
    assert ema.weight.item() == pytest.approx(1.91)


def test_checkpointed_gradients_are_the_same(vae, tmp_path):
    config = small(vae, "steps=3", "gradient_checkpointing=true")
    assert OBJECTIVES["latte"](open_clips(config), config).network().gradient_checkpointing
    run(config, tmp_path / "a")
    run(small(vae, "steps=3"), tmp_path / "b")
    assert same(*(load_file(tmp_path / name / "final/model.safetensors") for name in "ab"))
