"""Training: it learns, it resumes with the same bits, and it says what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import latte
from latte.cli import main
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.shapes import make_clip
from latte.train import checkpoint, data
from latte.train.config import PRESETS, resolve
from latte.train.data import open_clips
from latte.train.loop import train, update_ema
from latte.train.objectives import objective
from latte.vae_io import load_vae, save_vae
from latte.video import write_video

SMALL = ["steps=12", "clips=12", "global_batch_size=4", "num_frames=4", "image_size=16"]
SMALL += ["log_every=1", "save_every=5", "warmup=2"]
TINY = [*SMALL, "model.depth=2", "model.hidden_size=16", "model.num_heads=2", "model.input_size=2"]
TINY_VAE = [*SMALL, "model.block_out_channels=[4,8,8,8]", "model.norm_num_groups=4"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    torch.manual_seed(0)
    config = VAEConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
    return save_vae(VideoVAE(AutoencoderKL(config)), tmp_path_factory.mktemp("vae"))


def run(config, folder, **options):
    return train(config, folder, open_clips(config), **options)


def tensors(folder):
    return {
        f"{n}.{k}": v for n in ("model", "ema", "optimizer") for k, v in load_file(folder / f"{n}.safetensors").items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def small(vae, *changes):
    return resolve("shapes", [*TINY, f"vae={vae}", *changes])


@pytest.mark.parametrize("micro", [0, 2])
def test_stopped_and_resumed_run_ends_with_the_same_bits(vae, tmp_path, micro):
    more = [f"vae={vae}", f"micro_batch_size={micro}"]
    config = small(vae, f"micro_batch_size={micro}")
    run(config, tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "latte.cli", "train", "--run", str(tmp_path / "cut"), *TINY, *more],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not checkpoint.found(tmp_path / "cut"):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    run(config, tmp_path / "cut")
    whole, cut = (checkpoint.latest(tmp_path / name) for name in ("whole", "cut"))
    assert whole.name == cut.name == "step-0000012"
    assert same(tensors(whole), tensors(cut))
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


def test_damaged_checkpoint_is_set_aside(vae, tmp_path):
    config = small(vae)
    run(config, tmp_path / "whole")
    run(config, tmp_path / "hurt")
    newest = checkpoint.found(tmp_path / "hurt")[-1]
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
    words = ["train", "--run", str(latte_run), *TINY, *steps, f"vae={vae_run / 'final'}", "learning_rate=1e-2"]
    assert main(words) == 0
    losses = [json.loads(line)["mse"] for line in (latte_run / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    out = tmp_path / "out"
    sample = ["sample", str(latte_run / "final"), "--vae", str(vae_run / "final"), "--out", str(out), "--device", "cpu"]
    assert main([*sample, "--classes", "left", "3", "--num-videos", "1", "--num-sampling-steps", "2"]) == 0
    assert {path.suffix for path in out.iterdir()} == {".mp4", ".png", ".webp", ".html"}
    assert len(list(out.glob("*.mp4"))) == 2
    assert main([*sample, "--classes", "sideways"]) == 2
    assert "0 left, 1 right" in capsys.readouterr().err
    assert latte.load_model(latte_run / "checkpoints/step-0000030", weights="model").config.num_classes == 8


def test_folder_of_videos(vae, tmp_path):
    for name, motion in (("a/x.mp4", "left"), ("b/y.avi.mkv", "right"), ("b/z.mp4", "up")):
        write_video(make_clip(0, 1, motion, frames=10, size=24).video, tmp_path / "data" / name)
    (tmp_path / "data/a/broken.mp4").write_text("no")
    write_video(make_clip(0, 1, frames=3).video, tmp_path / "data/b/short.mkv")
    config = small(vae, f"data={tmp_path / 'data'}", "frame_interval=2", "steps=2")
    with pytest.warns(UserWarning) as told:
        clips = open_clips(config)
    assert {"broken.mp4", "short.mkv"} == {n for n in ("broken.mp4", "short.mkv") for w in told if n in str(w.message)}
    assert clips.names == ["a", "b"] and [label for _, _, label in clips.videos] == [0, 1, 1]
    video, label = clips.clip(1, torch.Generator().manual_seed(0))
    assert video.shape == (4, 3, 16, 16) and label == 1
    train(config, tmp_path / "run", clips)
    assert json.loads((tmp_path / "run/final/classes.json").read_text()) == {"names": ["a", "b"]}


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--config", "shapez"], "the presets are shapes-vae, shapes"),
        (["stpes=3"], "did you mean 'steps'"),
        (["steps=many"], "must be of type int"),
        (["model.depht=3"], "depht"),
        (["kind=gan"], "not 'latte' or 'vae'"),
        (["vae=nowhere"], "no model at nowhere"),
        (["data=nowhere"], "no folder of videos at nowhere"),
    ],
)
def test_what_is_wrong_is_told(words, say, tmp_path, capsys, vae):
    defaults = [] if any(w.startswith("vae=") for w in words) else [f"vae={vae}"]
    assert main(["train", "--run", str(tmp_path / "run"), *TINY, *defaults, *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert say in error, error
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_another_configuration_in_the_same_folder_is_refused(vae, tmp_path):
    run(small(vae, "steps=2"), tmp_path)
    with pytest.raises(ValueError, match="learning_rate"):
        run(small(vae, "steps=2", "learning_rate=0.5"), tmp_path)
    with pytest.raises(ValueError, match="already holds checkpoints"):
        run(small(vae, "steps=2"), tmp_path, resume=False)


def test_average_of_weights():
    network, ema = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    network.weight.data.fill_(2.0)
    ema.weight.data.fill_(1.0)
    update_ema(ema, network, 0.9, step=0)
    assert ema.weight.item() == pytest.approx(1.9)  # decay (1 + 0) / (10 + 0)
    update_ema(ema, network, 0.9, step=10_000)
    assert ema.weight.item() == pytest.approx(1.91)


def test_presets_are_sound():
    for name in PRESETS:
        assert resolve(name, ["steps=3"]).steps == 3


CHANGES = {  # each setting changed must change the run's weights
    "weight_decay": 5.0,
    "learning_rate": 1e-2,
    "warmup": 9,
    "schedule": "constant",
    "clip_grad": 1e-3,
    "ema_decay": 0.1,
    "seed": 1,
    "global_batch_size": 2,
    "num_frames": 3,
    "clips": 5,
    "image_size": 32,
    "precision": "fp32",
}


@pytest.mark.parametrize("name", CHANGES)
def test_settings_change_the_run(name, vae, tmp_path):
    run(small(vae, "steps=4"), tmp_path / "a")
    run(small(vae, "steps=4", f"{name}={CHANGES[name]}"), tmp_path / "b")
    a, b = (load_file(tmp_path / run / "final/model.safetensors") for run in "ab")
    assert not same(a, b)


def test_settings_of_a_vae_change_the_run(tmp_path):
    folders = []
    for name, change in (("a", "steps=3"), ("b", "kl_weight=1.0")):
        assert (
            main(["train", "--config", "shapes-vae", "--run", str(tmp_path / name), *TINY_VAE, "steps=3", change]) == 0
        )
        folders.append(tmp_path / name / "final/model.safetensors")
    assert not same(*map(load_file, folders))


def test_checkpointed_gradients_are_the_same(vae, tmp_path):
    config = small(vae, "steps=3", "gradient_checkpointing=true")
    assert objective(config, open_clips(config)).network().gradient_checkpointing
    run(config, tmp_path / "a")
    run(small(vae, "steps=3"), tmp_path / "b")
    assert same(*(load_file(tmp_path / name / "final/model.safetensors") for name in "ab"))


def test_how_often_it_logs_and_saves(vae, tmp_path):
    run(small(vae, "steps=10", "log_every=4", "save_every=3", "keep=3"), tmp_path)
    assert [folder.name for folder in checkpoint.found(tmp_path)] == ["step-0000006", "step-0000009", "step-0000010"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 10]


def test_a_folders_clips_are_windows_of_its_videos(vae, tmp_path, monkeypatch):
    video = torch.from_numpy(make_clip(0, 1, "left", frames=12, size=16).video)
    write_video(video, tmp_path / "a.mkv")
    write_video(video.flip(0), tmp_path / "b.mkv")
    draw = lambda i, seed, *changes: open_clips(small(vae, f"data={tmp_path}", *changes)).clip(
        i, torch.Generator().manual_seed(seed)
    )[0]
    windows = [video[start : start + 8 : 2] for start in range(6)]
    drawn = [draw(0, seed, "frame_interval=2") for seed in range(8)]
    assert {next(i for i, w in enumerate(windows) if torch.equal(w, clip)) for clip in drawn} > {0, 5}
    assert torch.equal(draw(1, 3), draw(3, 3))
    assert any(torch.equal(draw(1, 3), video.flip(0)[start : start + 4]) for start in range(9))
    mirrored = [draw(0, seed, "flip=true", "num_frames=12") for seed in range(12)]
    assert {torch.equal(clip, video) for clip in mirrored} == {True, False}
    assert all(torch.equal(clip, video) or torch.equal(clip, video.flip(-1)) for clip in mirrored)
    kept = draw(0, 5, "image_size=8")
    monkeypatch.setattr(data, "MEMORY", 0)
    assert torch.equal(draw(0, 5, "image_size=8"), kept)
    assert len(open_clips(small(vae, f"data={tmp_path}", "clips=1"))) == 2


def test_file_descriptors_and_threads_do_not_leak(vae, tmp_path):
    config = small(vae, "steps=1")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    run(config, tmp_path)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before + 1
