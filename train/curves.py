"""`latte plot`: the curves of one or several runs, as a picture."""

import json
from pathlib import Path

import numpy as np

from latte.files import replacing

CURVES = {"loss": "loss", "psnr": "PSNR, dB", "grad_norm": "gradient norm", "learning_rate": "learning rate"}
CURVES |= {"clips_per_second": "clips a second", "fvd": "FVD", "shapes_distance": "shapes distance"}

RARE = ("fvd", "shapes_distance")  # numbers of few lines: neither smoothed nor broken where a line has none


def read_metrics(run: Path) -> dict[str, np.ndarray]:
    """The columns of a run's metrics.jsonl, nan where a line has no such number. ValueError: there is none to read."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} holds no metrics.jsonl: give the folder of a run")
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            numbers = {name: np.nan if value is None else float(value) for name, value in line.items()}
            lines.append(numbers | {"step": int(line["step"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: line {number} is not a line of metrics") from error
    if not lines:
        raise ValueError(f"{path} is empty: the run has not logged yet")
    names = {name for line in lines for name in line}
    return {name: np.array([line.get(name, np.nan) for line in lines]) for name in names}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values up to each, of fewer at the start; nan counts for nothing."""
    good = np.isfinite(values)
    sums, counts = (np.cumsum(np.concatenate([[0.0], x])) for x in (np.where(good, values, 0), good))
    start = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    with np.errstate(invalid="ignore"):
        return (sums[1:] - sums[start]) / (counts[1:] - counts[start])


def plot(runs: list[Path], out: Path, window: int = 50) -> Path:
    """Write the picture: a panel for each number that the runs have, the runs in one another's colours.

    Behind each curve, the mean of `window` logged values, stand the values themselves, faintly. ValueError: a run
    without metrics, or matplotlib is missing.
    """
    tables = [read_metrics(run) for run in runs]
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("latte plot needs matplotlib: pip install matplotlib") from error
    names = [name for name in CURVES if any(name in table for table in tables)]
    figure = Figure(figsize=(6 * len(names), 4), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        for i, (run, table) in enumerate(zip(runs, tables)):
            if name in table:
                there = np.isfinite(table[name]) | (name not in RARE)
                step, values = table["step"][there], table[name][there]
                axes.plot(step, values, color=f"C{i}", alpha=0.2, linewidth=0.7)
                axes.plot(step, smooth(values, 1 if name in RARE else window), color=f"C{i}", label=run.resolve().name)
        axes.set(xlabel="step", ylabel=CURVES[name])
        axes.grid(alpha=0.3)
        if name == "loss":
            axes.legend()
            axes.set_yscale("log")
    with replacing(out) as draft:
        figure.savefig(draft, dpi=110)
    return out
