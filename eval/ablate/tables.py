"""The scores of an ablation as tables of means and deviations, and verdicts on its claims."""

import math
import statistics
from dataclasses import dataclass

from latte.eval.ablate.arms import Ablation
from latte.eval.ablate.runs import Grid
from latte.eval.extrapolation import student_95
from latte.files import read_json
from latte.train.base_config import TrainConfig


@dataclass(frozen=True)
class Metric:
    """A column of a table."""

    name: str  # in the files of scores and measurements
    title: str
    better: int = 0  # 1 if higher is better, -1 if lower is; 0 if it gives no verdict
    digits: int = 3  # after the decimal point
    of: str = "both"  # which show it: "training", "sampling", "both", or those whose "data differs" or "recipe differs"
    loss: bool = False  # shown only where losses compare


METRICS = (
    Metric("parameters", "parameters, M", digits=2, of="training"),
    Metric("fixed_loss", "loss, fixed noise ↓", -1, 4, "training", loss=True),
    Metric("fvd", "FVD ↓", -1, 1),
    Metric("shapes_distance", "shapes distance ↓", -1, 1),
    Metric("motion_accuracy", "motion ↑", 1),
    Metric("real_motion_accuracy", "motion of real clips", of="data differs"),
    Metric("colour_constancy", "colour constancy ↑", 1),
    Metric("shape_constancy", "shape constancy ↑", 1),
    Metric("count_accuracy", "one object ↑", 1),
    Metric("train_loss", "loss, training", digits=4, of="training", loss=True),
    Metric("clips_per_second", "clips/s, training", digits=1, of="training"),
    Metric("step_time", "ms/step, training", digits=0, of="recipe differs"),
    Metric("clips", "clips, training, K", digits=1, of="recipe differs"),
    Metric("training_time", "training, min", digits=1, of="recipe differs"),
    Metric("seconds_per_video", "s/video, sampling", digits=2, of="sampling"),
)
Scores = dict[str, dict[int, dict[str, float]]]  # arm -> seed -> name of a metric -> value


def read_scores(grid: Grid, ablation: Ablation) -> Scores:
    """Read the scores of an ablation. A seed of an arm that has no scores yet is left out."""
    scores: Scores = {arm: {} for arm in ablation.arms}
    for label, arm in ablation.arms.items():
        for seed in grid.seeds:
            evaluation = grid.evaluation(arm, seed)
            if evaluation.training.done and evaluation.file.is_file():
                row = {**read_json(evaluation.training.measurements), **read_json(evaluation.file)}
                cost = training_cost(evaluation.training.config, row.get("clips_per_second", math.nan))
                scores[label][seed] = {**row, "parameters": row["parameters"] / 1e6, **cost}
    return scores


def training_cost(config: TrainConfig, rate: float) -> dict[str, float]:
    """The cost of training: the "step_time" in milliseconds, thousands of "clips", and the "training_time" in minutes.

    Args:
        config: its settings.
        rate: clips per second.
    """
    clips = config.steps * config.global_batch_size
    step_time = 1000 * config.global_batch_size / rate
    return {"step_time": step_time, "clips": clips / 1000, "training_time": clips / rate / 60}


def by_seed(scores: Scores, arm: str, name: str) -> dict[int, float]:
    """The values of one metric of an arm, by seed."""
    return {seed: row[name] for seed, row in scores[arm].items() if name in row}


def mean_and_deviation(numbers: list[float]) -> tuple[float, float]:
    """The mean and the standard deviation (n - 1), which is nan for fewer than two numbers."""
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else math.nan


def compare_arms(better: dict[int, float], worse: dict[int, float], sign: int) -> tuple[float, float, str]:
    """Test the claim that one arm is better than another, by a paired t-test over seeds.

    Pairing removes what the arms have in common: with the same seed, they see the same data, noise and timesteps.

    Args:
        better: values of the arm that is claimed to be better, by seed.
        worse: values of the other arm. Seeds that only one of the two has are ignored.
        sign: 1 if higher values are better, -1 if lower ones are.

    Returns:
        The mean lead of the first arm; half the width of the lead's 95 % interval (Student's t), infinite with one
        seed; and the verdict. The claim "holds" or is "reversed" if the interval excludes 0, otherwise it is "open".
    """
    leads = [sign * (better[seed] - worse[seed]) for seed in better.keys() & worse.keys()]
    mean, deviation = mean_and_deviation(leads)
    if len(leads) < 2:
        return mean, math.inf, "open"
    student = student_95(len(leads) - 1)
    half = student * deviation / math.sqrt(len(leads))
    return mean, half, "open" if abs(mean) <= half else "holds" if mean > 0 else "reversed"


def shown_metrics(ablation: Ablation, scores: Scores) -> list[Metric]:
    """The metrics that apply to an ablation, and that at least one arm has."""
    kinds = {"both", "training" if ablation.trains else "sampling"}
    kinds |= {"data differs"} if ablation.data_differs else set()
    kinds |= {"recipe differs"} if ablation.recipe_differs else set()
    has = lambda name: any(by_seed(scores, arm, name) for arm in scores)
    return [m for m in METRICS if m.of in kinds and has(m.name) and (ablation.losses_compare or not m.loss)]


def format_cell(numbers: list[float], digits: int) -> str:
    """The mean ± the standard deviation, or the mean alone if the deviation is 0 or there is one number."""
    if not numbers:
        return "-"
    mean, deviation = mean_and_deviation(numbers)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if deviation > 0 else f"{mean:.{digits}f}"


def ablation_table(ablation: Ablation, scores: Scores) -> list[list[str]]:
    """The table of an ablation as rows of cells, the header first: one row per arm, one column per metric."""
    shown = shown_metrics(ablation, scores)
    rows = [["", "seeds", *(metric.title for metric in shown)]]
    for arm in scores:
        cells = [format_cell(list(by_seed(scores, arm, metric.name).values()), metric.digits) for metric in shown]
        rows.append([arm, str(len(scores[arm])), *cells])
    return rows


@dataclass(frozen=True)
class Verdict:
    """What one metric says about a claim; see `compare_arms`."""

    metric: Metric
    lead: float  # the mean lead of the arm that is claimed to be better
    half_width: float  # of the lead's 95 % interval
    outcome: str  # "holds", "reversed" or "open"

    def __str__(self) -> str:
        digits = self.metric.digits
        lead = f"{self.lead:+.{digits}f} ± {self.half_width:.{digits}f}"
        return f"{self.metric.title.rstrip(' ↑↓')} {lead}: {self.outcome}"


def verdicts(ablation: Ablation, scores: Scores) -> dict[str, list[Verdict]]:
    """The verdicts on each claim, one for each metric that both arms have."""
    found: dict[str, list[Verdict]] = {}
    for better, worse in ablation.claims:
        row = found[f"{better} ahead of {worse}"] = []
        for metric in shown_metrics(ablation, scores):
            pair = [by_seed(scores, arm, metric.name) for arm in (better, worse)]
            if metric.better and pair[0].keys() & pair[1].keys():
                row.append(Verdict(metric, *compare_arms(*pair, metric.better)))
    return found
