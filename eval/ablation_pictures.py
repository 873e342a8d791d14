"""An ablation's pictures: curves of training, and samples of every arm side by side."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from latte.eval.ablation_runs import Grid
from latte.eval.ablations import Ablation
from latte.files import replacing
from latte.gallery import contact_sheet
from latte.train.plot import read_metrics, smooth

FRAMES = 8  # of each sample in a strip
SIDE = 96  # pixels of a frame there, at most


def draw_curves(grid: Grid, ablation: Ablation, path: Path) -> bool:
    """The training's loss by step, the mean over seeds of each arm, smoothed; whether there is any.

    ValueError: matplotlib is missing.
    """
    tables = {}
    for label, arm in ablation.arms.items():
        runs = [grid.run(arm, seed) for seed in grid.seeds]
        tables[label] = [read_metrics(run.folder) for run in runs if run.done]
    if not ablation.trains or not any(tables.values()):
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the curves of a report need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    low, high = [], []
    for i, (label, runs) in enumerate(tables.items()):
        if runs:
            steps = runs[0]["step"]
            window = max(1, len(steps) // 15)
            mean = smooth(np.mean([run["mse"] for run in runs], axis=0), window)
            axes.plot(steps[window - 1 :], mean[window - 1 :], color=f"C{i}", linewidth=1.4, label=label)
            low, high = [*low, mean[window - 1 :].min()], [*high, np.median(mean)]
    axes.set(xlabel="step", ylabel="loss of training, smoothed", ylim=(0.95 * min(low), 1.35 * max(high)))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right")
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110, metadata={"Software": None})
    shrink(path)
    return True


def draw_strips(grid: Grid, ablation: Ablation, path: Path) -> bool:
    """A row of frames for each arm, of the same classes and the first seed; whether there is any."""
    exams = {label: grid.exam(arm, grid.seeds[0]) for label, arm in ablation.arms.items()}
    pictures = {label: exam.file.with_suffix(".png") for label, exam in exams.items() if exam.file.is_file()}
    rows = [strip(picture, grid.base.image_size) for picture in pictures.values()]
    if rows:
        scale = max(1, 64 // rows[0].shape[-1])
        contact_sheet(torch.stack(rows), list(pictures), path, rows[0].shape[0], scale)
        shrink(path)
    return bool(rows)


def strip(picture: Path, side: int) -> torch.Tensor:
    """FRAMES frames of each sample in the picture beside an exam's scores, (frames, 3, h, w) uint8."""
    pixels = torch.from_numpy(np.asarray(Image.open(picture)).copy())
    samples = rearrange(pixels, "(n h) (f w) c -> n f c h w", h=side, w=side)
    frames = samples.shape[1]
    chosen = samples[:, torch.linspace(0, frames - 1, min(FRAMES, frames)).round().long()].flatten(0, 1)
    if side <= SIDE:
        return chosen
    return F.interpolate(chosen.float(), (SIDE, SIDE), mode="area").round().byte()


def shrink(path: Path) -> None:
    """Write a picture again in 256 colours, which takes a third of the bytes."""
    picture = Image.open(path).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with replacing(path) as draft:
        picture.save(draft, optimize=True)
