"""Ablations for tests: a grid of runs, and files as training and evaluation leave them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from latte.commands.ablate import base_config
from latte.eval.ablate.definitions import SCALES, ablations
from latte.eval.ablate.runs import MEASUREMENTS, Grid


def grid_of(folder: Path, name: str = "small", names: tuple = (), changes: tuple = (), seeds: tuple = (0,)) -> Grid:
    scale = SCALES[name]
    base = base_config(scale, scale.preset, list(changes))
    of_the_paper = tuple(each for each, ablation in ablations(scale, base).items() if ablation.finding)
    grid = Grid(folder, scale, base, names or of_the_paper, seeds, 2)
    grid.write_settings()
    return grid


def write_scores(grid: Grid, numbers: dict[str, list[float]], measurements: str = MEASUREMENTS) -> None:
    """Write files as training and evaluation leave them, with these motion accuracies per arm of the first ablation."""
    arms, size, frames = next(iter(grid.ablations.values())).arms, grid.base.image_size, grid.base.num_frames
    for arm, row in numbers.items():
        for seed, value in zip(grid.seeds, row):
            evaluation = grid.evaluation(arms[arm], seed)
            folder, file = evaluation.training.folder, evaluation.file
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps({"motion_accuracy": value, "seconds_per_video": 1.0}))
            measured = {"parameters": 2e6, "fixed_loss": 1 - value, "clips_per_second": 32.0}
            (folder / measurements).write_text(json.dumps(measured))
            lines = [{"step": step, "mse": 1 / step, "loss": 1 / step} for step in range(1, 40)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            Image.fromarray(np.full((2 * size, frames * size, 3), 99, np.uint8)).save(file.with_suffix(".png"))
