"""Settings that change when a run resumes: which may, with what effect, and what is recorded."""

import json
from dataclasses import replace

import pytest
from small_runs import PLAIN, TINY, run, same, small, tensors

from latte.cli import main
from latte.files import read_json
from latte.train import checkpoint
from latte.train.config import KINDS
from latte.train.run import Run
from latte.train.step import StepHistory

NEVER = {"kind", "clips", "model", "image_size", "num_frames", "global_batch_size", "seed", "deterministic_reduce"}
NEVER |= {"classes", "motion_frames", "frame_interval", "selection", "transform", "flip", "latents", "sample_latents"}
NEVER |= {"num_images", "text_encoder", "damaged", "optimizer", "average_every"}
NEVER |= {"align_weight", "align_block", "align_teacher_block", "align_gap"}
NEVER |= {"freeze_encoder"}
NEVER |= {"distillation", "backward_simulation"}
NEVER |= {"student_steps", "teacher_steps", "teacher_guidance", "teacher_autoguidance", "guided_from", "guided_to"}
PATHS = {"init", "vae", "data", "teacher"}
CHANGED = {"learning_rate": 3e-3, "warmup": 5, "schedule": "cosine", "weight_decay": 0.3, "clip_grad": 1e-3}
CHANGED |= {"clip_from": 6, "ema_decay": 0.5, "precision": "bf16", "timestep_std": 0.7, "timestep_mean": 0.1}
CHANGED |= {"loss_weighting": "min-snr", "snr_gamma": 3.0}


def newest(folder):
    return checkpoint.latest(folder)


def test_every_setting_is_free_tunable_or_fixed():
    for kind in KINDS.values():
        free, tunable, names = kind.resumable(), kind.tunable(), kind.defaults().keys()
        assert not free & tunable and kind.movable() == PATHS & names
        assert names - free - tunable - PATHS == NEVER & names


def test_steps_after_a_change_use_the_new_values(vae, tmp_path, monkeypatch):
    words = ["steps=8", "save_every=4", "weight_decay=0.1", "precision=fp32", "schedule=constant", "warmup=6"]
    before = small(vae, *words)
    after = replace(before, **CHANGED)
    run(replace(before, steps=4), tmp_path / "parts")
    with pytest.warns(UserWarning, match="after step 4 the run continues with .*weight_decay=0.3 .it was 0.1."):
        run(after, tmp_path / "parts", asked=CHANGED)
    parts, step = tensors(newest(tmp_path / "parts")), Run.step

    def with_the_new_values(self, number):
        if number == 4:
            self.config = self.objective.config = after
            self.gradients.loss.precision = after.precision
            for group in self.optimizer.param_groups:
                group["weight_decay"] = after.weight_decay
        return step(self, number)

    monkeypatch.setattr(Run, "step", with_the_new_values)
    run(before, tmp_path / "whole")
    assert same(parts, tensors(newest(tmp_path / "whole")))


def test_the_record_of_changes_has_the_step_and_both_values(vae, tmp_path):
    words = [
        "train",
        "--config",
        "shapes",
        "--device",
        "cpu",
        *TINY,
        f"vae={vae}",
        "--run",
        str(tmp_path),
        "schedule=constant",
    ]
    first = {
        "after_step": 2,
        "settings": {"learning_rate": {"from": 1.5e-3, "to": 5e-5}, "steps": {"from": 2, "to": 4}},
    }
    assert main([*words, "steps=2"]) == 0
    assert not (tmp_path / "changes.json").exists() and "changes" not in read_json(tmp_path / "final/trained.json")
    assert main([*words, "steps=4", "learning_rate=5e-5"]) == 0
    assert main([*words, "steps=6", "clip_grad=0.5", "learning_rate=5e-5"]) == 0
    second = {"after_step": 4, "settings": {"clip_grad": {"from": 1.0, "to": 0.5}, "steps": {"from": 4, "to": 6}}}
    for values in (checkpoint.read_state(newest(tmp_path)), *map(read_json, (tmp_path / "changes.json",))):
        assert values["changes"] == [first, second]
    assert read_json(tmp_path / "final/trained.json") == {"steps": 6, "changes": [first, second]}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([7.5e-4, 1.5e-3, 5e-5, 5e-5, 5e-5, 5e-5])


def test_unrequested_changes_are_rejected_with_the_options_to_add(vae, tmp_path, capsys):
    words = ["train", "--config", "shapes-plain", "--device", "cpu", f"vae={vae}", "--run", str(tmp_path)]
    words += [word for word in [*TINY, "steps=2"] if word not in PLAIN]
    assert main([*words, "learning_rate=1e-3", "schedule=constant"]) == 0
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "with different settings: to keep its own, add learning_rate=0.001 schedule=constant; " in said
    assert "add learning_rate=0.0015 schedule=cosine or --allow-changes" in said and said.count("\n") == 1
    assert main([*words, "schedule=constant"]) == 2
    assert "to keep its own, add learning_rate=0.001; " in capsys.readouterr().err
    assert main([*words, "--allow-changes", "steps=3"]) == 0
    said = capsys.readouterr().err
    assert "after step 2 the run continues with learning_rate=0.0015 (it was 0.001), schedule=cosine" in said


def test_a_change_of_a_finished_run_has_no_effect_and_is_not_recorded(vae, tmp_path, capsys):
    words = ["train", "--config", "shapes", "--device", "cpu", *TINY, f"vae={vae}", "--run", str(tmp_path), "steps=2"]
    assert main(words) == 0
    settings = (tmp_path / "config.yaml").read_text()
    capsys.readouterr()
    assert main([*words, "learning_rate=1e-4"]) == 0
    said = capsys.readouterr().err
    assert (
        f"learning_rate=0.0001 has no effect: {tmp_path} has done all its steps; give a larger steps=N as well" in said
    )
    assert not (tmp_path / "changes.json").exists() and (tmp_path / "config.yaml").read_text() == settings
    assert "1e-4" not in (tmp_path / "final/README.md").read_text()


def test_some_settings_never_change(vae, tmp_path, capsys):
    words = [
        "train",
        "--config",
        "shapes",
        "--device",
        "cpu",
        *TINY,
        f"vae={vae}",
        "--run",
        str(tmp_path),
        "steps=2",
        "--allow-changes",
    ]
    assert main(words) == 0
    capsys.readouterr()
    for change in ("seed=1", "model.depth=4", "global_batch_size=2", "num_frames=2", "clips=11", "sample_latents=true"):
        assert main([*words, change, "learning_rate=1"]) == 2
        name, said = change.partition("=")[0].partition(".")[0], capsys.readouterr().err
        assert f"with different settings: it has {name}=" in said and "; choose another folder" in said
    assert not (tmp_path / "changes.json").exists()


def test_an_unsaved_change_is_recorded_again(vae, tmp_path, monkeypatch):
    """A run that is killed after the change resumes from the checkpoint before it."""
    config = small(vae, "steps=4", "schedule=constant")
    run(replace(config, steps=2), tmp_path)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError), pytest.warns(UserWarning, match="clip_grad"):
        patch.setattr(Run, "step", lambda *_: 1 / 0)
        run(replace(config, clip_grad=9.0), tmp_path, asked=["clip_grad"])
    assert [change["after_step"] for change in read_json(tmp_path / "changes.json")["changes"]] == [2]
    run(config, tmp_path)
    assert [*read_json(tmp_path / "changes.json")["changes"][0]["settings"]] == ["steps"]


def test_half_precision_begins_with_its_own_loss_scale(vae, tmp_path):
    config = small(vae, "steps=2", "schedule=constant", "precision=fp32")
    run(config, tmp_path)
    for steps, precision, scale in ((3, "fp16", 2.0**14), (4, "bf16", 1.0)):
        with pytest.warns(UserWarning, match=f"precision={precision}"):
            run(replace(config, steps=steps, precision=precision), tmp_path, asked=["precision"])
        health = StepHistory(**checkpoint.read_state(newest(tmp_path))["health"])
        assert health.scale == scale and not health.skipped


def test_requested_settings_may_change_before_the_first_checkpoint(vae, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Run, "step", lambda *_: 1 / 0)
        run(small(vae, "steps=2"), tmp_path)
    with pytest.raises(ValueError, match="but no checkpoint"):
        run(small(vae, "steps=2", "learning_rate=0.1"), tmp_path)
    run(small(vae, "steps=2", "learning_rate=0.1"), tmp_path, asked=["learning_rate"])
