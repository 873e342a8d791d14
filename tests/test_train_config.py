"""Settings of a training run: each changes it, and what cannot be meant is told."""

import json
from dataclasses import fields, replace

import pytest
from safetensors.torch import load_file
from small_runs import TINY, TINY_VAE, run, same, small

from latte.cli import main
from latte.models.latte import LatteConfig
from latte.models.latte_t2v import LatteT2VConfig
from latte.models.vae import VAEConfig
from latte.train import checkpoint
from latte.train.config import PRESETS, SHAPES_VAE, TrainConfig, resolve
from latte.train.loop import learning_rate


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
        (["timestep_std=1", "timestep_mean=.nan"], "timestep_mean is nan"),
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
        (["model={1: 2, foo: 3}"], "LatteConfig: unknown key '1'"),
        (["image_size=8"], "8 pixels are too small for the shapes"),
        (["vae=shapes"], "not a VAE's configuration: give"),
        (["kind=gan"], "not 'latte' or 't2v' or 'vae'"),
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


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["model.layers_per_blok=2"], "unknown key 'layers_per_blok', did you mean 'layers_per_block'?"),
        (["model.depth=2"], "VAEConfig: unknown key 'depth'"),
        (["model.scaling_factor=2"], "scaling_factor follows from the latents"),
        (["model.temporal_decoder=true"], "temporal_decoder follows from training on single frames"),
        (["model.out_channels=1"], "out_channels follows from the colours"),
        (["vae=shapes/vae"], "vae does nothing with kind=vae: leave it at ''"),
    ],
)
def test_what_a_vae_has_not_is_told(words, say, tmp_path, capsys):
    assert main(["train", "--config", "shapes-vae", "--run", str(tmp_path / "run"), *TINY_VAE, *words]) == 2
    assert say in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


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


def test_presets_are_sound():
    for name in PRESETS:
        config = resolve(name, ["steps=3"])
        network = {"vae": VAEConfig, "t2v": LatteT2VConfig, "latte": LatteConfig}[config.kind](**config.model)
        assert config.steps == 3 and network != type(network)()


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
    "precision": "bf16",
    "timestep_std": 2.0,
    "timestep_mean": -1.0,
}
ELSEWHERE = {  # what other tests of training show
    *("kind", "data", "model", "vae", "init", "steps", "frame_interval", "flip", "micro_batch_size"),
    *("text_encoder", "caption_dropout"),
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


def test_how_often_it_logs_and_saves(vae, tmp_path):
    run(small(vae, "steps=10", "log_every=4", "save_every=3", "keep=3"), tmp_path)
    assert [folder.name for folder in checkpoint.found(tmp_path)] == ["step-0000006", "step-0000009", "step-0000010"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 10]
