"""Commands on a model that ships with a weaker one: what uses it, what switches it off, and what keeps it."""

import json
from dataclasses import replace

import pytest
import torch
from awake_models import awake, awake_pipeline, digests

from latte import LattePipeline
from latte.cli import main
from latte.models.latte import Latte
from latte.models.latte_t2v import LatteT2V

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pipe = awake_pipeline(2, ["left", "right"])
    pipe.enable_autoguidance(awake(Latte(replace(pipe.transformer.config, hidden_size=8))), scale=2.5)
    pipe.save_pretrained(path := tmp_path_factory.mktemp("models") / "model")
    return path


def records(folder, tmp_path, *several):
    """samples.json of sets that a model makes with some further options each."""
    found = []
    for i, words in enumerate(several):
        out = tmp_path / str(i)
        assert main(["sample", str(folder), "--n", "2", "--steps", "2", *CPU, *words, "--out", str(out)]) == 0
        found.append(json.loads((out / "samples.json").read_text()))
    return found


def test_a_set_says_how_it_was_guided_and_repeats(folder, tmp_path):
    none = ["--autoguidance", "none"]
    own, said, other, off = records(
        folder, tmp_path, [], ["--autoguidance-scale", "2.5", "--cfg-scale", "1"], ["--autoguidance-scale", "2"], none
    )
    scales = lambda record: {name: value for name, value in record["settings"].items() if "scale" in name}
    assert scales(own) == {"guidance_scale": 1.0, "autoguidance_scale": 2.5} and own["autoguidance"]["hidden_size"] == 8
    assert said == own and len(own["sha256"]) == len(off["sha256"]) + 1
    assert scales(other)["autoguidance_scale"] == 2 and other["files"] != own["files"]
    assert scales(off) == {"guidance_scale": 4.0} and "autoguidance" not in off and off["files"] != own["files"]
    videos = LattePipeline.from_pretrained(folder)(class_labels=[0, 1], **own["settings"], output_type="uint8").frames
    assert len(videos) == 2
    away = ["--autoguidance", str(folder), "--autoguidance-scale", "2"]  # another model takes its place
    (itself,) = records(folder, tmp_path / "itself", away)
    assert itself["autoguidance"]["hidden_size"] == 16 and itself["files"] != other["files"]


def test_a_page_names_it_and_what_it_advises_works(folder, tmp_path, capsys):
    words = ["sample", str(folder), "--steps", "2", "--num-videos", "1", *CPU]
    assert main([*words, "--out", str(tmp_path / "page")]) == 0
    said = capsys.readouterr().out
    assert "guidance 2.5, away from its weaker model" in said and "weaker/model.safetensors sha256" in said
    assert "--autoguidance none --cfg-scale 1" in said
    assert main([*words, "--autoguidance", "none", "--cfg-scale", "1", "--out", str(tmp_path / "plain")]) == 0
    assert "2 steps, guidance 1, seed" in capsys.readouterr().out


def test_it_is_shown_planned_and_measured(folder, tmp_path, capsys):
    assert main(["info", str(folder)]) == 0
    assert "weaker      " in capsys.readouterr().out
    assert main(["plan", str(folder), "--steps", "4", *CPU]) == 0
    said = capsys.readouterr().out
    assert "  weaker    ####" in said and "of them are the weaker network's" in said
    assert main(["plan", str(folder), "--steps", "4", "--autoguidance", "none", *CPU]) == 0
    assert "weaker" not in capsys.readouterr().out
    speed = ["bench", "speed", str(folder), "--parts", "sampling", "--rounds", "1", "--num-videos", "1", "--steps", "1"]
    assert main([*speed, "--pab", "2/3", "--out", str(tmp_path / "speed.json"), *CPU]) == 0
    about = json.loads((tmp_path / "speed.json").read_text())
    assert about["autoguidance_scale"] == 2.5 and about["autoguidance"]["hidden_size"] == 8


def test_conversion_keeps_it(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    half, whole = (LattePipeline.from_pretrained(path) for path in (tmp_path / "half", folder))
    expected = {name: tensor.half().float() for name, tensor in whole.weaker.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in half.weaker.state_dict().items())
    assert half.sampling == whole.sampling and "weaker/model.safetensors, sha256" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "half"), str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/weaker/model.safetensors").stat().st_size > 1.5 * (
        tmp_path / "half/weaker/model.safetensors"
    ).stat().st_size
    assert main(["convert", str(folder), str(tmp_path / "file.pt"), "--to", "original"]) == 0
    assert f"left out {folder / 'weaker'}" in capsys.readouterr().out


def test_conversion_keeps_that_of_text_to_video(published, tmp_path):
    pipe = LattePipeline.from_pretrained(published)
    pipe.enable_autoguidance(awake(LatteT2V(pipe.transformer.config)), scale=2.0)
    pipe.save_pretrained(tmp_path / "first")
    for source, target, layout in (("first", "theirs", "diffusers"), ("theirs", "back", "latte")):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target), "--to", layout]) == 0
    assert digests(tmp_path / "back/weaker") == digests(tmp_path / "first/weaker")
    assert main(["convert", str(tmp_path / "first"), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    sizes = [(tmp_path / name / "weaker/model.safetensors").stat().st_size for name in ("half", "first")]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--autoguidance", "none", "--autoguidance-scale", "2"], "--autoguidance-scale does nothing without a weaker"),
        (["--cfg-scale", "3"], "guidance_scale 3.0 is of classifier-free guidance, and this model is guided away"),
        (["--autoguidance-scale", "1"], "autoguidance does nothing with autoguidance_scale 1: set"),
        (["--autoguidance", "nothing"], "no model at nothing"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(words, say, folder, tmp_path, capsys):
    assert main(["sample", str(folder), "--steps", "2", *CPU, *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert say in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
