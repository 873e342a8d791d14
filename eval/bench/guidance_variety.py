"""Quality against variety, for each way to guide and several scales, on a model of the built-in shapes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latte.eval.bench.speed_plots import picture
from latte.eval.exam import judge, questions
from latte.eval.frechet import Moments, distance
from latte.eval.manifold import manifold_scores
from latte.eval.networks.shape_features import resize_clip, shape_features
from latte.eval.reporting import markdown_table
from latte.pipeline import LattePipeline
from latte.sampling_settings import Guidance

NONE, AUTO = "none", "autoguidance"  # without guidance; away from a weaker model
WAYS: dict[str, dict[str, Any]] = {  # settings of a call
    "cfg": {},
    "interval": {"guidance_interval": (500, 1000)},
    "apg": {"guidance_method": "apg"},
    "cfg-zero": {"guidance_method": "cfg-zero"},
    "cfg++": {"guidance_method": "cfg++"},
    "linear": {"guidance_schedule": "linear"},
    "cosine": {"guidance_schedule": "cosine"},
    "beta": {"guidance_schedule": "beta"},
    AUTO: {},
}
COLUMNS = {  # of the table and the plot: the name of a score, and its title
    "motion_accuracy": "motion",
    "colour_constancy": "colour constancy",
    "shape_constancy": "shape constancy",
    "colour_entropy": "colour entropy",
    "shape_entropy": "shape entropy",
    "distance": "shapes distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
PANELS = (  # the axes of the plot's panels: variety, quality
    ("colour_entropy", "colour_constancy"),
    ("shape_entropy", "shape_constancy"),
    ("recall", "precision"),
    ("coverage", "distance"),
)


def candidates(
    ways: Sequence[str], scales: Sequence[float], plus_scales: Sequence[float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(way, settings of a call) of every row; no guidance comes first.

    Args:
        ways: Names of WAYS.
        scales: Guidance scales.
        plus_scales: Guidance scales of "cfg++", from 0 to 1.
    """
    yield NONE, {"guidance_scale": 1.0}
    for way in ways:
        for scale in plus_scales if way == "cfg++" else scales:
            yield way, {"guidance_scale": scale, **WAYS[way]}


def measure_ways(
    pipe: LattePipeline, count: int, rows: Sequence[tuple[str, dict[str, Any]]], settings: dict[str, Any],
    network: torch.nn.Module, done: Sequence[dict[str, Any]] = (),
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Sample the same videos in every way, and score them.

    Args:
        pipe: The pipeline; its weaker model, if there is one, is used for AUTO only.
        count: Videos of each row.
        rows: From candidates.
        settings: Further options of the pipeline's call.
        network: The network of the shapes' features.
        done: Rows measured earlier, which are yielded unchanged; for AUTO, only those of the same weaker model.

    Yields:
        For each row its "way", its settings, for AUTO the "weaker" model, the examiner's scores, the shapes "distance",
        and precision, recall, density and coverage of the shapes' features, all against real clips of the same motions
        or captions.

    Raises:
        ValueError: The examiner cannot judge what the model generates.
    """
    asked, truths = questions(pipe, count)
    features = lambda videos: shape_features(network, torch.stack([resize_clip(video) for video in videos]))
    real = features([torch.from_numpy(clip.video) for clip in truths])
    weaker, before, record = pipe.weaker, pipe.sampling, pipe.weaker_record()
    known = {name_of(row): row for row in done if row["way"] != AUTO or row["weaker"] == record}
    pipe.sampling = replace(before, guidance=Guidance(1.0))  # so that none of the folder's guidance remains
    try:
        for way, guidance in rows:
            name = name_of({"way": way, **guidance})
            if name not in known:
                pipe.weaker = weaker if way == AUTO else None
                call = {**asked, **settings, **guidance}
                videos = pipe(**call, output_type="uint8", progress=False).frames
                found = features(videos)
                scores = {**judge(pipe, videos.numpy(), truths), **manifold_scores(real, found)}
                scores["distance"] = distance(Moments.of(real), Moments.of(found))
                which = {"weaker": record} if way == AUTO else {}
                known[name] = {"way": way, **guidance, **which, **scores}
            yield known[name]
    finally:
        pipe.weaker, pipe.sampling = weaker, before


def name_of(row: dict[str, Any]) -> str:
    """The name of a row: its way and scale."""
    return f"{row['way']} {row['guidance_scale']:g}"


def variety_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    cells = [[name_of(row), *(format(row[name], ".2f" if name == "distance" else ".3f") for name in COLUMNS)]
             for row in rows]  # fmt: skip
    return markdown_table(["", *COLUMNS.values()], cells)


def plot_variety(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write a plot of quality against variety: a line for each way, along its scales. Returns the picture's path.

    Raises:
        ValueError: matplotlib is not installed.
    """
    return picture(
        path, len(PANELS), lambda axes: [draw_panel(each, rows, *panel) for each, panel in zip(axes, PANELS)]
    )


def draw_panel(axes: Any, rows: Sequence[dict[str, Any]], variety: str, quality: str) -> None:
    """One pair of scores; the scales are written beside the points."""
    for i, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        points = [row for row in rows if row["way"] == way]
        style = (
            {"color": "black", "marker": "*", "markersize": 12} if way == NONE else {"color": f"C{i}", "marker": "."}
        )
        axes.plot([row[variety] for row in points], [row[quality] for row in points], label=way, **style)
        for row in points if way != NONE else ():
            at = (row[variety], row[quality])
            axes.annotate(f"{row['guidance_scale']:g}", at, fontsize=6, xytext=(2, 2), textcoords="offset points")
    axes.set(xlabel=COLUMNS[variety], ylabel=COLUMNS[quality])
    if quality == "distance":
        axes.set_yscale("log")
