"""An ablation's pictures: curves of training, and samples of every arm side by side."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from latte.eval.ablate.definitions import Ablation, Arm
from latte.eval.ablate.runs import Grid
from latte.files import replacing
from latte.train.curves import read_metrics, smooth
from latte.video.page import contact_sheet

FRAMES = 8  # of each sample in a strip
SIDE = 96  # pixels of a frame there, at most


def draw_curves(grid: Grid, ablation: Ablation, path: Path) -> bool:
    """The training's loss by step, the mean of each arm's seeds, smoothed; whether there is any.

    Beside it the same less the first arm's: what the arms' common noise and timesteps do to all of them is gone there.
    ValueError: matplotlib is missing.
    """
    means = {label: mean for label, arm in ablation.arms.items() if (mean := mean_loss(grid, arm)) is not None}
    if not ablation.trains or not means:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the curves of a report need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    loss, lead = figure.subplots(1, 2)
    first, (_, reference) = next(iter(means.items()))
    for i, (label, (step, mean)) in enumerate(means.items()):
        loss.plot(step, mean, color=f"C{i}", linewidth=1.4, label=label)
        if len(mean) == len(reference):
            lead.plot(step, mean - reference, color=f"C{i}", linewidth=1.4)
    loss.set(xlabel="step", ylabel="loss of training, smoothed")
    lead.set(xlabel="step", ylabel=f"difference from {first}")
    loss.legend(frameon=False)
    for axes in (loss, lead):
        axes.grid(alpha=0.3, which="both")
    with replacing(path) as draft:
        figure.savefig(draft, dpi=100, metadata={"Software": None})
    shrink(path)
    return True


def mean_loss(grid: Grid, arm: Arm) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps, and the smoothed loss there, the mean of an arm's seeds; None: none is trained."""
    runs = [read_metrics(run.folder) for seed in grid.seeds if (run := grid.run(arm, seed)).done]
    if not runs:
        return None
    window = max(1, len(runs[0]["step"]) // 15)
    smoothed = smooth(np.mean([run["mse"] for run in runs], axis=0), window)
    return runs[0]["step"][window - 1 :], smoothed[window - 1 :]


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
    """FRAMES frames of each sample in the picture beside an exam's scores, (f, 3, h, w) uint8, white between two."""
    pixels = torch.from_numpy(np.asarray(Image.open(picture)).copy())
    samples = rearrange(pixels, "(n h) (f w) c -> n f c h w", h=side, w=side)
    frames = samples.shape[1]
    chosen = samples[:, torch.linspace(0, frames - 1, min(FRAMES, frames)).round().long()]
    if side > SIDE:
        smaller = F.interpolate(chosen.flatten(0, 1).float(), (SIDE, SIDE), mode="area").round().byte()
        chosen = smaller.unflatten(0, chosen.shape[:2])
    return F.pad(chosen, (0, 0) * 3 + (0, 1), value=255).flatten(0, 1)[:-1]


def shrink(path: Path) -> None:
    """Write a picture again in 256 colours, which takes a third of the bytes."""
    picture = Image.open(path).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with replacing(path) as draft:
        picture.save(draft, optimize=True)
