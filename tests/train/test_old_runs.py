"""Run folders of earlier versions, which list the settings of all kinds of training, still resolve and resume."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from small_runs import TINY_VAE, run, same, small, small_t2v, tensors

import latte
from latte.eval.ablate.definitions import SCALES
from latte.eval.ablate.runs import ABOUT, FREE, Grid
from latte.files import read_json, write_json
from latte.train import checkpoint
from latte.train.config import KINDS, SETTINGS
from latte.train.presets import PRESETS
from latte.train.resolve import resolve
from latte.train.settings import default_of
from latte.weights.manifest import MANIFEST, write_manifest

OLD = Path(__file__).parent / "old_runs"  # config.yaml and state.json as written by earlier versions
ASSETS = sorted((Path(latte.__file__).parent / "assets").rglob("training*.yaml"))
# settings that those versions did not have
LATER = {"damaged", "fast", "sequence_parallel", "shard_group", "loss_weighting", "snr_gamma"}
LATER |= {"optimizer", "muon_momentum", "muon_per_head", "cooldown", "cooldown_shape", "average_every"}
LATER |= {"route_share", "route_start", "route_end"}
LATER |= {"dispersive_weight", "dispersive_temperature", "dispersive_block"}
LATER |= {"align_weight", "align_block", "align_teacher_block", "align_gap"}
LATER |= {"wandb", "trackio"}
LATER |= {"teacher", "student_steps", "teacher_steps", "teacher_guidance", "guided_from", "guided_to"}
LATER |= {
    "teacher_autoguidance",
    "distillation",
    "backward_simulation",
    "equivariance_weight",
    "thumbnail_weight",
    "thumbnail_scale",
    "detail_scale",
    "freeze_encoder",
    "sample_settings",
    "whiten_latents",
}
CONFIGS = {
    "latte": small,
    "t2v": small_t2v,
    "vae": lambda _, *changes: resolve("shapes-vae", [*TINY_VAE, "precision=bf16", *changes]),
}


def read_old(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", [*ASSETS, *sorted(OLD.rglob("config.yaml"))], ids=lambda path: path.parent.name)
def test_old_settings_resolve_without_loss(path):
    values = read_old(path)
    config = resolve(str(path), [])
    own = asdict(config)
    assert type(config) is KINDS[values["kind"]] and own["kind"] == config.kind == values["kind"]
    assert {name: own[name] for name in values if name in own} == {name: values[name] for name in values if name in own}
    assert all(values[name] == default_of(SETTINGS[name]) for name in values.keys() - own.keys())


def test_the_recorded_settings_are_those_of_all_kinds():
    for kind in CONFIGS:
        assert read_old(OLD / kind / "config.yaml").keys() == SETTINGS.keys() - LATER
        assert read_json(OLD / kind / "state.json")["run"].keys() == SETTINGS.keys() - LATER


@pytest.mark.parametrize(
    ("kind", "name", "value", "owners"),
    [
        ("latte", "kl_weight", 0.1, "kind=vae"),
        ("latte", "caption_dropout", 0.2, "kind=t2v"),
        ("t2v", "classes", False, "kind=latte"),
        ("vae", "latents", "step", "kind=latte or kind=t2v"),
    ],
)
def test_a_setting_of_another_kind_is_refused_unless_it_has_its_default(kind, name, value, owners, tmp_path):
    values = read_old(OLD / kind / "config.yaml")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | {name: value}))
    say = f"unknown key '{name}' for kind={kind}: it is a setting of {owners}; leave it out"
    with pytest.raises(ValueError, match=f"^{say}$"):
        resolve(str(tmp_path / "config.yaml"), [])


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_old_run_resumes_bit_exactly(kind, vae, tmp_path):
    config = CONFIGS[kind](vae)
    run(config, tmp_path / "unbroken")
    shutil.copytree(tmp_path / "unbroken", tmp_path / "old")
    shutil.rmtree(tmp_path / "old/checkpoints/step-0000012")
    shutil.rmtree(tmp_path / "old/final")
    before = tmp_path / "old/checkpoints/step-0000010"
    state, old = read_json(before / "state.json"), read_json(OLD / kind / "state.json")
    assert old["step"] == state["step"] and old["health"] == state["health"]
    write_json(before / "state.json", {**state, "run": old["run"]})
    write_manifest(before, sorted(path.name for path in before.iterdir() if path.name != MANIFEST))
    shutil.copyfile(OLD / kind / "config.yaml", tmp_path / "old/config.yaml")
    recorded = resolve(str(tmp_path / "old/config.yaml"), [] if kind == "vae" else [f"vae={vae}"])
    assert recorded == config
    run(recorded, tmp_path / "old")
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("unbroken", "old")))
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("unbroken", "old")]
    unbroken, resumed = ([json.loads(line)["loss"] for line in each] for each in lines)
    assert unbroken == resumed and len(resumed) == 12
    assert read_old(tmp_path / "old/config.yaml") == asdict(config)
    with pytest.raises(ValueError, match="with different settings: it has seed="):
        run(CONFIGS[kind](vae, "seed=1"), tmp_path / "old")


def test_a_run_stopped_before_its_first_checkpoint_resumes(vae, tmp_path):
    values = read_old(OLD / "latte/config.yaml") | {"vae": str(vae)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert run(small(vae, "steps=2"), tmp_path).is_dir()


def test_old_ablations_are_accepted(tmp_path):
    grid = Grid(tmp_path, SCALES["small"], PRESETS["shapes-plain"], (), (0,), 4)
    grid.write_settings()
    about = read_json(tmp_path / ABOUT)
    others = {name: default_of(known) for name, known in SETTINGS.items() if name not in FREE}
    write_json(tmp_path / ABOUT, others | about)
    grid.write_settings()
    assert read_json(tmp_path / ABOUT) == about
