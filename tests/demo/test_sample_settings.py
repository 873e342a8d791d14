"""Settings on the `latte demo` page: its command and its Python code reproduce the same video."""

import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from awake_models import awake_pipeline, write_model

from latte import LattePipeline
from latte.cli import main
from latte.commands import sample
from latte.commands.options.sampling import sample_options
from latte.demo.opened_models import OpenedModels
from latte.demo.sample_settings import (
    BROADCAST,
    NOTHING,
    Opening,
    Settings,
    call_words,
    command_text,
    command_words,
    default_settings,
    model_choices,
    python_text,
)
from latte.demo.settings_panel import chosen_settings, shown_values
from latte.plans.plan_file import write_plan
from latte.plans.rules import repeat
from latte.sampling_call import call_plan
from latte.sampling_settings import Guidance, Sampling
from latte.weights.sampling_defaults import save_sampling

OPENING = Opening(device="cpu")
GOING_ON = lambda step, steps: True


@pytest.fixture(scope="module")
def models(tmp_path_factory, published):
    """A class-conditional model with a plan for its four steps, an unconditional one, and a text-to-video one."""
    pipe, root = awake_pipeline(3, ["a", "-b", "c"]), tmp_path_factory.mktemp("models")
    folder = write_model(pipe, root / "classes")
    save_sampling(Sampling(Guidance(2.0, (300, 1000)), 4, eta=0.5), folder)
    pipe = LattePipeline.from_pretrained(folder)
    write_plan(repeat(call_plan(pipe, {}), {0, 2}, "network", 1), folder / "plans" / "half.json")
    write_model(awake_pipeline(), root / "free")
    return OpenedModels([str(folder), str(root / "free"), str(published)], OPENING)


def settings_of(models, kind, **changed):
    name = models.names[kind]
    return replace(default_settings(models.pipe(name), name), **changed)


def by_command(line, tmp_path, monkeypatch):
    """The videos that a command writes, before encoding."""
    shown = []
    show = sample.show
    monkeypatch.setattr(sample, "show", lambda videos, *rest: shown.append(videos) or show(videos, *rest))
    assert main([*shlex.split(line)[1:], "--out", str(tmp_path / "samples")]) == 0
    return shown[0]


def by_python(text, monkeypatch):
    """The frames that a program exports."""
    exported = []
    monkeypatch.setattr("latte.video.export_to_video", lambda frames, path, fps: exported.append(frames))
    exec(text, {})
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in exported[0]])).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (0, {"subject": "-b", "reuse": "half", "seed": 3}),
        (0, {"sampler": "heun", "guidance_scale": 3.0, "guidance_method": "apg", "guidance_low": 0}),
        (0, {"steps": 6, "eta": 0.0, "reuse": BROADCAST, "spatial": 3, "temporal": 1, "mlp": 2}),
        (1, {"steps": 2}),
        (2, {"subject": '-a dog\'s "day"', "negative_prompt": "-grey", "steps": 4, "reuse": BROADCAST}),
    ],
)
def test_command_and_python_make_the_same_video(kind, changed, models, tmp_path, monkeypatch, capsys):
    settings = settings_of(models, kind, **changed)
    pipe, made = models.pipe(settings.model), models.make(settings, GOING_ON)
    videos = by_command(command_text(pipe, settings, OPENING), tmp_path, monkeypatch)
    assert videos.shape[0] == 1 and torch.equal(videos[0], made.frames)
    assert torch.equal(by_python(python_text(pipe, settings, OPENING), monkeypatch), made.frames)


def test_settings_change_the_video_and_leave_the_pipeline_as_it_was(models):
    make = lambda **changed: models.make(settings_of(models, 0, **changed), GOING_ON).frames
    plain, changed = make(), [{"seed": 1}, {"subject": "c"}, {"eta": 0.0}, {"steps": 3}, {"reuse": "half"}]
    changed += [{"guidance_high": 500.0}, {"guidance_scale": 3.0}, {"guidance_method": "apg"}, {"sampler": "euler"}]
    changed += [{"reuse": BROADCAST, "spatial": 2}]
    assert [each for each in changed if torch.equal(make(**each), plain)] == []
    assert torch.equal(make(), plain)


def test_a_command_lists_only_settings_that_differ_from_the_model_folder(models):
    settings = settings_of(models, 0)
    pipe = models.pipe(settings.model)
    assert call_words(pipe, settings) == {"class_labels": ["a"], "seed": 0}
    assert "eta" not in call_words(pipe, replace(settings, sampler="euler", eta=0.1))
    words = command_words(pipe, replace(settings, guidance_high=900), Opening("some-vae", "float16"))
    said = sample_options(words[1:])
    assert (said.vae, said.dtype, said.device, said.cfg_interval) == ("some-vae", "float16", None, [300, 900])
    assert (said.classes, said.num_videos, said.batch_size, said.cfg_scale) == (["a"], 1, 1, None)


def test_displayed_settings_round_trip(models):
    for kind in range(3):
        settings = settings_of(models, kind, seed=5)
        choices = model_choices(models.pipe(settings.model))
        shown = shown_values(settings, choices)
        read = chosen_settings({name: each["value"] for name, each in shown.items()}, 5, choices.takes_prompts)
        assert read == settings
        assert shown["label"]["value"] in (*choices.classes, None)  # gradio takes no other value of a dropdown
        there = {name for name, each in shown.items() if each.get("visible", True)}
        assert ("label" in there, "prompt" in there, "guidance_scale" in there) == (kind == 0, kind == 2, kind != 1)
        assert not there & {"spatial", "cross"}
        ranges = shown_values(replace(settings, reuse=BROADCAST), choices)
        assert ranges["spatial"]["visible"] and ranges["cross"]["visible"] == (kind == 2)
    assert model_choices(models.pipe(models.names[0])).reuse == [NOTHING, BROADCAST, "half"]


def test_plans_are_plotted_with_their_flop_ratio(models, tmp_path):
    pytest.importorskip("matplotlib")
    draw = lambda **changed: models.draw(settings_of(models, 0, **changed), tmp_path / "plan.png")
    assert draw().startswith("4 evaluations, ") and (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    fewer = float(draw(reuse="half").split()[-3])
    assert 1.4 < fewer < 7 / 4  # two of three guided evaluations; the layers around the blocks always compute
    with pytest.raises(ValueError, match="the plan is for 4 evaluations"):
        draw(reuse="half", steps=5)


def test_a_stopped_video_returns_none_and_progress_is_reported(models):
    seen = []
    made = models.make(settings_of(models, 0), lambda step, steps: seen.append((step, steps)) or step < 2)
    assert made is None and seen == [(1, 4), (2, 4)]


@pytest.mark.parametrize(
    ("kind", "changed", "say"),
    [
        (2, {"subject": " "}, "the prompt is empty"),
        (0, {"reuse": BROADCAST, "spatial": 1, "temporal": 1}, "every range is 1"),
        (0, {"model": "/etc"}, "'/etc' is not a model of this page, which has "),
        (0, {"reuse": "/etc/passwd"}, "reuse is '/etc/passwd', not one of nothing, "),
        (0, {"seed": None}, "seed is empty: set it"),
    ],
)
def test_bad_settings(kind, changed, say, models):
    with pytest.raises(ValueError, match=say):
        models.make(settings_of(models, kind, **changed), GOING_ON)


def test_default_settings_match_a_call_without_options(models):
    assert settings_of(models, 0) == Settings(
        models.names[0], "a", steps=4, eta=0.5, guidance_scale=2.0, guidance_low=300, guidance_high=1000
    )


def test_guidance_scale_of_a_model_with_a_weaker_model_means_autoguidance(tmp_path):
    pipe = awake_pipeline()
    pipe.enable_autoguidance(awake_pipeline().transformer.train(), scale=2.5)
    pipe.weaker.final_linear.weight.data.mul_(0.5)
    pipe.sampling = replace(pipe.sampling, num_inference_steps=2)
    pipe.save_pretrained(tmp_path / "model")
    models = OpenedModels([str(tmp_path / "model")], OPENING)
    settings, pipe = settings_of(models, 0), models.pipe(models.names[0])
    choices, changed = model_choices(pipe), replace(settings, guidance_scale=3.0)
    assert settings.guidance_scale == 2.5 and choices.guides and choices.away
    assert shown_values(settings, choices)["guidance_scale"]["info"] == "away from the model's weaker model"
    assert call_words(pipe, settings) == {"num_videos": 1, "seed": 0}
    assert "--autoguidance-scale 3.0" in command_text(pipe, changed, OPENING)
    assert "autoguidance_scale=3.0" in python_text(pipe, changed, OPENING)
    assert not torch.equal(models.make(changed, GOING_ON).frames, models.make(settings, GOING_ON).frames)
