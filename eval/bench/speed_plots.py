"""Plots of what `latte bench speed` measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from latte.files import replacing

EXACT = 60  # dB: videos that are closer than this differ by rounding
CACHES = ("PAB", "plan ")  # how the names of caches begin


def plot_speed(report: dict, folder: Path) -> list[Path]:
    """Write the plots of a report as PNG.

    Args:
        report: What `latte bench speed --out` writes.
        folder: Where to write.

    Returns:
        The pictures: "quality.png", time against PSNR and SSIM of each setting; "flops.png", operations against time;
        and "cost.png", time against frames and against the size of a frame. What was not measured is left out.

    Raises:
        ValueError: matplotlib is not installed.
    """
    sampling, forward, pictures = report["sampling"], report["forward"], []
    if sampling is not None:
        title = titled(report, f"{sampling['videos']} videos in {sampling['steps']} steps")
        rows = sampling["rows"]
        if any(row["psnr"] is not None for row in rows.values()):
            pictures.append(picture(folder / "quality.png", 2, lambda axes: draw_quality(axes, rows), title))
        pictures.append(picture(folder / "flops.png", 1, lambda axes: draw_flops(axes[0], rows), title))
    if len(forward) > 1:
        title = titled(report, "one evaluation")
        pictures.append(picture(folder / "cost.png", 2, lambda axes: draw_cost(axes, forward), title))
    return pictures


def titled(report: dict, what: str) -> str:
    """A title that says what was measured, where and when."""
    threads = report.get("threads")
    used = f", {threads} thread{'s' if threads != 1 else ''}" if threads else ""
    return f"{report['model']}: {what}; {report['processor']}{used}, {report['date']}"


def picture(path: Path, panels: int, draw: Callable, title: str = "") -> Path:
    """Draw some panels, two in a row, with the legend of the first beside them. ValueError: matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plots need matplotlib: pip install 'latte-video[plot]'") from error
    rows, columns = -(-panels // 2), min(panels, 2)
    figure = Figure(figsize=(5.5 * columns + 2, 4.2 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    draw(axes)
    for each in axes:
        each.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110, format="png")
    return path


def draw_quality(axes: list, rows: dict[str, dict]) -> None:
    """Seconds against PSNR and SSIM: a line through the settings of each cache, vertical lines for exact forms."""
    groups = grouped({name: row for name, row in rows.items() if row["psnr"] is not None})
    for each, key, label in zip(axes, ("psnr", "ssim"), ("PSNR to the exact videos, dB", "SSIM to the exact videos")):
        for i, (name, found) in enumerate(groups.items()):
            seconds = [row["min"] for row in found]
            if found[0]["psnr"] > EXACT and not name.startswith(CACHES):
                each.axvline(seconds[0], color="grey", linestyle=("-", "--", ":", "-.")[i % 4], label=f"exact: {name}")
            else:
                each.plot(seconds, [row[key] for row in found], **style(i, found), label=name)
        each.set(xlabel="seconds of denoising", ylabel=label, xlim=(0, None))


def draw_flops(axes: Any, rows: dict[str, dict]) -> None:
    """Operations against seconds, a colour for each cache, and the machine's rate of products as a line."""
    for i, (name, found) in enumerate(grouped(rows).items()):
        flops, seconds = [row["flops"] / 1e9 for row in found], [row["min"] for row in found]
        axes.plot(flops, seconds, **style(i, found), linestyle="none", label=name)
    first = next(iter(rows.values()))
    most = max(row["flops"] for row in rows.values()) / 1e9
    label = f"matrix product,\n{first['matmul_gflops']:.0f} GFLOP/s"
    axes.plot([0, most], [0, most / first["matmul_gflops"]], color="grey", linewidth=1, label=label)
    axes.set(xlabel="GFLOP", ylabel="seconds of denoising", xlim=(0, None), ylim=(0, None))


def grouped(rows: dict[str, dict]) -> dict[str, list[dict]]:
    """Rows by the cache that they use, the fastest setting first: "PAB 2/3" and "PAB 4/6" are one group."""
    groups: dict[str, list[dict]] = {}
    for name, row in rows.items():
        first, _, rest = name.partition(" ")
        one_rule = first == "plan" and ":" in rest and "+" not in rest
        group = f"plan {rest.partition(':')[0]}" if one_rule else "PAB" if first == "PAB" else name
        groups.setdefault(group, []).append(row)
    return {group: sorted(found, key=lambda row: row["min"]) for group, found in groups.items()}


def style(i: int, found: list) -> dict[str, Any]:
    """The colour and the markers of group i: stars or crosses for a single setting; others once colours repeat."""
    if len(found) == 1:
        return {"color": f"C{i % 10}", "marker": "*P"[i // 10 % 2], "markersize": 10}
    return {"color": f"C{i % 10}", "marker": "osDv"[i // 10 % 4]}


def draw_cost(axes: list, cases: list[dict]) -> None:
    """Seconds of one evaluation against frames, and against the side of a frame, a line for each row; both axes log."""
    first = cases[0]
    for each, key, other in ((axes[0], "frames", "size"), (axes[1], "size", "frames")):
        alike = [case for case in cases if case["tokens"] == first["tokens"] and case[other] == first[other]]
        alike.sort(key=lambda case: case[key])
        ticks = sorted({case[key] for case in alike})
        for i, name in enumerate(first["rows"]):
            points = [(case[key], case["rows"][name]["min"]) for case in alike]
            each.plot(*zip(*points), **style(i, points), label=name)
        each.set(xscale="log", yscale="log", ylabel="seconds of an evaluation")
        each.set(xlabel={"frames": "frames", "size": "side of a frame, pixels"}[key])
        each.set_title(f"{first[other]} {'pixels' if other == 'size' else 'frames'}", fontsize=10)
        each.set_xticks(ticks, [str(tick) for tick in ticks])
        each.minorticks_off()
