"""Tables and plots of what `latte bench speed` measured."""

from collections.abc import Callable
from pathlib import Path

from latte.eval.reporting import markdown_table
from latte.files import replacing

FORWARD = {
    "s": ("min", 1, ".4g"), "median": ("median", 1, ".4g"), "GFLOP": ("flops", 1e-9, ".4g"),
    "of matmul": ("share", 1, ".0%"), "over floor": ("over_floor", 1, ".2f"), "peak MB": ("peak_mb", 1, ".4g"),
    "error": ("error", 1, ".1e"), "ratio": ("ratio", 1, ".2f"),
}  # fmt: skip
SAMPLING = {
    "s": ("min", 1, ".4g"), "s a step": ("per_step", 1, ".4g"), "GFLOP": ("flops", 1e-9, ".4g"),
    "of matmul": ("share", 1, ".0%"), "peak MB": ("peak_mb", 1, ".4g"), "PSNR": ("psnr", 1, ".1f"),
    "SSIM": ("ssim", 1, ".4f"), "LPIPS": ("lpips", 1, ".4f"), "error": ("error", 1, ".1e"),
    "ratio": ("ratio", 1, ".2f"),
}  # fmt: skip


def speed_table(rows: dict[str, dict], columns: dict[str, tuple[str, float, str]]) -> str:
    """Rows of a comparison as a Markdown table, with a column for each peer.

    Args:
        rows: By name.
        columns: FORWARD or SAMPLING: by title, the name of a number, a factor and a format. A column without any
            number is left out.
    """
    used = {title: how for title, how in columns.items() if any(row.get(how[0]) is not None for row in rows.values())}
    peers = [name for name in next(iter(rows.values()))["over_peer"]]
    table = []
    for name, row in rows.items():
        cells = ["" if row.get(key) is None else format(row[key] * by, how) for key, by, how in used.values()]
        ratios = [format(ratio, ".2f") for ratio in row["over_peer"].values()]
        table.append([name, *cells, *(ratios or [""] * len(peers))])
    return markdown_table(["", *used, *(f"over {peer}" for peer in peers)], table)


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
    if sampling is not None and any(row["psnr"] is not None for row in sampling["rows"].values()):
        pictures.append(picture(folder / "quality.png", 2, lambda axes: draw_quality(axes, sampling["rows"])))
    if sampling is not None:
        pictures.append(picture(folder / "flops.png", 1, lambda axes: draw_flops(axes[0], sampling["rows"])))
    if len(forward) > 1:
        pictures.append(picture(folder / "cost.png", 2, lambda axes: draw_cost(axes, forward)))
    return pictures


def picture(path: Path, panels: int, draw: Callable) -> Path:
    """Draw some panels, two in a row, and write them. Raises ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plots need matplotlib: pip install 'latte-video[plot]'") from error
    rows, columns = -(-panels // 2), min(panels, 2)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    draw(axes)
    for each in axes:
        each.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110, format="png")
    return path


def draw_quality(axes: list, rows: dict[str, dict]) -> None:
    """Seconds against PSNR and against SSIM, a point for each setting."""
    for each, key, label in zip(axes, ("psnr", "ssim"), ("PSNR to the exact videos, dB (100: equal)", "SSIM")):
        for i, (name, row) in enumerate(rows.items()):
            if row[key] is not None:
                each.plot(row["min"], row[key], marker_of(name, row), color=f"C{i % 10}", label=name)
        each.set(xlabel="seconds", ylabel=label, xlim=(0, None))
    axes[0].legend(fontsize=8)


def draw_flops(axes, rows: dict[str, dict]) -> None:
    """Operations against seconds, and the machine's rate of products as a line."""
    for i, (name, row) in enumerate(rows.items()):
        axes.plot(row["flops"] / 1e9, row["min"], marker_of(name, row), color=f"C{i % 10}", label=name)
    first = next(iter(rows.values()))
    most = max(row["flops"] for row in rows.values()) / 1e9
    label = f"matrix product, {first['matmul_gflops']:.0f} GFLOP/s"
    axes.plot([0, most], [0, most / first["matmul_gflops"]], color="grey", linewidth=1, label=label)
    axes.set(xlabel="GFLOP", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=8)


def draw_cost(axes: list, cases: list[dict]) -> None:
    """Seconds of one evaluation against frames, and against the side of a frame, a line for each row."""
    first = cases[0]
    for each, key, other in ((axes[0], "frames", "size"), (axes[1], "size", "frames")):
        alike = [case for case in cases if case["tokens"] == first["tokens"] and case[other] == first[other]]
        alike.sort(key=lambda case: case[key])
        for i, name in enumerate(first["rows"]):
            points = [(case[key], case["rows"][name]["min"]) for case in alike]
            each.plot(*zip(*points), ".-", color=f"C{i % 10}", label=name)
        each.set(xlabel={"frames": "frames", "size": "side of a frame, pixels"}[key], ylabel="seconds an evaluation")
        each.set(xlim=(0, None), ylim=(0, None), title=f"{first[other]} {'pixels' if other == 'size' else 'frames'}")
        each.set_xticks(sorted({case[key] for case in alike}))
    axes[0].legend(fontsize=8)


def marker_of(name: str, row: dict) -> str:
    """Circles for ours, crosses for diffusers', triangles for other precisions."""
    return "X" if name in row["over_peer"] else "o" if row["dtype"] == "float32" else "^"
