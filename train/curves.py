"""The training curves of one run or several, as a picture."""

from pathlib import Path

import numpy as np

from latte.files import replacing
from latte.train.metrics import METRICS_FILE, read_lines

CURVES = {  # the numbers that are plotted, and the labels of their axes
    "loss": "loss",
    "moments": "difference of moments",
    "psnr": "PSNR, dB",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "clips_per_second": "clips per second",
    "fvd": "FVD",
    "shapes_distance": "shapes distance",
}
RARE = ("fvd", "shapes_distance")  # numbers that only a few lines have, drawn across the gaps
EXACT = ("learning_rate", *RARE)  # numbers without noise from step to step, which are not averaged
COLUMNS, PANEL = 3, (4.3, 3.2)  # panels in a row, and the inches of one: a row fits on a laptop's screen


def read_metrics(run: Path) -> dict[str, np.ndarray]:
    """Read the metrics.jsonl of a run as columns.

    Args:
        run: The run folder.

    Returns:
        An array of one value per logged step for each number, NaN where it was not logged.

    Raises:
        ValueError: The file is missing, damaged or empty.
    """
    path = run / METRICS_FILE
    if not path.is_file():
        raise ValueError(f"{run} holds no {METRICS_FILE}: give the folder of a run")
    by_step: dict[int, dict] = {}
    for line in read_lines(path):  # an evaluation has a line of its own
        by_step.setdefault(line["step"], {}).update(line)
    lines = list(by_step.values())
    if not lines:
        raise ValueError(f"{path} is empty: the run has not logged yet")
    names = {name for line in lines for name in line}
    columns = {name: [line.get(name) for line in lines] for name in names}
    numbers = {name: [np.nan if z is None else float(z) for z in column] for name, column in columns.items()}
    return {name: np.array(column) for name, column in numbers.items()} | {"step": np.array(columns["step"])}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Compute the moving average over the last `window` values, or fewer at the start. NaN values are ignored."""
    good = np.isfinite(values)
    sums, counts = (np.cumsum(np.concatenate([[0.0], x])) for x in (np.where(good, values, 0), good))
    start = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    with np.errstate(invalid="ignore"):
        return (sums[1:] - sums[start]) / (counts[1:] - counts[start])


def plot_curves(runs: list[Path], out: Path, window: int = 50) -> Path:
    """Plot each number that the runs logged in its own panel, with a colour per run, in rows of COLUMNS panels.

    Args:
        runs: The run folders.
        out: The picture to write.
        window: How many logged values are averaged, at most. The values are drawn behind the average. Schedules and
            distances are not averaged.

    Returns:
        The path of the picture.

    Raises:
        ValueError: A run has no metrics, no run has a number that is plotted, or matplotlib is not installed.
    """
    tables = [read_metrics(run) for run in runs]
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("latte plot needs matplotlib: pip install 'latte-video[plot]'") from error
    names = [name for name in CURVES if any(name in table for table in tables)]
    if not names:
        raise ValueError(f"{runs[0] / METRICS_FILE} holds none of the plotted numbers: {', '.join(CURVES)}")
    columns = COLUMNS if len(names) not in (2, 4) else 2
    rows = -(-len(names) // columns)
    columns = min(columns, len(names))
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names):
        for i, (run, table) in enumerate(zip(runs, tables)):
            if name in table:
                drawn = np.isfinite(table[name]) | (name not in EXACT)
                step, values = table["step"][drawn], table[name][drawn]
                if name not in EXACT and window > 1:
                    axes.plot(step, values, color=f"C{i}", alpha=0.2, linewidth=0.7)
                most = max(1, len(values) // 2)  # so that the average of a short run does not lag far behind it
                averaged = values if name in EXACT else smooth(values, min(window, most))
                marker = "." if name in RARE or len(values) == 1 else ""
                axes.plot(step, averaged, color=f"C{i}", label=run.resolve().name, marker=marker)
        axes.set(xlabel="step", ylabel=CURVES[name])
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        if name == "loss":
            axes.set_yscale("log")
    panels[0].legend()
    for axes in panels[len(names) :]:
        axes.remove()
    with replacing(out) as draft:
        figure.savefig(draft, dpi=110)
    return out
