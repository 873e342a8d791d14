"""The pictures of an ablation: training curves or scores, and samples of every arm side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from latte.eval.ablate.arms import Ablation, Arm
from latte.eval.ablate.runs import Grid
from latte.eval.ablate.tables import Scores, by_seed, mean_and_deviation, shown_metrics
from latte.files import replacing
from latte.train.curves import read_metrics, smooth
from latte.video.page import contact_sheet

FRAMES = 8  # of a sample in a strip, at most
SIDE = 96  # height and width of a frame in a strip, in pixels, at most


def draw_curves(grid: Grid, ablation: Ablation, path: Path) -> bool:
    """Draw the smoothed training loss of every arm, the mean over its seeds.

    A second diagram shows the difference from the first arm. All arms have the same noise and timesteps, so their
    effect on the loss cancels.

    Returns:
        Whether there was anything to draw. Otherwise no file is written.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if not ablation.trains or ablation.recipe_differs:
        return False
    means = {label: mean for label, arm in ablation.arms.items() if (mean := mean_loss(grid, arm)) is not None}
    if not means:
        return False
    figure = new_figure(10, 3.8)
    loss, difference = figure.subplots(1, 2)
    first, (_, reference) = next(iter(means.items()))
    for i, (label, (step, mean)) in enumerate(means.items()):
        loss.plot(step, mean, color=f"C{i}", linewidth=1.4, label=label)
        if len(mean) == len(reference):
            difference.plot(step, mean - reference, color=f"C{i}", linewidth=1.4)
    loss.set(xlabel="step", ylabel="training loss, smoothed")
    difference.set(xlabel="step", ylabel=f"difference from {first}")
    loss.legend(frameon=False)
    for axes in (loss, difference):
        axes.grid(alpha=0.3, which="both")
    save_figure(figure, path)
    return True


def draw_scores(ablation: Ablation, scores: Scores, path: Path) -> bool:
    """Draw the scores of every arm as bars, the mean ± the standard deviation over its seeds, if recipes differ.

    A line marks the first arm's score. The last panel shows the training time.

    Returns:
        Whether there was anything to draw. Otherwise no file is written.

    Raises:
        ValueError: matplotlib is not installed.
    """
    metrics = [each for each in shown_metrics(ablation, scores) if each.better or each.name == "training_time"]
    arms = [arm for arm, rows in scores.items() if rows]
    if not ablation.recipe_differs or not metrics or not arms:
        return False
    figure = new_figure(2 + 2 * len(metrics), 0.8 + 0.24 * len(arms))
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics):
        numbers = [list(by_seed(scores, arm, metric.name).values()) or [np.nan] for arm in arms]
        means, deviations = zip(*(mean_and_deviation(row) for row in numbers))
        axes.barh(arms, means, xerr=np.nan_to_num(deviations), color="C0", ecolor="C1", height=0.7)
        axes.axvline(means[0], color="C3", linewidth=1)
        axes.set_title(metric.title, fontsize=9)
        axes.margins(y=0.01)
        axes.grid(alpha=0.3, axis="x")
    axes.invert_yaxis()  # the panels share it
    save_figure(figure, path)
    return True


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches. Raises ValueError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the curves of a report need matplotlib: pip install 'latte-video[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, with the same bytes each time."""
    with replacing(path) as draft:
        figure.savefig(draft, dpi=100, metadata={"Software": None})
    reduce_colours(path)


def mean_loss(grid: Grid, arm: Arm) -> tuple[np.ndarray, np.ndarray] | None:
    """The steps and the smoothed loss, the mean over the seeds of an arm. None if no seed is trained yet."""
    trainings = [grid.training(arm, seed) for seed in grid.seeds]
    runs = [read_metrics(training.folder) for training in trainings if training.done]
    if not runs:
        return None
    window = max(1, len(runs[0]["step"]) // 15)
    smoothed = smooth(np.mean([run["mse"] for run in runs], axis=0), window)
    return runs[0]["step"][window - 1 :], smoothed[window - 1 :]


def draw_strips(grid: Grid, ablation: Ablation, path: Path) -> bool:
    """Draw a row of frames for each arm: samples of the same classes, with the first seed.

    Returns:
        Whether there were any samples. Otherwise no file is written.
    """
    files = {label: grid.evaluation(arm, grid.seeds[0]).file for label, arm in ablation.arms.items()}
    pictures = {label: file.with_suffix(".png") for label, file in files.items() if file.is_file()}
    rows = [sample_strip(picture, grid.base.image_size) for picture in pictures.values()]
    if rows:
        scale = max(1, 64 // rows[0].shape[-1])
        contact_sheet(torch.stack(rows), list(pictures), path, rows[0].shape[0], scale)
        reduce_colours(path)
    return bool(rows)


def sample_strip(picture: Path, side: int) -> torch.Tensor:
    """Frames of the samples in a picture that `score_samples` wrote.

    Args:
        picture: its path.
        side: height and width of a frame in it, in pixels.

    Returns:
        Evenly spaced frames of each sample, with a white frame between two samples: uint8 (f, 3, h, w).
    """
    pixels = torch.from_numpy(np.asarray(Image.open(picture)).copy())
    samples = rearrange(pixels, "(n h) (f w) c -> n f c h w", h=side, w=side)
    frames = samples.shape[1]
    chosen = samples[:, torch.linspace(0, frames - 1, min(FRAMES, frames)).round().long()]
    if side > SIDE:
        smaller = F.interpolate(chosen.flatten(0, 1).float(), (SIDE, SIDE), mode="area").round().byte()
        chosen = smaller.unflatten(0, chosen.shape[:2])
    return F.pad(chosen, (0, 0) * 3 + (0, 1), value=255).flatten(0, 1)[:-1]


def reduce_colours(path: Path) -> None:
    """Rewrite a picture with 256 colours, which makes the file three times smaller."""
    picture = Image.open(path).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with replacing(path) as draft:
        picture.save(draft, optimize=True)
