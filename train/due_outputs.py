"""Which sample grids and evaluations are due after a step, and which of them an earlier process did not make."""

from pathlib import Path
from typing import NamedTuple

from latte.train.base_config import TrainConfig
from latte.train.metrics import METRICS_FILE, read_lines
from latte.train.watch import SAMPLES


class Outputs(NamedTuple):
    """The outputs that may be due after a step.

    Attributes:
        grid: A grid of samples.
        evaluation: The distance of samples to real clips.
    """

    grid: bool
    evaluation: bool


def due_outputs(config: TrainConfig, done: int) -> Outputs:
    """Which outputs are due after `done` steps."""
    every = config.sample_every, config.eval_every
    return Outputs(*(bool(number and done and done % number == 0) for number in every))


def missing_outputs(config: TrainConfig, folder: Path, done: int) -> Outputs:
    """Which outputs were due when an earlier process stopped after `done` steps, but are not in the run's folder."""
    due = due_outputs(config, done)
    sampled = (folder / f"{SAMPLES}/step-{done:07d}.png").is_file()
    evaluated = any(line["step"] == done and "loss" not in line for line in read_lines(folder / METRICS_FILE))
    return Outputs(due.grid and not sampled, due.evaluation and not evaluated)
