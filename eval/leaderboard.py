"""A leaderboard: every result in a folder, in tables that each hold only comparable results."""

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latte.eval.fvd_result import FVDResult, difference
from latte.eval.protocol import describe
from latte.eval.reporting import markdown_table
from latte.eval.seed_spread import SeedSpread
from latte.files import read_json, write_text
from latte.video.page import STYLE

MARKDOWN, PAGE = "leaderboard.md", "leaderboard.html"
HEADER = ("", "name", "distance", "at infinite N, 95 %", "KVD", "precision, recall", "density, coverage", "clips")
EXPLANATION = (
    "Lower distances are better. A table holds only results that may be compared: of one network, one protocol, the "
    "same real clips and the same number of generated ones. If every result of a table is extrapolated to infinite "
    "N, they are ordered by that; \u2248 marks results whose 95 % interval overlaps the best one's."
)


@dataclass(frozen=True)
class Entry:
    """A line of a table.

    Attributes:
        name: The name of the result.
        results: One result, or those of several sets, with different sampling seeds.
    """

    name: str
    results: tuple[FVDResult, ...]

    @property
    def value(self) -> float:
        """The distance, or its mean."""
        return statistics.fmean(result.value for result in self.results)

    @property
    def extrapolated(self) -> float | None:
        """The distance at infinite N, or its mean; None if a result lacks it."""
        values = [result.infinite.value for result in self.results if result.infinite]
        return statistics.fmean(values) if len(values) == len(self.results) else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval at infinite N; of several results, from the lowest bound to the highest."""
        found = [result.infinite for result in self.results if result.infinite]
        if len(found) < len(self.results):
            return None
        return min(each.low for each in found), max(each.high for each in found)

    def cells(self) -> list[str]:
        """The cells of the table, from the name on."""
        values = [result.value for result in self.results]
        several = f" \u00b1 {statistics.stdev(values):.2f} ({len(values)} sets)" if len(values) > 1 else ""
        bounds = self.interval
        interval = f"{self.extrapolated:.2f} ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else "-"
        clips = str(self.results[0].generated.get("clips") or "-")
        quality = [self.manifold("precision", "recall"), self.manifold("density", "coverage")]
        return [self.name, f"{self.value:.2f}{several}", interval, self.kernel(), *quality, clips]

    def kernel(self) -> str:
        """The kernel distance and its error; of several sets, the mean and the standard deviation over them."""
        found = [result.kernel for result in self.results if result.kernel]
        if len(found) < len(self.results):
            return "-"
        values = [each.value for each in found]
        error = statistics.stdev(values) if len(values) > 1 else found[0].error
        return f"{statistics.fmean(values):.3g} \u00b1 {error:.1g}"

    def manifold(self, *names: str) -> str:
        """Scores by their names; of several sets, their means."""
        found = [result.manifold for result in self.results if result.manifold]
        if len(found) < len(self.results):
            return "-"
        return ", ".join(f"{statistics.fmean(each[name] for each in found):.2f}" for name in names)


@dataclass
class Table:
    """Entries that may be compared.

    Attributes:
        entries: The lines, in the order of reading.
        protocols: The names of all protocols under which they were measured, which amount to the same here.
        apart: In what the table differs from the first one of the same title; empty if this is the first one.
    """

    entries: list[Entry] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    apart: str = ""

    def accepts(self, entry: Entry) -> bool:
        """Whether an entry may be compared with those of the table."""
        return not any(difference(self.entries[0].results[0], result) for result in entry.results)

    def add(self, entry: Entry) -> None:
        """Add an entry, unless the same file gave one already, under a protocol that amounts to the same."""
        names = (result.protocol["name"] for result in entry.results if result.protocol)
        self.protocols = list(dict.fromkeys((*self.protocols, *names)))
        if all(other.name != entry.name for other in self.entries):
            self.entries.append(entry)

    @property
    def title(self) -> str:
        """The network's name and the protocol's."""
        first = self.entries[0].results[0]
        return first.detector["name"] + (f", protocol {first.protocol['name']}" if first.protocol else "")

    @property
    def about(self) -> str:
        """What all entries share: the protocol in words, the network, the real clips and their floor."""
        first = self.entries[0].results[0]
        said = [f"apart from the first table of this name, since they differ in {self.apart}"] if self.apart else []
        said += [describe(first.protocol)] if first.protocol else []
        if len(self.protocols) > 1:
            names = " and ".join(f'"{name}"' for name in self.protocols)
            said.append(f"these protocols are equal here: {names}")
        real = (
            first.real.get("folder") or first.real.get("statistics") or first.real.get("features") or "the real clips"
        )
        said.append(f"{first.real.get('clips') or 'an unknown number of'} real clips ({Path(str(real)).name})")
        if floor := first.floor:
            said.append(f"real-vs-real floor {floor.value:.2f} ({floor.low:.2f} to {floor.high:.2f})")
        return "; ".join([*said, first.network])

    def rows(self) -> list[list[str]]:
        """The cells of all lines, the best first, with a rank or a mark before each."""
        at_infinity = [each.extrapolated for each in self.entries if each.extrapolated is not None]
        keys = at_infinity if len(at_infinity) == len(self.entries) else [each.value for each in self.entries]
        order = [self.entries[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]
        return [[self.mark(i, order), *entry.cells()] for i, entry in enumerate(order)]

    def mark(self, place: int, order: Sequence[Entry]) -> str:
        """The rank of an entry, and whether its interval overlaps the first one's."""
        best, own = order[0].interval, order[place].interval
        overlaps = place and best and own and own[0] <= best[1]
        return f"{place + 1} \u2248" if overlaps else str(place + 1)

    def caveats(self) -> list[str]:
        """The caveats of the entries, each with the names that it holds for, unless it holds for all."""
        holds: dict[str, list[str]] = {}
        for entry in self.entries:
            for caveat in dict.fromkeys(caveat for result in entry.results for caveat in result.caveats):
                holds.setdefault(caveat, []).append(entry.name)
        everyone = len(self.entries)
        return [text if len(names) == everyone else f"{', '.join(names)}: {text}" for text, names in holds.items()]


def read_entries(values: dict[str, Any], name: str) -> list[Entry]:
    """The entries in a file of `latte eval --out`: one result, one for each protocol, or sets.

    Raises:
        ValueError: It holds none of these.
    """
    if isinstance(found := values.get("protocols"), dict):
        return [Entry(name, (FVDResult.from_dict(each),)) for each in found.values()]
    if isinstance(values.get("sets"), dict):
        return [Entry(name, SeedSpread.from_dict(values).results)]
    return [Entry(name, (FVDResult.from_dict(values),))]


def read_tables(folder: Path) -> tuple[list[Table], dict[str, str]]:
    """Read the results of a folder, at any depth, into tables; the largest first.

    Returns:
        The tables, and why other .json files hold no result, by name.

    Raises:
        ValueError: The folder holds no result. FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name one with files that `latte eval --out` wrote")
    tables: list[Table] = []
    others: dict[str, str] = {}
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            entries = read_entries(read_json(path), name)
        except ValueError as error:
            others[name] = str(error).removeprefix(f"{path}: ")
            continue
        for entry in entries:
            table = next((table for table in tables if table.accepts(entry)), None)
            if table is None:
                tables.append(table := Table())
            table.add(entry)
    if not tables:
        raise ValueError(f"{folder} holds no result of `latte eval --real ... --out FILE.json`")
    tables.sort(key=lambda table: (-len(table.entries), table.title))
    first: dict[str, Table] = {}
    for table in tables:
        if (other := first.setdefault(table.title, table)) is not table:
            table.apart = difference(other.entries[0].results[0], table.entries[0].results[0])
    return tables, others


def write_leaderboard(folder: str | Path) -> list[Path]:
    """Write leaderboard.md and leaderboard.html into a folder of results.

    Args:
        folder: Its .json files, at any depth, are results of `latte eval --out`.

    Returns:
        The two files.

    Raises:
        ValueError: The folder holds no result. FileNotFoundError: There is no such folder.
    """
    tables, others = read_tables(Path(folder))
    left_out = [f"left out: {name}.json ({why})" for name, why in others.items()]
    return [
        write_text(Path(folder) / MARKDOWN, markdown_page(tables, left_out)),
        write_text(Path(folder) / PAGE, html_page(tables, left_out)),
    ]


def markdown_page(tables: Sequence[Table], left_out: Sequence[str]) -> str:
    """The page in Markdown."""
    escape = lambda cells: [cell.replace("|", "\\|") for cell in cells]
    parts = ["# Leaderboard", EXPLANATION]
    for table in tables:
        rows = [escape(row) for row in table.rows()]
        parts += [f"## {table.title}", table.about, markdown_table(HEADER, rows)]
        parts += ["\n".join(f"- {caveat}" for caveat in table.caveats())] if table.caveats() else []
    parts += ["\n".join(f"- {line}" for line in left_out)] if left_out else []
    return "\n\n".join(parts) + "\n"


HTML = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leaderboard</title>
<style>
{style}
h2 {{ font-size: 1.15rem; margin: 2.25rem 0 .25rem }}
p, li {{ color: var(--soft); font-size: .9rem; overflow-wrap: anywhere }}
.scroll {{ overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
th, td {{ padding: .5rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }}
th {{ color: var(--soft); font-weight: 500; font-size: .85rem }}
th:nth-child(2), td:nth-child(2) {{ text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9rem }}
td:first-child {{ color: var(--soft) }}
tr:first-child td:nth-child(3) {{ font-weight: 600 }}
tr:last-child td {{ border-bottom: 0 }}
</style>
<h1>Leaderboard</h1>
<p>{explanation}</p>
{tables}{left_out}</html>
"""


def html_page(tables: Sequence[Table], left_out: Sequence[str]) -> str:
    """The page in HTML."""
    text = html.escape
    cells = lambda tag, row: "<tr>" + "".join(f"<{tag}>{text(cell)}</{tag}>" for cell in row) + "</tr>"
    bullets = lambda lines: f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>\n" if lines else ""
    parts = []
    for table in tables:
        body = "\n".join(cells("td", row) for row in table.rows())
        head = f"<thead>{cells('th', HEADER)}</thead>"
        parts.append(f"<h2>{text(table.title)}</h2>\n<p>{text(table.about)}</p>\n")
        parts.append(f'<div class="scroll"><table>{head}\n<tbody>\n{body}\n</tbody></table></div>\n')
        parts.append(bullets(table.caveats()))
    return HTML.format(style=STYLE, explanation=text(EXPLANATION), tables="".join(parts), left_out=bullets(left_out))
