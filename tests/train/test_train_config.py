"""Settings of a training run: each has an effect, and invalid ones are refused."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_runs import TINY, TINY_VAE, run, same, small, tensors
from torch import nn

from latte.cli import main
from latte.device import arithmetic
from latte.eval.networks.shape_features import ShapeFeaturesConfig
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.train import checkpoint
from latte.train.config import SETTINGS, LatteTrainConfig
from latte.train.data.folders import open_clips
from latte.train.objectives import objective
from latte.train.precision import autocast, check_precision, keep_in_float32
from latte.train.presets import PRESETS, SHAPES_VAE, resolve
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
        (["model=5"], "model is 5; it must be of type dict"),
        (["model.patch_size=4"], "cannot be cut into patches of 4 x 4"),
        (["image_size=20"], "this VAE encodes multiples of 8"),
        (["stpes=3"], "did you mean 'steps'"),
        (["steps=many"], "must be of type int"),
        (["model.depht=3"], "depht"),
        (["model={1: 2, foo: 3}"], "LatteConfig: unknown key '1'"),
        (["image_size=8"], "8 pixels are too small for the shapes"),
        (["vae=shapes"], "not a VAE's configuration: give"),
        (["kind=gan"], "not 'latte' or 't2v' or 'vae' or 'features'"),
        (
            ["vae=nowhere"],
            "there is no VAE at nowhere: train one with `latte train --config shapes-vae --run runs/shapes-vae`",
        ),
        (["data=nowhere"], "no folder of videos at nowhere"),
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
        (["model.depth=2"], "VAEConfig: unknown key 'depth'"),
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
    config = SHAPES_VAE
    change = dict(steps=12, warmup=2, learning_rate=1.0)
    rates = [learning_rate(replace(config, **change), step) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[7] == pytest.approx(0.5) and rates[11] == pytest.approx(0.0245, 0.01)
    assert {learning_rate(replace(config, schedule="constant", **change), step) for step in range(2, 12)} == {1.0}


def test_a_trapezoid_rises_stays_and_falls():
    """Written out: a warmup of 2 steps, and a cooldown over the last 4 of 10."""
    config = replace(SHAPES_VAE, schedule="trapezoid", steps=10, warmup=2, learning_rate=1.0, cooldown=0.4)
    rates = lambda config: [learning_rate(config, step) for step in range(config.steps)]
    assert rates(config) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    fast = [1 - 0.25**0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]
    assert rates(replace(config, cooldown_shape="sqrt"))[6:] == pytest.approx([1, *fast])
    assert rates(replace(config, warmup=8, cooldown=1.0)) == pytest.approx(
        [0.125, 0.25, 0.375, 0.5, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )
    for words in (["cooldown=0.5"], ["cooldown_shape=sqrt"]):
        with pytest.raises(ValueError, match="does nothing with schedule=cosine: leave it at"):
            resolve("shapes", words)


def test_presets_are_sound():
    for name in PRESETS:
        config = resolve(name, ["steps=3"])
        kinds = {"vae": VAEConfig, "t2v": LatteT2VConfig, "latte": LatteConfig, "features": ShapeFeaturesConfig}
        network = kinds[config.kind](**config.model)
        small = config.image_size == 64 and config.kind != "features"  # whose network is small by itself
        assert config.steps == 3 and (network != type(network)()) == (small or name in ("ucf101-vae", "ucf101-modern"))


def test_the_papers_presets_differ_as_its_data_sets_do():
    given = {name: each for name, each in PRESETS.items() if each.image_size == 256 and name[:7] != "ucf101-"}
    given["ucf101-img"] = PRESETS["ucf101-img"]
    published = LatteConfig.from_name("Latte-XL/2")
    assert len(given) == 8 and all(LatteConfig(**c.model) == published for c in given.values())
    assert {name for name, config in given.items() if config.classes} == {"ucf101", "ucf101-img"}
    assert {name for name, config in given.items() if not config.flip} == {"sky", "sky-img"}
    for name, config in given.items():
        still = name.endswith("-img")
        assert (config.num_images, config.global_batch_size) == ((8, 32) if still else (0, 40))
        assert config.data == f"data/{name.removesuffix('-img')}" and config.frame_interval == 3
    assert [given[name].clip_from for name in ("ffs", "sky", "ucf101", "taichi")] == [20000, 20000, 100000, 500000]
    assert [given[f"{name}-img"].clip_from for name in ("ffs", "sky")] == [500000, 20000]


def test_the_modern_preset_at_full_size():
    """Latte-XL on latents of the VAE that the preset ucf101-vae trains: a quarter of the paper's tokens."""
    config, published = resolve("ucf101-modern", []), PRESETS["ucf101"]
    shared = {name for name, value in asdict(config).items() if value == asdict(published)[name]}
    assert shared >= {"data", "frame_interval", "num_frames", "image_size", "flip", "learning_rate", "ema_decay"}
    assert (config.steps, config.global_batch_size, config.clip_grad, config.clip_from) == (400_000, 32, 1.0, 0)
    assert (config.timestep_std, config.timestep_mean, config.sample_guidance) == (1.0, 0.0, 2.0)
    of_vae = resolve("ucf101-vae", [])
    assert config.vae == "runs/ucf101-vae/final"  # where the run of that name leaves it
    assert (of_vae.data, of_vae.image_size) == (config.data, config.image_size)
    with torch.device("meta"):
        vae = VideoVAE(AutoencoderKL(VAEConfig(**of_vae.model)))
        side, channels = vae.latent_side(config.image_size), vae.config.latent_channels
        network = Latte(LatteConfig(**config.model, num_classes=101, input_size=side, in_channels=channels))
        x = torch.empty(2, config.num_frames, channels, side, side)
        y = network(x, torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert (side, channels, y.shape) == (8, 32, x.shape)  # and no variance
    patches = {"ours": channels, "the paper's": 2 * 2 * 4}  # numbers in a patch; both last layers give 32
    paper = 674_112_416 - (16 * 16 + 16) * 1152  # without its position tables, see test_latte_config.py
    ours = sum(parameter.numel() for parameter in network.parameters())
    assert ours == paper + (patches["ours"] - patches["the paper's"]) * 1152


def test_the_presets_of_text_to_video_at_full_size():
    """Latte-1's network, on latents of a VAE with 8x downsampling and embeddings as wide as T5-XXL's."""
    for name in ("t2v", "t2v-finetune"):
        config = resolve(name, [])
        sizes = {"sample_size": config.image_size // 8, "video_length": config.num_frames}
        shape = LatteT2VConfig(**config.model, **sizes)
        assert shape == LatteT2VConfig() and config.text_encoder == {}  # which is Latte-1
    assert (config.init, config.vae) == ("Latte-1", "Latte-1/vae")
    with torch.device("meta"):
        network = LatteT2V(shape)
        x, text = torch.empty(1, 16, 4, 64, 64), torch.empty(1, 120, 4096)
        assert network(x, torch.zeros(1), text).shape == (1, 16, 8, 64, 64)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_057_246_880


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
ELSEWHERE = {  # what other tests of training show
    *("kind", "data", "model", "vae", "init", "steps", "frame_interval", "flip", "micro_batch_size"),
    *("text_encoder", "caption_dropout", "snr_gamma"),
    *("optimizer", "muon_momentum", "muon_per_head", "cooldown", "cooldown_shape", "average_every"),
    *("route_share", "route_start", "route_end", "dispersive_weight", "dispersive_temperature", "dispersive_block"),
    *("align_weight", "align_block", "align_teacher_block", "align_gap"),
    *("kl_weight", "gradient_checkpointing", "log_every", "save_every", "keep", "keep_every", "clip_from"),
    *("latents", "selection", "transform", "failed_share", "damaged", "num_workers"),
    *("skip_limit", "tensorboard", "sample_every", "compile", "fast", "shard", "shard_group", "deterministic_reduce"),
    *("wandb", "trackio"),
    *("sample_guidance", "eval_every", "eval_clips", "eval_real", "eval_i3d", "sequence_parallel"),
    *("teacher", "student_steps", "teacher_steps", "teacher_guidance", "guided_from", "guided_to"),
}


def test_every_setting_is_shown_to_count():
    assert CHANGES.keys() | ELSEWHERE == SETTINGS.keys()


@pytest.fixture(scope="module")
def unchanged(vae, tmp_path_factory):
    """The weights of a run that no setting of CHANGES was changed for."""
    folder = tmp_path_factory.mktemp("unchanged")
    run(small(vae, "steps=4"), folder)
    return load_file(folder / "final/model.safetensors")


@pytest.mark.parametrize("name", CHANGES)
def test_settings_change_the_run(name, vae, unchanged, tmp_path):
    run(small(vae, "steps=4", f"{name}={CHANGES[name]}"), tmp_path)
    assert not same(unchanged, load_file(tmp_path / "final/model.safetensors"))


def test_gradients_are_clipped_from_a_step_on(vae, tmp_path):
    after = lambda step, first: tensors(tmp_path / f"{first}/checkpoints/step-{step:07d}")
    for first in (0, 2, 4):
        run(
            small(vae, "steps=4", "save_every=1", "keep=4", "clip_grad=1e-3", f"clip_from={first}"),
            tmp_path / f"{first}",
        )
    assert not same(after(1, 0), after(1, 2))
    assert same(after(2, 2), after(2, 4)) and not same(after(3, 2), after(3, 4))
    norms = [json.loads(line)["grad_norm"] for line in (tmp_path / "2/metrics.jsonl").read_text().splitlines()]
    assert min(norms) > 1e-3  # what is logged is the norm before


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


def test_tf32_is_for_cuda_and_for_training_alone(vae, tmp_path):
    before = torch.get_float32_matmul_precision()
    with arithmetic("tf32"):
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    with arithmetic("fp32"):
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    check_precision("tf32", torch.device("cuda"))
    with pytest.raises(ValueError, match="tf32 is for CUDA"):
        run(small(vae, "precision=tf32"), tmp_path)


def test_what_stays_in_float32(vae):
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


LOOKS_LIKE_OTHERS = [
    "clips #2",
    "1e3",
    "null",
    "yes",
    "007",
    "12:30",
    "2024-13-45",
    "[a]",
    "{a",
    "a: b",
    '"q"',
    "",
    " x ",
]


@pytest.mark.parametrize("text", LOOKS_LIKE_OTHERS)
def test_a_value_of_a_text_setting_is_text(text, tmp_path):
    """On the command line always; in a file as YAML writes it, in quotes, and a plain one whatever YAML reads in it."""
    config = resolve("folder-vae", [f"data={text}"])
    assert config.data == text
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump(asdict(config)))
    assert resolve(str(written), []) == config
    if not re.search(r'[#{["]|: |^ ', text):
        written.write_text(f"kind: vae\ndata: {text}\n")
        assert resolve(str(written), []).data == text


def test_only_paths_begin_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = ("data", "vae", "latents", "init", "eval_real", "eval_i3d")
    values = asdict(resolve("folder", ["eval_every=1", *(f"{name}=~/{name}" for name in paths)]))
    assert [values[name] for name in paths] == [f"/home/me/{name}" for name in paths]
    (tmp_path / "a.yaml").write_text("data: ~/videos\nvae: ~\n")
    assert resolve(str(tmp_path / "a.yaml"), []).data == "/home/me/videos"
    with pytest.raises(ValueError, match="precision is '~/fp32'"):
        resolve("folder", ["precision=~/fp32"])
    assert resolve("folder-vae", ["data=a~/~"]).data == "a~/~"


NUMBERS = {"010": 10, "0070": 70, "08": 8, "1_000": 1000, "+5": 5, "0x1f": 31, '"12"': 12}
FRACTIONS = {"010": 10, "1e-4": 1e-4, "0.5": 0.5, "00.25": 0.25, ".5": 0.5, "1.": 1, "2_0.5E+1": 205, '"0.125"': 0.125}


@pytest.mark.parametrize("in_file", [False, True])
def test_numbers_are_decimal_in_settings_and_in_tables(in_file, tmp_path):
    def read(name, text):
        if not in_file:
            return resolve("folder", ["vae=x", f"{name}={text}"])
        table, dot, inner = name.partition(".")
        (tmp_path / "a.yaml").write_text(f"vae: x\n{table}: " + (f"{{{inner}: {text}}}" if dot else text))
        return resolve(str(tmp_path / "a.yaml"), [])

    for text, value in NUMBERS.items():
        assert read("steps", text).steps == value
        plain = value if text[0] != '"' else text.strip('"')
        assert read("model.depth", text).model["depth"] == plain
    for text, value in FRACTIONS.items():
        assert read("weight_decay", text).weight_decay == value and type(read("clip_grad", text).clip_grad) is float
        if text[0] != '"':
            assert read("model.dropout", text).model["dropout"] == value
    for text in ("1:30", "1:30.5", "0b11", "0o17", "1__0", "1e", "!!float 1:30", "!!int 1:30", "2024-01-01"):
        for name in ("steps", "weight_decay"):
            with pytest.raises(ValueError, match=f"{name}|invalid literal|could not convert"):
                read(name, text)
    assert read("model.x", "1:30").model["x"] == "1:30"  # which no field of a network takes
    with pytest.raises(ValueError, match="gives 'depth' twice"):
        read("model", "{depth: 2, depth: 4}")


BAD_YAML = {
    "holds a value that contains itself": "x: &a [*a]",
    "more than 50 deep": "a: " + 60_000 * "[",
    "more than 10,000 values": "a0: &a0 [x,x,x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [*a{i},*a{i},*a{i}]\n" for i in range(12)),
    "has 300,001 bytes": "a: " + 299_998 * "b",
    "holds a value of 5,000 characters": "vae: x\nmodel: {depth: " + 5000 * "9" + "}",
    "seed is a number of thousands of digits": "vae: x\nseed: 0x" + 4000 * "f",
    "learning_rate is 9": "vae: x\nlearning_rate: " + 400 * "9",
    "kind is": "kind: [" + 900 * "a," + "]",
    "gives 'vae' twice": "vae: x\nvae: y",
    "month must be in": "vae: x\nmodel: {depth: 2024-13-45}",
    "is not valid YAML: invalid literal for int": 'vae: x\nmodel: {depth: !!int ""}',
    "is not valid YAML in line 2": "vae: x\nmodel: !!python/object:os.system {}",
    "does not hold settings by name": "? [a]\n: 3",
}


@pytest.mark.parametrize("say", BAD_YAML)
def test_hostile_yaml_is_refused_at_once_in_one_short_line(say, tmp_path):
    (tmp_path / "a.yaml").write_text(BAD_YAML[say])
    with pytest.raises(ValueError, match=re.escape(say)) as caught:
        resolve(str(tmp_path / "a.yaml"), [])
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    if "\n" not in BAD_YAML[say] and say != "kind is":
        with pytest.raises(ValueError):
            resolve("folder", [f"model={{{BAD_YAML[say]}}}"])


def test_aliases_and_other_encodings_of_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("<<: &all {steps: 7, vae: x}\nmodel: &m {depth: 3}\n")
    config = resolve(str(path), [])
    assert (config.steps, config.vae, config.model) == (7, "x", {"depth": 3})
    for encoding in ("utf-16", "utf-8-sig"):
        path.write_bytes("vae: café".encode(encoding))
        assert resolve(str(path), []).vae == "café"
    path.write_bytes("vae: café".encode("latin-1"))
    with pytest.raises(ValueError, match="is not valid YAML"):
        resolve(str(path), [])
