"""A plan as a table and as a picture: evaluations across, kinds of layers down."""

from pathlib import Path

from latte.files import replacing
from latte.plans.cost import WEAKER_KIND, Cost
from latte.plans.records import LAYERS, Plan
from latte.plans.tracks import Tracks

MARKS = {0.0: ".", 1.0: "#"}  # by computed share, in the table: nothing, everything; else "+"
GUIDANCE = {"both": "2", "conditional": "1", "difference": "d"}


def computed_shares(plan: Plan, cost: Cost) -> dict[str, list[float]]:
    """For each kind of layer, and for a weaker network, the share of it that computes in each evaluation."""
    tracks = Tracks(plan, cost.holds)
    found = {}
    for kind in LAYERS:
        layers = [layer for layer in cost.layers if layer[0] == kind]
        if layers:
            counts = [sum(tracks[layer].computes(k) for layer in layers) for k in range(len(plan))]
            found[kind] = [count / len(layers) for count in counts]
    if cost.weaker is not None:
        away = cost.weaker_at(plan)
        found[WEAKER_KIND] = [float(k in away) for k in range(len(plan))]
    return found


def plan_table(plan: Plan, cost: Cost, width: int = 100) -> str:
    """A plan as text: a row for each kind of layer, a character for each evaluation."""
    rows = {"guidance": "".join(GUIDANCE[evaluation.branch] for evaluation in plan.evaluations)}
    for kind, shares in computed_shares(plan, cost).items():
        rows[kind] = "".join(MARKS.get(share, "+") for share in shares)
    lines = []
    for start in range(0, len(plan), width):
        part = plan.evaluations[start : start + width]
        lines.append(
            f"evaluations {start} to {start + len(part) - 1}, t = {part[0].timestep:g} to {part[-1].timestep:g}"
        )
        lines += [f"  {name:9} {row[start : start + width]}" for name, row in rows.items()]
    of = ("both halves", "one half") if cost.weaker is None else ("with the weaker network", "without it")
    lines.append(f"# computes, + some layers do, . reused; guidance: 2 {of[0]}, 1 {of[1]}, d with a cached difference")
    return "\n".join(lines)


def draw_plan(plan: Plan, exact: Plan, cost: Cost, out: Path, title: str) -> Path:
    """Draw a plan: what computes in each evaluation, and its FLOPs beside the exact plan's.

    Args:
        plan: The plan.
        exact: The plan that computes everything, for the same evaluations.
        cost: The network's cost.
        out: The picture to write.
        title: The title above it.

    Returns:
        The path of the picture.

    Raises:
        ValueError: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ValueError("drawing a plan needs matplotlib: pip install 'latte-video[plot]'") from error
    shares = computed_shares(plan, cost)
    halves = [evaluation.halves if cost.weaker is None else 2 for evaluation in plan.evaluations]
    grid = [[share * half / 2 for share, half in zip(row, halves)] for row in shares.values()]
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.4))
    edges = [k - 0.5 for k in range(len(plan) + 1)]
    picture = upper.pcolormesh(edges, range(len(grid) + 1), grid, cmap="Blues", vmin=0, vmax=1, edgecolors="white",
                               linewidth=0.4)  # fmt: skip
    upper.set_yticks([i + 0.5 for i in range(len(shares))], list(shares))
    upper.invert_yaxis()
    upper.tick_params(length=0)
    upper.set_title(title, fontsize=10)
    bar = figure.colorbar(picture, ax=upper, ticks=(0, 0.5, 1), pad=0.01)
    words = ["reused", "one half", "both halves"] if cost.weaker is None else ["reused", "some layers", "computed"]
    bar.ax.set_yticklabels(words, fontsize=8)
    below, giga = [0.0] * len(plan), 1e9
    for i, (kind, flops) in enumerate(cost.of_kinds(plan).items()):
        values = [value / giga for value in flops]
        lower.bar(range(len(plan)), values, bottom=below, width=1, label=kind, color=f"C{i}", linewidth=0)
        below = [a + b for a, b in zip(below, values)]
    whole = [value / giga for value in cost.of_plan(exact)]
    lower.stairs(whole, edges, color="black", linewidth=1, label="exact")
    lower.set(xlabel="evaluation", ylabel="GFLOPs per video", xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * max(whole)))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=6, frameon=False)
    with replacing(out) as draft:
        figure.savefig(draft, dpi=110)
    return out
