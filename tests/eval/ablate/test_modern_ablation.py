"""`latte ablate modern`: its arms match their names, fit the networks, and share no run that differs."""

import re

import numpy as np
import pytest
import torch
from ablation_grids import grid_of, write_scores
from PIL import Image

from latte.eval.ablate import runs
from latte.eval.ablate.arms import Arm, together
from latte.eval.ablate.definitions import SCALES
from latte.eval.ablate.modern import PARTS
from latte.eval.ablate.report import write_report
from latte.eval.ablate.runs import Evaluation, missing_work
from latte.models.latte import Latte, LatteConfig
from latte.train.objectives.between_blocks import BetweenBlocks

OFF = {  # for each part: what the small base has instead
    "flow matching": {"prediction": "v"},
    "logit-normal timesteps": {"timestep_std": 0.0, "timestep_mean": 0.0},
    "Muon": {"optimizer": "adamw"},
    "trapezoid": {"schedule": "cosine"},
    "min-SNR": {"loss_weighting": "none"},
    "another average": {"average_every": 0},
    "token routing": {"route_share": 0.0},
    "dispersive loss": {"dispersive_weight": 0.0, "micro_batch_size": 0},
    "self-alignment": {"align_weight": 0.0},
    "self-conditioning": {"model": {"self_condition": False}},
}
ON = {
    "flow matching": {"prediction": "flow"},
    "logit-normal timesteps": {"timestep_std": 1.0, "timestep_mean": 0.0},
    "Muon": {"optimizer": "muon"},
    "trapezoid": {"schedule": "trapezoid"},
    "min-SNR": {"loss_weighting": "min-snr"},
    "another average": {"average_every": 61},
    "token routing": {"route_share": 0.5},
    "dispersive loss": {"dispersive_weight": 0.5, "micro_batch_size": 16},
    "self-alignment": {"align_weight": 0.2},
    "self-conditioning": {"model": {"self_condition": True}},
}


def modern(folder, scale="small", **options):
    return grid_of(folder, scale, names=("modern",), **options)


def test_arms_have_the_parts_that_their_names_say(tmp_path):
    grid = modern(tmp_path)
    arms = grid.ablations["modern"].arms
    parts = list(ON)
    expected = {"base": [], "all": parts, "base, a quarter of the clips": [], "all, a quarter of the clips": parts}
    five = ["logit-normal timesteps", "Muon", "trapezoid", "self-alignment", "self-conditioning"]
    expected["five parts, a quarter of the clips"] = five
    expected["base, a quarter of the clips, half batches"] = []
    expected |= {part: [part] for part in parts}
    expected |= {f"all without {part}": [other for other in parts if other != part] for part in parts}
    assert arms.keys() == expected.keys() and parts == list(PARTS)
    for label, has in expected.items():
        evaluation = grid.evaluation(arms[label], 0)
        config = evaluation.training.config
        rates = (370, 16, 2e-3) if "quarter" in label else (1480, 16, 2e-3)
        rates = (740, 8, 4e-3) if "half" in label or "five" in label else rates
        assert (config.steps, config.global_batch_size, config.learning_rate) == rates
        for part in parts:
            wanted = (ON if part in has else OFF)[part]
            found = {name: getattr(config, name) for name in wanted}
            if "model" in wanted:
                found["model"] = {"self_condition": config.model.get("self_condition", False)}
            assert found == wanted, (label, part)
        assert evaluation.average == (0.1 if "another average" in has else 0.0)
        assert evaluation.sampling["guidance_scale"] == 1.0
    assert len({grid.evaluation(arm, 0).file for arm in arms.values()}) == len(arms) == 26


@pytest.mark.parametrize("scale", SCALES)
def test_between_block_objectives_fit_every_network(scale, tmp_path):
    """The dispersive loss lies off the token route, and enough tokens and blocks remain."""
    grid = modern(tmp_path, scale)
    side = {"small": 6, "paper": 32}[scale]
    with torch.device("meta"):
        network = Latte(LatteConfig(**grid.base.model))
    for arm in grid.ablations["modern"].arms.values():
        BetweenBlocks(grid.training(arm, 0).config, network, side)  # raises ValueError if they do not fit
    everything = grid.training(grid.ablations["modern"].arms["all"], 0).config
    assert everything.micro_batch_size == {"small": 16, "paper": 5}[scale]
    assert everything.average_every == everything.steps // 24


def test_arms_add_up():
    a, b = Arm({"x": 1, "y": 1}, {"s": 1}), Arm({"y": 2}, {"r": 3}, from_images=True, average=0.2)
    assert together(a, b) == Arm({"x": 1, "y": 2}, {"s": 1, "r": 3}, True, 0.2) and together() == Arm()


def test_another_average_is_made_once(tmp_path, monkeypatch):
    made = []

    def make(run, length, folder):
        made.append((run, length))
        folder.mkdir(parents=True)

    monkeypatch.setattr(runs, "make_average", make)
    grid = modern(tmp_path)
    arms = grid.ablations["modern"].arms
    evaluation = grid.evaluation(arms["another average"], 0)
    run = evaluation.training.folder
    assert evaluation.model() == evaluation.model() == run / "average-0.1" and made == [(run, 0.1)]
    assert evaluation.file == run / "scores/average=0.1,guidance_scale=1.0.json"
    assert Evaluation(evaluation.training, {}, evaluation.file).model() == run / "final" and len(made) == 1


def test_the_modern_ablation_runs_only_when_named(tmp_path):
    assert "modern" not in grid_of(tmp_path / "a").names
    missing = missing_work(modern(tmp_path / "b"))
    assert (len(missing.trainings), len(missing.evaluations)) == (26, 26)


def test_the_report_has_costs_in_place_of_losses(tmp_path):
    grid = modern(tmp_path, seeds=(0, 1))
    write_scores(grid, {"base": [0.5, 0.5], "all, a quarter of the clips": [0.625, 0.75]})
    report, page = write_report(grid, {})
    text = report.read_text()
    header = next(line for line in text.splitlines() if line.startswith("|  |"))
    assert header.endswith("clips/s, training | ms/step, training | clips, training, K | training, min |")
    assert "loss" not in header and "The paper:" not in text and "The paper:" not in page.read_text()
    # 16 clips per step at 32 clips/s take 500 ms; 1480 and 370 steps take 12.3 and 3.1 minutes
    assert "| base | 2 | 2.00 | 0.500 | 32.0 | 500 | 23.7 | 12.3 |" in text
    assert "| all, a quarter of the clips | 2 | 2.00 | 0.688 ± 0.088 | 32.0 | 500 | 5.9 | 3.1 |" in text
    assert "all, a quarter of the clips ahead of base: motion +0.188 ± 0.794: open" in text
    assert "Muon ahead of base: not scored" in text
    names = re.findall(r"\((\S+\.png)\)", text)
    assert names == ["scores-modern.png", "strips-modern.png"] and all((tmp_path / name).is_file() for name in names)
    pixels = np.asarray(Image.open(tmp_path / names[0]).convert("RGB")).astype(int)
    blue = (abs(pixels - (31, 119, 180)) < 12).all(2)
    lengths = [int(row.sum()) for row in blue if row.any()]
    assert min(lengths) < max(lengths)  # of the bars
