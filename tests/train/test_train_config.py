"""Settings of a training run: each has an effect, and invalid ones are rejected."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TINY, TINY_VAE, run, same, small, tensors
from torch import nn

from latte.cli import main
from latte.device import arithmetic
from latte.models.attention import AxialAttention, CrossAttention, attend
from latte.train import checkpoint
from latte.train.config import SETTINGS, LatteTrainConfig
from latte.train.data.folders import open_clips
from latte.train.objectives import objective
from latte.train.precision import autocast, check_precision, keep_in_float32
from latte.train.presets import FOLDER_VAE
from latte.train.resolve import resolve
from latte.train.step import learning_rate


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
        (["kl_weight=1"], "unknown key 'kl_weight' for kind=latte: it is a setting of kind=vae"),
        (["model.num_classes=3"], "model.num_classes follows from the folders"),
        (["model=5"], "model is 5; it must be a table of settings"),
        (["model.patch_size=4"], "cannot be cut into patches of 4 x 4"),
        (["image_size=20"], "this VAE encodes multiples of 8"),
        (["batch_size=3"], "did you mean 'global_batch_size' or 'micro_batch_size'?"),
        (["stpes=3"], "did you mean 'steps'?"),
        (["hiden_size=3"], "unknown key 'hiden_size', did you mean 'model.hidden_size'?"),
        (["depth=3"], "unknown key 'depth', did you mean 'model.depth'?"),
        (["zzz=3"], "unknown key 'zzz'; see docs/training.md, latte.train.config, or the config.yaml of a run"),
        (["steps=many"], "must be a whole number"),
        (["model.depht=3"], "depht"),
        (
            ["model={1: 2, foo: 3}"],
            "unknown key '1'; see the fields of latte.models.latte_config.LatteConfig",
        ),
        (["image_size=8"], "8 pixels are too small for the shapes"),
        (["vae=shapes"], "not a VAE's configuration: give"),
        (["kind=gan"], "not 'latte' or 't2v' or 'vae' or 'features'"),
        (
            ["vae=nowhere"],
            "there is no VAE at nowhere: train one with `latte train --config shapes-vae --run runs/shapes-vae`",
        ),
        (["data=nowhere"], "no folder of videos at nowhere: give data=FOLDER"),
        (["data="], "data is empty: give data=FOLDER, or data=shapes"),
        (["num_workers=2"], "num_workers does nothing with latents=once"),
        (["deterministic_reduce=true"], "deterministic_reduce needs micro_batch_size"),
        (["motion_frames=3"], "4 frames of the shapes, frame_interval 1, need motion_frames of 4 or more, not 3"),
        (["frame_interval=2"], "need motion_frames of 7 or more, not 0"),
        (["selection=any"], "not 'stride' or 'linspace' or 'crop'"),
        (["failed_share=2"], "failed_share is 2.0; it must be from 0 to 1"),
    ],
)
def test_invalid_settings_are_refused(words, say, tmp_path, capsys, vae):
    defaults = [] if any(w.startswith("vae=") for w in words) else [f"vae={vae}"]
    assert main(["train", "--config", "shapes", "--run", str(tmp_path / "run"), *TINY, *defaults, *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert say in error, error
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["model.layers_per_blok=2"], "unknown key 'layers_per_blok', did you mean 'layers_per_block'?"),
        (["model.depth=2"], "unknown key 'depth'"),
        (["model.scaling_factor=2"], "scaling_factor follows from the latents"),
        (["model.temporal_decoder=true"], "temporal_decoder follows from training on single frames"),
        (["model.out_channels=1"], "out_channels follows from the colours"),
        (["vae=shapes/vae"], "unknown key 'vae' for kind=vae: it is a setting of kind=latte or kind=t2v; leave it out"),
        (["classes=false"], "unknown key 'classes' for kind=vae: it is a setting of kind=latte; leave it out"),
        (["clip_from=-1"], "clip_from is -1"),
    ],
)
def test_settings_that_a_vae_does_not_have_are_refused(words, say, tmp_path, capsys):
    assert main(["train", "--config", "shapes-vae", "--run", str(tmp_path / "run"), *TINY_VAE, *words]) == 2
    assert say in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_configuration_files(tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 3\nvae: somewhere\n")
    assert resolve(str(tmp_path / "a.yaml"), ["learning_rate=1e-3"]) == LatteTrainConfig(
        steps=3, vae="somewhere", learning_rate=1e-3
    )
    for text, say in (
        ("model: 5", "model is 5"),
        ("5: 3", "unknown key '5'"),
        ("- 3", "does not hold settings by name"),
        ("a: [", "YAML"),
    ):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ValueError, match=say):
            resolve(str(tmp_path / "a.yaml"), ["model.depth=2"])


def test_learning_rates():
    config = FOLDER_VAE
    change = dict(steps=12, warmup=2, learning_rate=1.0)
    rates = [learning_rate(replace(config, **change), step) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[7] == pytest.approx(0.5) and rates[11] == pytest.approx(0.0245, 0.01)
    assert {learning_rate(replace(config, schedule="constant", **change), step) for step in range(2, 12)} == {1.0}


def test_the_trapezoid_schedule():
    """Written out for a warmup of 2 steps and a cooldown over the last 4 of 10."""
    config = replace(FOLDER_VAE, schedule="trapezoid", steps=10, warmup=2, learning_rate=1.0, cooldown=0.4)
    rates = lambda config: [learning_rate(config, step) for step in range(config.steps)]
    assert rates(config) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    fast = [1 - 0.25**0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]
    assert rates(replace(config, cooldown_shape="sqrt"))[6:] == pytest.approx([1, *fast])
    assert rates(replace(config, warmup=8, cooldown=1.0)) == pytest.approx(
        [0.125, 0.25, 0.375, 0.5, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )
    for words in (["cooldown=0.5"], ["cooldown_shape=sqrt"]):
        with pytest.raises(ValueError, match="does nothing with schedule=cosine: leave it at"):
            resolve("shapes-plain", words)


CHANGES = {  # changing any of these must change the run's weights
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
    "motion_frames": 9,
    "classes": False,
    "sample_latents": True,
    "clips": 5,
    "image_size": 32,
    "precision": "bf16",
    "timestep_std": 2.0,
    "timestep_mean": -1.0,
    "loss_weighting": "min-snr",
}
ELSEWHERE = {  # covered by other training tests
    *("kind", "data", "model", "vae", "init", "steps", "frame_interval", "flip", "micro_batch_size"),
    *("text_encoder", "caption_dropout", "snr_gamma"),
    *("optimizer", "muon_momentum", "muon_per_head", "cooldown", "cooldown_shape", "average_every"),
    *("route_share", "route_start", "route_end", "dispersive_weight", "dispersive_temperature", "dispersive_block"),
    *("align_weight", "align_block", "align_teacher_block", "align_gap"),
    *("equivariance_weight", "thumbnail_weight", "thumbnail_scale", "detail_scale", "whiten_latents", "freeze_encoder"),
    *("kl_weight", "gradient_checkpointing", "log_every", "save_every", "keep", "keep_every", "clip_from"),
    *("latents", "selection", "transform", "failed_share", "damaged", "num_workers"),
    *("skip_limit", "tensorboard", "sample_every", "compile", "fast", "shard", "shard_group", "deterministic_reduce"),
    *("wandb", "trackio"),
    *("sample_guidance", "sample_settings", "eval_every", "eval_clips", "eval_real", "eval_i3d", "sequence_parallel"),
    *(
        "backward_simulation",
        "teacher",
        "distillation",
        "student_steps",
        "teacher_steps",
        "teacher_guidance",
        "teacher_autoguidance",
    ),
    *("guided_from", "guided_to"),
}


def test_every_setting_is_covered_by_a_test():
    assert CHANGES.keys() | ELSEWHERE == SETTINGS.keys()


@pytest.fixture(scope="module")
def unchanged(vae, tmp_path_factory):
    """The weights of a run with none of the settings in CHANGES changed."""
    folder = tmp_path_factory.mktemp("unchanged")
    run(small(vae, "steps=4"), folder)
    return load_file(folder / "final/model.safetensors")


@pytest.mark.parametrize("name", CHANGES)
def test_settings_change_the_run(name, vae, unchanged, tmp_path):
    run(small(vae, "steps=4", f"{name}={CHANGES[name]}"), tmp_path)
    assert not same(unchanged, load_file(tmp_path / "final/model.safetensors"))


def test_clipping_starts_at_the_given_step(vae, tmp_path):
    after = lambda step, first: tensors(tmp_path / f"{first}/checkpoints/step-{step:07d}")
    for first in (0, 2, 4):
        run(
            small(vae, "steps=4", "save_every=1", "keep=4", "clip_grad=1e-3", f"clip_from={first}"),
            tmp_path / f"{first}",
        )
    assert not same(after(1, 0), after(1, 2))
    assert same(after(2, 2), after(2, 4)) and not same(after(3, 2), after(3, 4))
    norms = [json.loads(line)["grad_norm"] for line in (tmp_path / "2/metrics.jsonl").read_text().splitlines()]
    assert min(norms) > 1e-3  # the logged norm is the one before clipping


def test_settings_of_a_vae_change_the_run(tmp_path):
    folders = []
    for name, change in (("a", "steps=3"), ("b", "kl_weight=1.0")):
        assert (
            main(["train", "--config", "shapes-vae", "--run", str(tmp_path / name), *TINY_VAE, "steps=3", change]) == 0
        )
        folders.append(tmp_path / name / "final/model.safetensors")
    assert not same(*map(load_file, folders))


def test_logging_and_saving_intervals(vae, tmp_path):
    run(small(vae, "steps=10", "log_every=4", "save_every=3", "keep=3"), tmp_path)
    assert [folder.name for folder in checkpoint.list_checkpoints(tmp_path)] == [
        "step-0000006",
        "step-0000009",
        "step-0000010",
    ]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 10]


def test_a_compiled_run_learns_the_same(vae, tmp_path, monkeypatch):
    compile, compiled = nn.Module.compile, []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self) or compile(self, backend="eager"))
    for name, words in (("plain", []), ("compiled", ["compile=true"])):
        run(small(vae, "steps=3", *words), tmp_path / name)
    assert len(compiled) == 2  # blocks
    a, b = (load_file(tmp_path / name / "final/model.safetensors") for name in ("plain", "compiled"))
    assert a.keys() == b.keys() and max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-4


def test_tf32_applies_only_to_cuda_and_only_during_training(vae, tmp_path):
    before = torch.get_float32_matmul_precision()
    with arithmetic("tf32"):
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    with arithmetic("fp32"):
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    check_precision("tf32", torch.device("cuda"))
    with pytest.raises(ValueError, match="tf32 is for CUDA"):
        run(small(vae, "precision=tf32"), tmp_path)


def test_layers_that_stay_in_float32(vae):
    config = small(vae)
    network = objective(open_clips(config), config, torch.device("cpu")).network()
    keep_in_float32(network)
    seen = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
    with autocast("bf16", torch.device("cpu")):
        network(torch.randn(2, 4, 4, 2, 2), torch.tensor([1, 998]), torch.tensor([0, 1]))
    for name in ("condition.time", "condition.time.mlp.2", "blocks.0.modulation.linear", "final_linear"):
        assert seen[name].dtype == torch.float32, name
    assert seen["blocks.0.mlp.fc2"].dtype == seen["blocks.0.attns.0.qkv"].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["spatial", "cross"])
def test_attention_stays_in_float32(kind):
    given = []
    layer = AxialAttention(8, 2, kind) if kind == "spatial" else CrossAttention(8, 2)
    layer.attend = lambda q, k, v, mask=None: given.append((q, k, v, mask)) or attend(q, k, v, mask)
    keep_in_float32(layer)
    text = () if kind == "spatial" else (torch.randn(1, 1, 5, 8), torch.zeros(1, 1, 5))
    with autocast("bf16", torch.device("cpu")):
        assert layer(torch.randn(1, 3, 4, 8), *text).dtype == torch.bfloat16
    assert {z.dtype for z in given[0] if z is not None} == {torch.float32} and (given[0][3] is None) == (
        kind == "spatial"
    )
