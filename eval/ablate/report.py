"""The report of the ablations: tables, verdicts, training curves or scores, and samples side by side.

It depends only on the files of the runs and on what failed, so writing it again gives the same bytes.
"""

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from latte.eval.ablate.arms import Ablation
from latte.eval.ablate.pictures import draw_curves, draw_scores, draw_strips
from latte.eval.ablate.runs import Grid
from latte.eval.ablate.scores import REAL_CLIPS
from latte.eval.ablate.tables import METRICS, Verdict, ablation_table, read_scores, verdicts
from latte.eval.extrapolation import ENOUGH
from latte.eval.networks.i3d import CLASSES
from latte.eval.reporting import markdown_table
from latte.files import write_text
from latte.video.page import STYLE


@dataclass(frozen=True)
class Section:
    """The section of one ablation."""

    name: str
    title: str
    finding: str
    note: str
    rows: list[list[str]]  # of the table of scores, the header first
    verdicts: dict[str, list[Verdict]]  # by claim
    failed: list[str]
    pictures: dict[str, str]  # file name -> caption

    @property
    def texts(self) -> list[str]:
        """What the paper found, and what a reader should know."""
        return [text for text in (self.finding and f"The paper: {self.finding}", self.note) if text]

    @property
    def lines(self) -> list[str]:
        """The verdicts in words, and what failed."""
        lines = [f"{claim}: {'; '.join(map(str, row)) or 'not scored'}" for claim, row in self.verdicts.items()]
        return lines + self.failed


def write_report(grid: Grid, failed: dict[Path, str]) -> list[Path]:
    """Write report.md, report.html, and the pictures in them, to the folder of the ablations.

    Args:
        grid: the ablations.
        failed: what failed and why, see `latte.eval.ablate.runs.do_missing_work`.

    Returns:
        The paths of the two reports.

    Raises:
        ValueError: matplotlib is not installed.
    """
    sections, about = [make_section(grid, name, failed) for name in grid.ablations], settings_text(grid)
    return [
        write_text(grid.folder / "report.md", markdown_report(about, sections)),
        write_text(grid.folder / "report.html", html_report(about, sections, grid.folder)),
    ]


def make_section(grid: Grid, name: str, failed: dict[Path, str]) -> Section:
    """Read the scores of an ablation, and draw its pictures."""
    ablation, pictures = grid.ablations[name], {}
    scores = read_scores(grid, ablation)
    if draw_scores(ablation, scores, grid.folder / f"scores-{name}.png"):
        pictures[f"scores-{name}.png"] = f"{ablation.title}: scores, mean over {len(grid.seeds)} seeds"
    if draw_curves(grid, ablation, grid.folder / f"curves-{name}.png"):
        pictures[f"curves-{name}.png"] = f"{ablation.title}: training loss, mean over {len(grid.seeds)} seeds"
    if draw_strips(grid, ablation, grid.folder / f"strips-{name}.png"):
        pictures[f"strips-{name}.png"] = f"{ablation.title}: the same two samples of every arm, seed {grid.seeds[0]}"
    results = ablation_table(ablation, scores), verdicts(ablation, scores), failures(grid, ablation, failed)
    return Section(name, ablation.title, ablation.finding, ablation.note, *results, pictures)


def failures(grid: Grid, ablation: Ablation, failed: dict[Path, str]) -> list[str]:
    """A line for each arm and seed that failed."""
    lines = []
    for label, arm in ablation.arms.items():
        for seed in grid.seeds:
            evaluation = grid.evaluation(arm, seed)
            if reason := failed.get(evaluation.training.folder) or failed.get(evaluation.file):
                lines.append(f"{label}, seed {seed}, failed: {reason}")
    return lines


def summary_table(sections: list[Section]) -> list[list[str]]:
    """The outcome of every claim by every metric that has a verdict on any, as rows of cells, the header first."""
    claims = [(claim, {v.metric.name: v.outcome for v in row}) for s in sections for claim, row in s.verdicts.items()]
    shown = [metric for metric in METRICS if any(metric.name in outcomes for _, outcomes in claims)]
    rows = [["claim", *(metric.title.rstrip(" ↑↓") for metric in shown)]]
    return rows + [[claim, *(outcomes.get(metric.name, "-") for metric in shown)] for claim, outcomes in claims]


def settings_text(grid: Grid) -> list[str]:
    """Two paragraphs: the settings that all results depend on, and how to read the tables."""
    base, model = grid.base, ", ".join(f"{name} {value}" for name, value in grid.base.model.items())
    sampling = ", ".join(f"{name} {value}" for name, value in grid.scale.sampling.items() if name != "batch_size")
    return [
        f"Base: data {base.data}, {base.num_frames} frames of {base.image_size} pixels, {model}; {base.steps} steps of "
        f"{base.global_batch_size} clips, learning rate {base.learning_rate:g}. base.yaml has all settings. Every arm "
        f"is trained in the same way, with seeds {', '.join(map(str, grid.seeds))}. From each trained model, "
        f"{grid.num_videos} videos are sampled ({sampling}, unless an arm differs). {distance_note(grid)}".rstrip(),
        "Cells show the mean ± standard deviation over seeds. Verdicts show the mean lead of the arm that is "
        "claimed to be better, over paired seeds, ± half the width of its 95 % interval (Student's t). A claim holds "
        "here, or is reversed, if this interval excludes 0; otherwise it is open. Nothing is corrected for the "
        "number of comparisons.",
    ]


def distance_note(grid: Grid) -> str:
    """Which clips a distance is between, and how reliable it is with so few of them."""
    if grid.base.data == "shapes":
        clips = f"{grid.num_videos} samples and {REAL_CLIPS} held-out clips"
        return f"The shapes distance is between {clips}; with so few clips it is biased upwards."
    if not grid.i3d:
        return ""
    text = f"FVD is between {grid.num_videos} samples and as many clips of the data"
    if grid.num_videos < ENOUGH * CLASSES:
        text += f"; with fewer than {ENOUGH} for each of its {CLASSES} features it is biased upwards"
    return f"{text}."


def markdown_report(about: list[str], sections: list[Section]) -> str:
    """The report as Markdown, which refers to the pictures by file name."""
    table = lambda rows: [markdown_table(rows[0], rows[1:]), ""]
    lines = ["# Ablations", "", *(line for text in about for line in (text, ""))]
    summary = summary_table(sections)
    lines += ["## Summary", "", *table(summary)] if summary[1:] else []
    for section in sections:
        text = " ".join([f"`{section.name}`.", *section.texts])
        lines += [f"## {section.title}", "", text, "", *table(section.rows)]
        lines += [f"- {line}" for line in section.lines] + [""] * bool(section.lines)
        for file, caption in section.pictures.items():
            lines += [f"![{caption}]({file})", ""]
    return "\n".join(lines)


def data_url(picture: Path) -> str:
    """A picture as a data URL, so that a page needs no other file. As WebP it has a fifth of the bytes."""
    data = io.BytesIO()
    Image.open(picture).convert("RGB").save(data, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


REPORT_STYLE = """
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


def html_report(about: list[str], sections: list[Section], folder: Path) -> str:
    """The report as an HTML file that needs no other. The pictures are read from `folder`."""
    escape = html.escape
    line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in cells) + "</tr>"
    lines = lambda rows: "\n".join([line(rows[0], "th"), *(line(row, "td") for row in rows[1:])])
    table = lambda rows: f'<div class="table"><table>\n{lines(rows)}\n</table></div>'
    parts = ["<h1>Ablations</h1>", *(f"<p>{escape(text)}</p>" for text in about)]
    summary = summary_table(sections)
    parts += ["<h2>Summary</h2>", table(summary)] if summary[1:] else []
    for section in sections:
        parts += [
            f'<h2 id="{section.name}">{escape(section.title)}</h2>',
            *(f"<p>{escape(text)}</p>" for text in section.texts),
        ]
        parts += [table(section.rows)]
        parts += ["<ul>", *(f"<li>{escape(text)}</li>" for text in section.lines), "</ul>"] if section.lines else []
        for file, caption in section.pictures.items():
            parts.append(f'<figure><img alt="{escape(caption)}" src="{data_url(folder / file)}"></figure>')
    head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Ablations</title>\n'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    return f"{head}{viewport}<style>\n{STYLE}{REPORT_STYLE}\n</style>\n" + "\n".join(parts) + "\n</html>\n"
