"""The report of an ablation: what its runs' files say, as tables, verdicts, curves and samples side by side.

A pure function of those files and of what failed: written again, it is the same bytes.
"""

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from latte.eval.ablate.definitions import Ablation
from latte.eval.ablate.pictures import draw_curves, draw_strips
from latte.eval.ablate.runs import Grid
from latte.eval.ablate.scores import REAL
from latte.eval.ablate.tables import METRICS, Verdict, read_scores, table, verdicts
from latte.eval.extrapolation import ENOUGH
from latte.eval.networks.i3d import CLASSES
from latte.files import write_text
from latte.video.page import STYLE


def failures(grid: Grid, ablation: Ablation, failed: dict[Path, str]) -> list[str]:
    """A line for each arm and seed that failed."""
    lines = []
    for label, arm in ablation.arms.items():
        for seed in grid.seeds:
            exam = grid.exam(arm, seed)
            if reason := failed.get(exam.run.folder) or failed.get(exam.file):
                lines.append(f"{label}, seed {seed}, failed: {reason}")
    return lines


@dataclass(frozen=True)
class Section:
    """An ablation in the report."""

    name: str
    title: str
    finding: str
    note: str
    rows: list[list[str]]
    verdicts: dict[str, list[Verdict]]
    failed: list[str]
    pictures: dict[str, str]  # file -> what it shows

    @property
    def lines(self) -> list[str]:
        """Verdicts in words, and what failed."""
        said = [f"{claim}: {'; '.join(map(str, row)) or 'not scored'}" for claim, row in self.verdicts.items()]
        return said + self.failed


def summary(sections: list[Section]) -> list[list[str]]:
    """Rows of cells, the first the heading: what becomes of each claim, by each metric that decides any."""
    claims = [(claim, {v.metric.name: v.word for v in row}) for s in sections for claim, row in s.verdicts.items()]
    shown = [metric for metric in METRICS if any(metric.name in words for _, words in claims)]
    rows = [["claim", *(metric.title.rstrip(" ↑↓") for metric in shown)]]
    return rows + [[claim, *(words.get(metric.name, "-") for metric in shown)] for claim, words in claims]


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
        f"sampled ({sampling}). {distances(grid)}".rstrip(),
        "Cells: mean ± standard deviation over the seeds. Verdicts: the mean lead, seed by seed, ± half of its 95 % "
        "interval (Student's); a claim of the paper holds or is reversed here where that leaves out 0, and is open "
        "where it does not. Nothing is corrected for the number of comparisons.",
    ]


def distances(grid: Grid) -> str:
    """What a distance of samples is of, and what so few do to it."""
    large = "too large by what so few cost"
    if grid.base.data == "shapes":
        return f"The shapes distance is of {grid.count} samples from {REAL} held-out clips: {large}."
    if not grid.i3d:
        return ""
    few = f": fewer than {ENOUGH} for each of its {CLASSES} numbers, {large}" if grid.count < ENOUGH * CLASSES else ""
    return f"FVD is of {grid.count} samples from as many clips of the data{few}."


def markdown(about: list[str], sections: list[Section]) -> str:
    """The report as Markdown."""
    lines = ["# Ablations", "", *(line for text in about for line in (text, ""))]
    grid = lambda rows: [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
    lines += ["## In short", "", *grid(summary(sections)), ""] if summary(sections)[1:] else []
    for section in sections:
        lines += [
            f"## {section.title}",
            "",
            f"`{section.name}`. The paper: {section.finding} {section.note}".rstrip(),
            "",
        ]
        lines += [*grid(section.rows), ""]
        lines += [f"- {line}" for line in section.lines] + [""] * bool(section.lines)
        for file, caption in section.pictures.items():
            lines += [f"![{caption}]({file})", ""]
    return "\n".join(lines)


def embedded(picture: Path) -> str:
    """A picture as the address that it has in a page which needs no other file: WebP, a fifth of the bytes."""
    data = io.BytesIO()
    Image.open(picture).convert("RGB").save(data, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


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
    line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{of(text)}</{tag}>" for text in cells) + "</tr>"
    grid = lambda rows: ['<div class="table"><table>', line(rows[0], "th"), *(line(row, "td") for row in rows[1:])]
    parts = ["<h1>Ablations</h1>", *(f"<p>{of(text)}</p>" for text in about)]
    parts += ["<h2>In short</h2>", *grid(summary(sections)), "</table></div>"] if summary(sections)[1:] else []
    for section in sections:
        parts += [f'<h2 id="{section.name}">{of(section.title)}</h2>']
        parts += [f"<p>{of(text)}</p>" for text in (f"The paper: {section.finding}", section.note) if text]
        parts += [*grid(section.rows), "</table></div>"]
        parts += ["<ul>", *(f"<li>{of(text)}</li>" for text in section.lines), "</ul>"] if section.lines else []
        for file, caption in section.pictures.items():
            parts.append(f'<figure><img alt="{of(caption)}" src="{embedded(folder / file)}"></figure>')
    head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Ablations</title>\n'
    size = '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    return f"{head}{size}<style>\n{STYLE}{OWN_STYLE}\n</style>\n" + "\n".join(parts) + "\n</html>\n"
