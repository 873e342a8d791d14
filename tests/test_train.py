"""Training: it learns, it resumes with the same bits, and it says what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import latte
from latte.checkpoint import find_model
from latte.cli import main
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.shapes import make_clip
from latte.train import checkpoint, data
from latte.train.config import PRESETS, SHAPES_VAE, TrainConfig, resolve
from latte.train.data import open_clips
from latte.train.loop import learning_rate, train, update_ema
from latte.train.objectives import OBJECTIVES
from latte.vae_io import load_vae, save_vae
from latte.video import write_video

SMALL = ["steps=12", "clips=12", "global_batch_size=4", "num_frames=4", "image_size=16"]
SMALL += ["log_every=1", "save_every=5", "warmup=2"]
TINY = [*SMALL, "model.depth=2", "model.hidden_size=16", "model.num_heads=2"]
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


def test_stopped_and_resumed_run_ends_with_the_same_bits(vae, tmp_path):
    config, cut = small(vae), tmp_path / "cut"
    run(config, tmp_path / "whole")
    words = ["train", "--run", str(cut), "--device", "cpu", *TINY, f"vae={vae}"]
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "latte.cli", *words], stderr=subprocess.PIPE)
    while process.poll() is None and not checkpoint.found(cut):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    assert checkpoint.found(cut)[-1].name < "step-0000012"
    run(config, cut)
    assert_same_run(tmp_path / "whole", cut)


def assert_same_run(one, other):
    """The same weights, averages, optimiser and metrics, but for the speed."""
    a, b = (checkpoint.latest(folder) for folder in (one, other))
    assert a.name == b.name == "step-0000012" and same(tensors(a), tensors(b))
    lines = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, other)]
    for line in [*lines[0], *lines[1]]:
        line.pop("clips_per_second")
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == list(range(1, 13))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(("a/x.mkv", "a/y.mkv", "b/z.mkv")):
        write_video(make_clip(2, i, frames=12, size=24).video, root / name)
    return root


@pytest.mark.parametrize("kind", ["folder", "vae", "folder-vae"])
def test_every_kind_of_run_resumes_with_the_same_bits(kind, vae, videos, tmp_path):
    """Metrics past the newest checkpoint are written again, also when the last line was torn."""
    changes = {"folder": [*TINY, f"vae={vae}"], "vae": TINY_VAE, "folder-vae": TINY_VAE}[kind]
    if "folder" in kind:
        changes = [*changes, f"data={videos}", "flip=true", "frame_interval=2"]
    config = resolve("shapes-vae" if kind == "vae" else kind, [*changes, "micro_batch_size=2", "keep=9"])
    run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for folder in checkpoint.found(tmp_path / "cut")[1:]:
        shutil.rmtree(folder)
    with (tmp_path / "cut/metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 13, "lo')
    run(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


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
    sample = ["sample", str(latte_run / "final"), "--out", str(out), "--device", "cpu"]
    assert main([*sample, "--classes", "left", "3", "--num-videos", "1", "--num-sampling-steps", "2"]) == 0
    assert {path.suffix for path in out.iterdir()} == {".mp4", ".png", ".webp", ".html"}
    assert len(list(out.glob("*.mp4"))) == 2
    assert "2 videos of 4 x 16 x 16" in capsys.readouterr().out
    assert main([*sample, "--classes", "sideways"]) == 2
    assert "0 left, 1 right" in capsys.readouterr().err
    assert latte.load_model(latte_run / "checkpoints/step-0000030", weights="model").config.num_classes == 8
    assert find_model(latte_run) == latte_run / "final"
    shutil.rmtree(latte_run / "final")
    words = ["sample", str(latte_run), "--vae", str(vae_run), "--out", str(out), "--num-sampling-steps", "1"]
    assert main([*words, "--classes", "growing", "--num-videos", "1", "--device", "cpu"]) == 0
    with pytest.raises(ValueError, match="give the run's folder `final`"):
        load_vae(vae_run / "checkpoints/step-0000030")


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
        (["--device", "abacus"], "no such device"),
        (["--config", "shapez"], "the presets are shapes-vae, shapes"),
        (["micro_batch_size=-1"], "micro_batch_size is -1"),
        (["global_batch_size=3", "micro_batch_size=2"], "does not divide"),
        (["steps=0"], "steps is 0"),
        (["keep=0"], "keep is 0"),
        (["clip_grad=0"], "clip_grad is 0"),
        (["learning_rate=.nan"], "learning_rate is nan"),
        (["ema_decay=1"], "ema_decay is 1"),
        (["seed=-1"], "seed is -1"),
        (["flip=true"], "flip does nothing with data=shapes"),
        (["kl_weight=1"], "kl_weight does nothing with kind=latte"),
        (["model.num_classes=3"], "model.num_classes follows from the folders"),
        (["model=5"], "model is 5; it must be of type dict"),
        (["model.patch_size=4"], "cannot be cut into patches of 4 x 4"),
        (["image_size=20"], "multiple of 8"),
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
    with pytest.raises(ValueError, match="not finite"):
        run(small(vae, "steps=6", "learning_rate=1e30"), tmp_path)
    run(small(vae, "steps=2"), tmp_path)  # nothing had been saved: the folder is free
    with pytest.raises(ValueError, match=r"other settings \(learning_rate\)"):
        run(small(vae, "steps=2", "learning_rate=0.5"), tmp_path)
    with pytest.raises(ValueError, match="already holds checkpoints"):
        run(small(vae, "steps=2"), tmp_path, resume=False)


def test_other_data_in_the_same_folder_is_refused(vae, videos, tmp_path):
    data, vae = shutil.copytree(videos, tmp_path / "data"), shutil.copytree(vae, tmp_path / "vae")
    config = small(vae, "steps=2", f"data={data}")
    run(config, tmp_path / "run")
    (data / "b").rename(data / "0")
    with pytest.raises(ValueError, match=r"other data \(classes, clips\)"):
        run(config, tmp_path / "run")
    (data / "0").rename(data / "b")
    save_vae(VideoVAE(AutoencoderKL(load_vae(vae).config)), vae)
    with pytest.raises(ValueError, match=r"other data \(vae\)"):
        run(config, tmp_path / "run")


def test_configuration_files(tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 3\nvae: somewhere\n")
    assert resolve(str(tmp_path / "a.yaml"), ["learning_rate=1e-3"]) == TrainConfig(
        steps=3, vae="somewhere", learning_rate=1e-3
    )
    for text, say in (("model: 5", "model is 5"), ("5: 3", "unknown key '5'"), ("- 3", "table"), ("a: [", "YAML")):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ValueError, match=say):
            resolve(str(tmp_path / "a.yaml"), ["model.depth=2"])


def test_learning_rates():
    config = SHAPES_VAE
    change = dict(steps=12, warmup=2, learning_rate=1.0)
    rates = [learning_rate(replace(config, **change), step) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[7] == pytest.approx(0.5) and rates[11] == pytest.approx(0.0245, 0.01)
    assert {learning_rate(replace(config, schedule="constant", **change), step) for step in range(2, 12)} == {1.0}


def test_accumulated_gradients_are_those_of_the_whole_batch(vae, tmp_path):
    """Adam forgives a wrong scale; the norm of the gradients does not."""
    first = []
    for micro in (0, 1, 2):
        run(small(vae, f"micro_batch_size={micro}", "precision=fp32", "steps=2"), tmp_path / str(micro))
        first.append(json.loads((tmp_path / str(micro) / "metrics.jsonl").read_text().splitlines()[1]))
    for name in ("loss", "mse", "vb", "grad_norm"):
        assert [line[name] for line in first] == pytest.approx([first[0][name]] * 3, rel=1e-4)


class Recorder(torch.nn.Module):
    """A network that keeps what it was asked."""

    def __init__(self, config):
        super().__init__()
        self.config, self.seen = config, []

    def forward(self, x, t, y, num_images):
        self.seen.append((x, t, y))
        return torch.cat([x, x], 2)


def test_images_that_go_with_a_clip(vae):
    """Single frames of other clips, with their own classes; a label is dropped for the clip or for all its images."""
    config = small(vae, "global_batch_size=400", "clips=400", "num_images=3", "model.class_dropout_prob=0.5")
    loss = OBJECTIVES["latte"](open_clips(config), config)
    number = torch.arange(400)[:, None] * 4 + torch.arange(4)
    mean = number[:, :, None, None, None].expand(-1, -1, 4, 2, 2).float()
    loss.latents = mean, torch.zeros_like(mean), torch.arange(400) % 8
    frames, _, labels = loss.frames(0, 5)
    seen = frames[:, 0, 0, 0].long()
    assert torch.equal(seen[:4], number[loss.order.index(0, 5)])
    assert torch.equal(labels, torch.cat([seen[:1], seen[4:]]) // 4 % 8)
    recorder = Recorder(loss.network().config)
    loss(recorder, 0, range(400))
    x, t, y = recorder.seen[0]
    assert x.shape == (400, 7, 4, 2, 2) and t.shape == (400,) and y.shape == (400, 4)
    dropped = y == 8
    assert torch.equal(dropped[:, 1], dropped[:, 3])
    assert 0.4 < dropped[:, 0].float().mean() < 0.6 and 0.1 < (dropped[:, 0] & dropped[:, 1]).float().mean() < 0.4


def test_what_a_slot_sees_is_its_own(vae):
    config = small(vae, "global_batch_size=1000", "clips=1000")
    loss = OBJECTIVES["latte"](open_clips(config), config)
    loss.latents = torch.zeros(1000, 4, 4, 2, 2), torch.ones(1000, 4, 4, 2, 2), torch.arange(1000) % 8
    recorder = Recorder(loss.network().config)
    loss(recorder, 3, range(1000))
    for slot in (0, 1, 6):
        loss(recorder, 3, range(slot, slot + 1))
        assert all(torch.equal(whole[slot : slot + 1], one) for whole, one in zip(recorder.seen[0], recorder.seen[-1]))
    _, t, y = recorder.seen[0]
    assert 0.07 < (y == 8).float().mean() < 0.13 and set(y.flatten().tolist()) == set(range(9))
    assert t.min() < 20 and t.max() > 980
    loss(recorder, 4, range(2))
    assert not torch.equal(recorder.seen[-1][0], recorder.seen[0][0][:2])


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
    "num_images": 2,
    "sample_latents": True,
    "clips": 5,
    "image_size": 32,
    "precision": "fp32",
}
ELSEWHERE = {  # what other tests of this file show
    *("kind", "data", "model", "vae", "steps", "frame_interval", "flip", "micro_batch_size"),
    *("kl_weight", "gradient_checkpointing", "log_every", "save_every", "keep"),
}


def test_every_setting_is_shown_to_count():
    assert CHANGES.keys() | ELSEWHERE == {field.name for field in fields(TrainConfig)}


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
    assert OBJECTIVES["latte"](open_clips(config), config).network().gradient_checkpointing
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
    monkeypatch.setattr(data, "DECODED", 0)
    assert torch.equal(draw(0, 5, "image_size=8"), kept)
    assert len(open_clips(small(vae, f"data={tmp_path}", "clips=1"))) == 2


def test_a_video_damaged_in_its_middle(vae, videos, tmp_path, monkeypatch):
    """It is left out where videos are decoded when the folder is opened; else its place is taken by the next."""
    for name in ("a", "b"):
        write_video(make_clip(2, 5, frames=40, size=32).video, tmp_path / f"data/{name}.mp4")
    content = bytearray((tmp_path / "data/a.mp4").read_bytes())
    content[len(content) // 2 : 3 * len(content) // 4] = bytes(3 * len(content) // 4 - len(content) // 2)
    (tmp_path / "data/a.mp4").write_bytes(content)
    config = small(vae, f"data={tmp_path / 'data'}")
    with pytest.warns(UserWarning, match=r"left out: .*a\.mp4"):
        assert len(open_clips(config).videos) == 1
    monkeypatch.setattr(data, "DECODED", 0)
    clips = open_clips(config)
    assert len(clips.videos) == 2
    with pytest.warns(UserWarning, match=r"a\.mp4 cannot be decoded.*the next video takes its place"):
        drawn = [clips.clip(0, torch.Generator().manual_seed(seed))[0] for seed in range(12)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(clips.clip(0, torch.Generator().manual_seed(11))[0], drawn[11])


@pytest.mark.skipif("LATTE_TEST_DATA" not in os.environ, reason="LATTE_TEST_DATA names no folder of real clips")
def test_real_folders(vae, tmp_path):
    root = Path(os.environ["LATTE_TEST_DATA"])
    for name in ("ApplyEyeMakeup", "Archery"):
        (tmp_path / "ucf" / name).mkdir(parents=True)
        (tmp_path / "ucf" / name / "v.avi").symlink_to(root / f"ucf101/v_{name}_320x240.avi")
    for folder, names, count in ((tmp_path / "ucf", ["ApplyEyeMakeup", "Archery"], 2), (root / "faces", [], 9)):
        config = small(vae, f"data={folder}", "steps=2", "frame_interval=3")
        clips = open_clips(config)
        assert clips.names == names and len(clips.videos) == count
        assert (train(config, tmp_path / folder.name, clips) / "model.safetensors").is_file()
