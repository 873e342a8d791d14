"""An ablation's scores in numbers: means and spreads, and what becomes of the paper's claims."""

import math
import statistics
from dataclasses import dataclass

from latte.eval.ablate.definitions import Ablation
from latte.eval.ablate.runs import TRAINED, Grid
from latte.eval.extrapolation import student_95
from latte.files import read_json


@dataclass(frozen=True)
class Metric:
    """A column."""

    name: str
    title: str
    better: int = 0  # 1: more is better, -1: less is, 0: neither, so that no verdict rests on it
    digits: int = 3
    of: str = "both"  # which ablations have it: of "training", of "sampling", of "other data", or "both"
    loss: bool = False  # which compares only where arms learn from the same clips


METRICS = (
    Metric("parameters", "parameters, M", digits=2, of="training"),
    Metric("fixed_loss", "loss, fixed noise ↓", -1, 4, "training", loss=True),
    Metric("fvd", "FVD ↓", -1, 1),
    Metric("shapes_distance", "shapes distance ↓", -1, 1),
    Metric("motion_accuracy", "motion ↑", 1),
    Metric("real_motion_accuracy", "motion of real clips", of="other data"),
    Metric("colour_constancy", "colour constancy ↑", 1),
    Metric("count_accuracy", "one object ↑", 1),
    Metric("train_loss", "loss, training", digits=4, of="training", loss=True),
    Metric("clips_per_second", "clips/s, training", digits=1, of="training"),
    Metric("seconds_per_video", "s a video, sampling", digits=2, of="sampling"),
)
Scores = dict[str, dict[int, dict[str, float]]]  # arm -> seed -> metric -> value


def read_scores(grid: Grid, ablation: Ablation) -> Scores:
    """What there is; an arm's seed that has not been scored is missing."""
    table: Scores = {arm: {} for arm in ablation.arms}
    for label, arm in ablation.arms.items():
        for seed in grid.seeds:
            exam = grid.exam(arm, seed)
            if exam.run.done and exam.file.is_file():
                table[label][seed] = {**read_json(exam.run.folder / TRAINED), **read_json(exam.file)}
                table[label][seed]["parameters"] /= 1e6
    return table


def values(scores: Scores, arm: str, name: str) -> dict[int, float]:
    """A metric of an arm, by seed."""
    return {seed: row[name] for seed, row in scores[arm].items() if name in row}


def spread(numbers: list[float]) -> tuple[float, float]:
    """Mean, and standard deviation (n - 1); nan of fewer than two."""
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else math.nan


def compare(better: dict[int, float], worse: dict[int, float], sign: int) -> tuple[float, float, str]:
    """(mean over the seeds of the one's lead, half of its 95 % interval, what becomes of the claim that it leads).

    Seeds are paired: they share data, noise and timesteps. The claim "holds" or is "reversed" where the interval leaves
    out 0, and is "open" where it does not, or where there is one seed.
    """
    leads = [sign * (better[seed] - worse[seed]) for seed in better.keys() & worse.keys()]
    mean, deviation = spread(leads)
    if len(leads) < 2:
        return mean, math.inf, "open"
    student = student_95(len(leads) - 1)
    half = student * deviation / math.sqrt(len(leads))
    return mean, half, "open" if abs(mean) <= half else "holds" if mean > 0 else "reversed"


def columns(ablation: Ablation, scores: Scores) -> list[Metric]:
    """Those that apply and that some arm has."""
    kinds = {"both", "training" if ablation.trains else "sampling", *(["other data"] if ablation.other_data else [])}
    has = lambda name: any(values(scores, arm, name) for arm in scores)
    return [m for m in METRICS if m.of in kinds and has(m.name) and not (m.loss and ablation.other_data)]


def cell(numbers: list[float], digits: int) -> str:
    """ "mean ± deviation", or the mean alone where all are equal or there is one."""
    if not numbers:
        return "-"
    mean, deviation = spread(numbers)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if deviation > 0 else f"{mean:.{digits}f}"


def table(ablation: Ablation, scores: Scores) -> list[list[str]]:
    """Rows of cells, the first the heading."""
    shown = columns(ablation, scores)
    rows = [["", "seeds", *(metric.title for metric in shown)]]
    for arm in scores:
        cells = [cell(list(values(scores, arm, metric.name).values()), metric.digits) for metric in shown]
        rows.append([arm, str(len(scores[arm])), *cells])
    return rows


@dataclass(frozen=True)
class Verdict:
    """On one of the paper's claims, by one metric."""

    metric: Metric
    lead: float
    half: float  # of the 95 % interval
    word: str  # "holds", "reversed" or "open"

    def __str__(self) -> str:
        digits = self.metric.digits
        return f"{self.metric.title.rstrip(' ↑↓')} {self.lead:+.{digits}f} ± {self.half:.{digits}f}: {self.word}"


def verdicts(ablation: Ablation, scores: Scores) -> dict[str, list[Verdict]]:
    """On each of the paper's claims, by each metric that both arms have."""
    found: dict[str, list[Verdict]] = {}
    for better, worse in ablation.claims:
        row = found[f"{better} ahead of {worse}"] = []
        for metric in columns(ablation, scores):
            pair = [values(scores, arm, metric.name) for arm in (better, worse)]
            if metric.better and pair[0].keys() & pair[1].keys():
                row.append(Verdict(metric, *compare(*pair, metric.better)))
    return found
