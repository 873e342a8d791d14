"""The report of an ablation: what its runs' files say, as tables, verdicts, curves and samples side by side.

A pure function of those files and of what failed: written again, it is the same bytes.
"""

import base64
import html
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from latte.eval.ablation_runs import TRAINED, Grid
from latte.eval.ablations import Ablation
from latte.files import read_json, replacing, write_text
from latte.gallery import STYLE, contact_sheet
from latte.train.plot import read_metrics, smooth

FRAMES = 8  # of each sample in a strip
SIDE = 96  # pixels of a frame there, at most
# 97.5 % points of Student's distribution, by degrees of freedom from 1 on; beyond, the normal one's
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Metric:
    """A column."""

    name: str
    title: str
    better: int = 0  # 1: more is better, -1: less is, 0: neither, so that no verdict rests on it
    digits: int = 3
    of: str = "both"  # ablations of "training", of "sampling" or both have it
    loss: bool = False  # which compares only where arms learn from the same clips


METRICS = (
    Metric("parameters", "parameters, M", digits=2, of="training"),
    Metric("heldout_loss", "loss, held out ↓", -1, 4, "training", loss=True),
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
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def compare(better: dict[int, float], worse: dict[int, float], sign: int) -> tuple[float, float, str]:
    """(mean over the seeds of the one's lead, half of its 95 % interval, what becomes of the claim that it leads).

    Seeds are paired: they share data, noise and timesteps. The claim "holds" or is "reversed" where the interval leaves
    out 0, and is "open" where it does not, or where there is one seed.
    """
    leads = [sign * (better[seed] - worse[seed]) for seed in better.keys() & worse.keys()]
    mean, deviation = spread(leads)
    if len(leads) < 2:
        return mean, math.inf, "open"
    student = STUDENT[len(leads) - 2] if len(leads) - 2 < len(STUDENT) else 1.960
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


def verdicts(ablation: Ablation, scores: Scores) -> list[str]:
    """A line for each of the paper's claims: by each metric, the lead and whether the claim holds here."""
    lines = []
    for better, worse in ablation.claims:
        parts = []
        for metric in columns(ablation, scores):
            pair = [values(scores, arm, metric.name) for arm in (better, worse)]
            if metric.better and pair[0].keys() & pair[1].keys():
                lead, half, word = compare(*pair, metric.better)
                title = metric.title.rstrip(" ↑↓")
                parts.append(f"{title} {lead:+.{metric.digits}f} ± {half:.{metric.digits}f}: {word}")
        lines.append(f"{better} before {worse}: {'; '.join(parts) or 'not scored'}")
    return lines


def failures(grid: Grid, ablation: Ablation, failed: dict[Path, str]) -> list[str]:
    """A line for each arm and seed that failed."""
    lines = []
    for label, arm in ablation.arms.items():
        for seed in grid.seeds:
            exam = grid.exam(arm, seed)
            if reason := failed.get(exam.run.folder) or failed.get(exam.file):
                lines.append(f"{label}, seed {seed}, failed: {reason}")
    return lines


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
        contact_sheet(torch.stack(rows), list(pictures), path, columns=rows[0].shape[0])
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


@dataclass(frozen=True)
class Section:
    """An ablation in the report."""

    name: str
    title: str
    finding: str
    note: str
    rows: list[list[str]]
    verdicts: list[str]
    failed: list[str]
    pictures: dict[str, str]  # file -> what it shows


def write_report(grid: Grid, failed: dict[Path, str]) -> list[Path]:
    """Write report.md, report.html and the pictures; the paths of the two. ValueError: matplotlib is missing."""
    sections = []
    for name, ablation in grid.ablations.items():
        scores, pictures = read_scores(grid, ablation), {}
        if draw_curves(grid, ablation, grid.folder / f"curves-{name}.png"):
            pictures[f"curves-{name}.png"] = f"{ablation.title}: loss of training, the mean of {len(grid.seeds)} seeds"
        if draw_strips(grid, ablation, grid.folder / f"strips-{name}.png"):
            pictures[f"strips-{name}.png"] = f"{ablation.title}: the same two samples of each, seed {grid.seeds[0]}"
        texts = table(ablation, scores), verdicts(ablation, scores), failures(grid, ablation, failed)
        sections.append(Section(name, ablation.title, ablation.finding, ablation.note, *texts, pictures))
    return [
        write_text(grid.folder / "report.md", markdown(about(grid), sections)),
        write_text(grid.folder / "report.html", page(about(grid), sections, grid.folder)),
    ]


def about(grid: Grid) -> list[str]:
    """What all of it rests on, and how to read it."""
    base, model = grid.base, ", ".join(f"{name} {value}" for name, value in grid.base.model.items())
    sampling = ", ".join(f"{name} {value}" for name, value in grid.scale.sampling.items() if name != "batch_size")
    return [
        f"Base: data {base.data}, {base.num_frames} frames of {base.image_size} pixels, {model}; {base.steps} steps of "
        f"{base.global_batch_size} clips, learning rate {base.learning_rate:g}; every setting is in base.yaml. Every "
        f"arm is trained alike, with seeds {', '.join(map(str, grid.seeds))}; of each run {grid.count} videos are "
        f"sampled ({sampling}).",
        "Cells: mean ± standard deviation over the seeds. Verdicts: the mean lead, seed by seed, ± half of its 95 % "
        "interval (Student's); a claim of the paper holds or is reversed here where that leaves out 0, and is open "
        "where it does not. Nothing is corrected for the number of comparisons.",
    ]


def markdown(about: list[str], sections: list[Section]) -> str:
    """The report as Markdown."""
    lines = ["# Ablations", "", *(line for text in about for line in (text, ""))]
    for section in sections:
        heading, *rows = [f"| {' | '.join(row)} |" for row in section.rows]
        lines += [
            f"## {section.title}",
            "",
            f"`{section.name}`. The paper: {section.finding} {section.note}".rstrip(),
            "",
        ]
        lines += [heading, "|" + "---|" * len(section.rows[0]), *rows, ""]
        lines += [f"- {line}" for line in section.verdicts + section.failed]
        lines += [""] if section.verdicts + section.failed else []
        for file, caption in section.pictures.items():
            lines += [f"![{caption}]({file})", ""]
    return "\n".join(lines)


OWN_STYLE = """
h2 { font-size: 1.15rem; margin: 2.75rem 0 .5rem }
p { margin: .4rem 0; max-width: 60rem }
.table { overflow-x: auto }
table { border-collapse: collapse; margin: .9rem 0; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 500 }
th:first-child, td:first-child { text-align: left }
ul { margin: .6rem 0; padding-left: 1.1rem; font-size: .9rem }
figure { margin: 1rem 0; background: #fff; width: fit-content }
img { display: block; max-width: 100% }"""


def page(about: list[str], sections: list[Section], folder: Path) -> str:
    """The report as one HTML file that needs no other."""
    of = html.escape
    parts = ["<h1>Ablations</h1>", *(f"<p>{of(text)}</p>" for text in about)]
    for section in sections:
        row = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{of(text)}</{tag}>" for text in cells) + "</tr>"
        parts += [f'<h2 id="{section.name}">{of(section.title)}</h2>']
        parts += [f"<p>The paper: {of(section.finding)}</p>", *([f"<p>{of(section.note)}</p>"] if section.note else [])]
        parts += ['<div class="table"><table>', row(section.rows[0], "th")]
        parts += [*(row(cells, "td") for cells in section.rows[1:]), "</table></div>"]
        parts += ["<ul>", *(f"<li>{of(line)}</li>" for line in section.verdicts + section.failed), "</ul>"]
        for file, caption in section.pictures.items():
            data = base64.b64encode((folder / file).read_bytes()).decode()
            parts.append(f'<figure><img alt="{of(caption)}" src="data:image/png;base64,{data}"></figure>')
    head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Ablations</title>\n'
    size = '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    return f"{head}{size}<style>\n{STYLE}{OWN_STYLE}\n</style>\n" + "\n".join(parts) + "\n</html>\n"
