"""Tables of what `latte bench speed` measured."""

from latte.eval.reporting import markdown_table

FORWARD = {
    "s": ("min", 1, ".4g"), "median": ("median", 1, ".4g"), "GFLOP": ("flops", 1e-9, ".4g"),
    "of matmul": ("share", 1, ".0%"), "over floor": ("over_floor", 1, ".2f"), "peak MB": ("peak_mb", 1, ".4g"),
    "first s": ("first_seconds", 1, ".3g"), "error": ("error", 1, ".1e"), "ratio": ("ratio", 1, ".2f"),
}  # fmt: skip
SAMPLING = {
    "s": ("min", 1, ".4g"), "s a step": ("per_step", 1, ".4g"), "first s": ("first_seconds", 1, ".3g"),
    "GFLOP": ("flops", 1e-9, ".4g"), "of matmul": ("share", 1, ".0%"), "peak MB": ("peak_mb", 1, ".4g"),
    "PSNR": ("psnr", 1, ".1f"), "SSIM": ("ssim", 1, ".4f"), "LPIPS": ("lpips", 1, ".4f"), "error": ("error", 1, ".1e"),
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
