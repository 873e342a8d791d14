"""Commands on a model that ships with a weaker model for autoguidance: using it, switching it off, keeping it."""

import json
from dataclasses import replace

import pytest
import torch
from awake_models import awake, awake_pipeline

from latte import LattePipeline
from latte.cli import main
from latte.commands import bench
from latte.eval.bench.forward_speed import Evaluation
from latte.eval.bench.sampling_speed import Job, why_no_peer
from latte.models.latte import Latte
from latte.models.latte_t2v import LatteT2V
from latte.weights.published import load_t2v

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pipe = awake_pipeline(2, ["left", "right"])
    pipe.enable_autoguidance(awake(Latte(replace(pipe.transformer.config, hidden_size=8))), scale=2.5)
    pipe.save_pretrained(path := tmp_path_factory.mktemp("models") / "model")
    return path


def records(folder, tmp_path, *several):
    """The samples.json of one set per list of extra options."""
    found = []
    for i, words in enumerate(several):
        out = tmp_path / str(i)
        assert main(["sample", str(folder), "--n", "1", "--steps", "1", *CPU, *words, "--out", str(out)]) == 0
        found.append(json.loads((out / "samples.json").read_text()))
    return found


def test_a_set_records_its_guidance_and_can_be_reproduced(folder, tmp_path):
    none = ["--autoguidance", "none"]
    own, off = records(folder, tmp_path, [], none)
    scales = lambda record: {name: value for name, value in record["settings"].items() if "scale" in name}
    assert scales(own) == {"guidance_scale": 1.0, "autoguidance_scale": 2.5} and own["autoguidance"]["hidden_size"] == 8
    assert len(own["sha256"]) == len(off["sha256"]) + 1
    assert scales(off) == {"guidance_scale": 4.0} and "autoguidance" not in off and off["files"] != own["files"]
    settings = {**own["settings"], "batch_size": 1, "output_type": "latent"}
    assert len(LattePipeline.from_pretrained(folder)(class_labels=[0], **settings).frames) == 1
    away = [
        "--autoguidance",
        str(folder),
        "--autoguidance-scale",
        "2",
        "--cfg-scale",
        "1",
    ]  # another model replaces it
    (itself,) = records(folder, tmp_path / "itself", away)
    assert itself["autoguidance"]["hidden_size"] == 16 and scales(itself)["autoguidance_scale"] == 2
    assert itself["files"] != own["files"]


def test_the_page_names_the_weaker_model(folder, tmp_path, capsys):
    words = ["sample", str(folder), "--steps", "1", "--classes", "0", "--num-videos", "1", *CPU]
    assert main([*words, "--out", str(tmp_path / "page")]) == 0
    said = capsys.readouterr().out
    assert "guidance 2.5, away from its weaker model" in said and "weaker/model.safetensors sha256" in said
    assert main([*words, "--autoguidance", "none", "--cfg-scale", "1", "--out", str(tmp_path / "plain")]) == 0
    assert "1 steps, guidance 1, seed" in capsys.readouterr().out


def test_info_plan_and_evaluation_include_the_weaker_model(folder, capsys):
    assert main(["info", str(folder)]) == 0
    assert "weaker      " in capsys.readouterr().out
    assert main(["plan", str(folder), "--steps", "4", *CPU]) == 0
    said = capsys.readouterr().out
    assert "  weaker    ####" in said and "of them are the weaker network's" in said
    assert main(["plan", str(folder), "--steps", "4", "--autoguidance", "none", *CPU]) == 0
    assert "weaker" not in capsys.readouterr().out
    pipe = LattePipeline.from_pretrained(folder)
    evaluation = Evaluation(pipe, 4, 16, 0)
    both = evaluation.compute(evaluation.network())
    assert evaluation.halves == 2 and len(both) == 2 and not torch.equal(*both)
    job = Job(pipe, {"prompt_embeds": None}, {}, None)
    assert "it has no autoguidance" in why_no_peer(job)


def test_the_guidance_benchmark_includes_autoguidance(folder, monkeypatch):
    listed = []
    monkeypatch.setattr(bench, "load_shape_features", torch.nn.Identity)
    monkeypatch.setattr(bench, "measure_ways", lambda pipe, count, rows, *rest: listed.append(rows) or iter(()))
    for words in ([], ["--autoguidance", "none"]):
        assert main(["bench", "guidance", str(folder), "--scales", "3", "--plus-scales", "1", *words, *CPU]) == 0
    own, off = ([way for way, _ in rows] for rows in listed)
    assert own == [*off, "autoguidance"] and len(off) > 5


def test_conversion_keeps_the_weaker_model(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    half, whole = (LattePipeline.from_pretrained(path) for path in (tmp_path / "half", folder))
    expected = {name: tensor.half().float() for name, tensor in whole.weaker.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in half.weaker.state_dict().items())
    assert half.sampling == whole.sampling and "weaker/model.safetensors, sha256" in capsys.readouterr().out
    assert main(["convert", str(folder), str(tmp_path / "file.pt"), "--to", "original"]) == 0
    assert f"left out {folder / 'weaker'}" in capsys.readouterr().out


def test_conversion_replaces_or_drops_the_weaker_model(folder, tmp_path, capsys):
    words = ["convert", str(folder), str(tmp_path / "other"), "--dtype", "float16", "--autoguidance", str(folder)]
    assert main([*words, "--autoguidance-scale", "1.5"]) == 0
    said, read = capsys.readouterr().out, LattePipeline.from_pretrained(tmp_path / "other")
    assert "weaker, 1" in said and read.weaker.config == read.transformer.config
    assert read.sampling.guidance.autoguidance_scale == 1.5 and read.class_names == ["left", "right"]
    assert main(["convert", str(tmp_path / "other"), str(tmp_path / "none"), "--autoguidance", "none"]) == 0
    assert "with no weaker model" in capsys.readouterr().out and not (tmp_path / "none/weaker").exists()
    assert LattePipeline.from_pretrained(tmp_path / "none").sampling.guidance.autoguidance_scale is None
    for words, say in (
        ([str(folder), "x", "--autoguidance-scale", "2"], "--autoguidance-scale does nothing without --autoguidance"),
        ([str(folder), "x.pt", "--to", "original", "--autoguidance", "none"], "does nothing with --to original"),
        ([str(folder / "vae"), "x", "--autoguidance", "none"], "which is a VAE: leave it out"),
    ):
        assert main(["convert", *words]) == 2
        assert say in capsys.readouterr().err


def test_a_variant_includes_the_weaker_model(folder, tmp_path, capsys):
    pipe, early = LattePipeline.from_pretrained(folder), tmp_path / "early"
    pipe.save_pretrained(early, variant="early")  # not a precision, so it is read only on request
    names = {file.relative_to(early).as_posix() for file in early.rglob("*.safetensors")}
    assert names == {f"{part}model.early.safetensors" for part in ("", "vae/", "weaker/")}
    same = lambda one, other: all(torch.equal(one[name], tensor) for name, tensor in other.state_dict().items())
    assert same(LattePipeline.from_pretrained(early, variant="early").weaker.state_dict(), pipe.weaker)
    variant = ["--variant", "early"]
    (made,) = records(early, tmp_path, variant)
    (plain,) = records(folder, tmp_path / "plain", [])
    assert made["files"] == plain["files"] and len(set(made["sha256"])) == 3
    for name, words in (("kept", []), ("other", ["--autoguidance", str(folder)])):
        assert main(["convert", str(early), str(tmp_path / name), *variant, *words]) == 0
        assert "model.early.safetensors, sha256" in capsys.readouterr().out
    kept, other = (LattePipeline.from_pretrained(tmp_path / name).weaker for name in ("kept", "other"))
    assert same(kept.state_dict(), pipe.weaker) and same(other.state_dict(), pipe.transformer)
    assert main(["info", str(early)]) == 0 and "weaker      " in capsys.readouterr().out


def test_text_to_video_conversion_keeps_the_weaker_model(published, tmp_path):
    pipe = LattePipeline.from_pretrained(published)
    pipe.enable_autoguidance(awake(LatteT2V(pipe.transformer.config)), scale=2.0)
    pipe.save_pretrained(tmp_path / "first")
    for source, target, layout, dtype in (("first", "theirs", "diffusers", "float16"), ("theirs", "back", "latte", "")):
        words = ["--to", layout, *(["--dtype", dtype] if dtype else [])]
        assert main(["convert", str(tmp_path / source), str(tmp_path / target), *words]) == 0
    first, back = (load_t2v(tmp_path / name / "weaker").state_dict() for name in ("first", "back"))
    assert all(torch.equal(tensor, first[name].half().float()) for name, tensor in back.items())
    size = lambda name: sum(file.stat().st_size for file in (tmp_path / name / "weaker").glob("*.safetensors"))
    assert size("theirs") < 0.6 * size("first")


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--autoguidance", "none", "--autoguidance-scale", "2"], "--autoguidance-scale does nothing without a weaker"),
        (["--cfg-scale", "3"], "guidance_scale 3.0 is for classifier-free guidance, but this model is guided away"),
        (["--autoguidance-scale", "1"], "autoguidance does nothing with autoguidance_scale 1: set"),
        (["--autoguidance", "nothing"], "no model at nothing"),
    ],
)
def test_conflicting_options_give_a_one_line_error(words, say, folder, tmp_path, capsys):
    assert main(["sample", str(folder), "--steps", "2", *CPU, *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert say in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
