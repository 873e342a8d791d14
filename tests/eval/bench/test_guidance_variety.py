"""`latte bench guidance`: the rows it measures, those it reuses, and invalid options."""

import json

import pytest
import torch
from awake_models import SIZE, awake_pipeline, write_model

from latte.cli import main
from latte.commands import bench
from latte.eval.bench import guidance_variety
from latte.eval.bench.guidance_variety import COLUMNS, candidates, name_of
from latte.shapes.draw import MOTIONS

WORDS = ["--num-videos", "6", "--steps", "1", "--batch-size", "6", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(awake_pipeline(8, list(MOTIONS)), tmp_path_factory.mktemp("model") / "shapes"))


def test_rows_combine_methods_and_scales():
    rows = list(candidates(["interval", "cfg++"], [2.0, 3.0], [0.5]))
    assert [(way, settings["guidance_scale"]) for way, settings in rows] == [
        ("none", 1), ("interval", 2), ("interval", 3), ("cfg++", 0.5),
    ]  # fmt: skip
    assert rows[1][1]["guidance_interval"] == (500, 1000) and rows[3][1]["guidance_method"] == "cfg++"
    assert name_of({"way": "cfg++", "guidance_scale": 0.5}) == "cfg++ 0.5"


def test_measured_rows_are_reused(model, tmp_path, capsys, monkeypatch):
    mean_colours = lambda network, videos: videos.float().mean((1, 3, 4))  # in place of a network that takes seconds
    monkeypatch.setattr(guidance_variety, "shape_features", mean_colours)
    monkeypatch.setattr(bench, "load_shape_features", torch.nn.Identity)
    assert SIZE["num_frames"] == 4
    out, plot = tmp_path / "guidance.json", tmp_path / "guidance.png"
    words = ["bench", "guidance", model, *WORDS, "--out", str(out)]
    assert main([*words, "--ways", "cfg", "--scales", "3"]) == 0
    (none, cfg) = json.loads(out.read_text())["rows"]
    assert [none["way"], cfg["way"]] == ["none", "cfg"] and all(cfg[name] >= 0 for name in COLUMNS)
    assert none["distance"] != cfg["distance"]
    out.write_text(out.read_text().replace(f'"distance": {cfg["distance"]!r}', '"distance": 7.0'))
    more = ["--ways", "cfg", "autoguidance", "--scales", "3", "--autoguidance", model, "--plot", str(plot)]
    assert main([*words, *more]) == 0
    rows = {name_of(row): row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["none 1", "cfg 3", "autoguidance 3"] and rows["cfg 3"]["distance"] == 7
    assert rows["autoguidance 3"]["weaker"]["depth"] == SIZE["depth"] and plot.read_bytes()[:4] == b"\x89PNG"
    assert "| cfg 3 |" in capsys.readouterr().out
    assert main([*words, "--ways", "cfg", "--seed", "1"]) == 2
    assert "guidance.json was measured with seed 0, not 1: name another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--cfg-scale", "2"], "--cfg-scale has no effect here"),
        (["--ways", "cfg", "--autoguidance", "x"], "the way autoguidance and --autoguidance MODEL go together"),
        (["--ways", "autoguidance"], "shapes has no weaker model for the way autoguidance: name one"),
        (["--scales", "1"], "--scales holds 1, which does not guide"),
        (["--plus-scales", "2"], "--plus-scales holds a number that is not from 0 to 1"),
        (["--num-videos", "5"], "--num-videos is 5"),
    ],
)
def test_ineffective_options_are_rejected(words, say, capsys):
    assert main(["bench", "guidance", *words]) == 2
    assert say in capsys.readouterr().err
