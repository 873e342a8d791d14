"""The leaderboard of a folder of results: results that may be compared share a sorted table."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from latte.cli import main
from latte.eval.extrapolation import Estimate
from latte.eval.features import Detector
from latte.eval.fvd_result import FVDResult
from latte.eval.kernel import Discrepancy
from latte.eval.leaderboard import read_tables, write_leaderboard
from latte.eval.protocol import adjusted
from latte.eval.protocol_table import ProtocolTable
from latte.eval.seed_spread import SeedSpread
from latte.eval.statistics import FeatureSet
from latte.eval.video_comparison import measure_distance

SKETCH = Detector({"metric": "fvd", "name": "FVD", "network": "I3D, sha256 12ab"}, None, "cpu", 6)


@cache
def measured(protocol: str, count: int) -> FVDResult:
    draw = lambda seed: torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    real = FeatureSet({"clips": count, "fingerprint": "same", "folder": "data/UCF-101"}, draw(0))
    generated = FeatureSet({"clips": count, "codecs": {"ffv1": count}}, draw(1))
    return measure_distance(real, generated, adjusted(protocol, clips=count, frames=16), SKETCH)


def result(value: float, protocol: str = "latte", count: int = 30) -> FVDResult:
    """A result with the given distance, 2 lower at infinite N, ± 1."""
    infinite = Estimate(value - 2, value - 3, value - 1)
    return replace(measured(protocol, count), value=value, infinite=infinite)


def with_scores(value: float, times: float) -> FVDResult:
    """The same, with multiples of fixed scores."""
    scores = {"precision": 0.25, "recall": 0.375, "density": 0.75, "coverage": 0.125}
    scores = {name: times * score for name, score in scores.items()}
    return replace(result(value), kernel=Discrepancy(times, 0.1), manifold=scores)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five results under Latte's protocol, three from one model, two under StyleGAN-V's, and other files."""
    made = {
        "worst <model>": result(30.0),
        "sub/best": result(12.0),
        "near|best": result(12.2),
        "several": SeedSpread((with_scores(15.0, 1.0), with_scores(16.0, 3.0)), ("a", "b")),
        "table": ProtocolTable(
            {name: result(14.0, name) for name in ("latte", "stylegan-v", "stylegan-v-128f")}, {"tf": "-"}
        ),
        "fewer": result(13.0, count=20),
    }
    for name, value in made.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.json").write_text(json.dumps(value.to_dict()))
    (tmp_path / "samples.json").write_text('{"seed": 0}')
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "number.json").write_text('{"sets": {"a": 5}}')
    return tmp_path


def test_tables_group_and_sort_comparable_results(folder):
    tables, others = read_tables(folder)
    assert [len(table.entries) for table in tables] == [5, 1, 1] and set(others) == {"samples", "damaged", "number"}
    rows = tables[0].rows()
    assert [row[1] for row in rows] == ["sub/best", "near|best", "table", "several", "worst <model>"]
    assert [row[0] for row in rows][:2] == ["1", "2 \u2248"] and rows[-1][0] == "5"
    best = result(12.0)
    assert rows[0][2:4] == ["12.00", "10.00 (9.00 to 11.00)"] and rows[0][7] == "30"
    assert rows[0][5] == f"{best.manifold['precision']:.2f}, {best.manifold['recall']:.2f}"
    assert rows[3][2:4] == ["15.50 \u00b1 0.71 (2 sets)", "13.50 (12.00 to 15.00)"]
    assert rows[3][4:7] == ["2 \u00b1 1", "0.50, 0.75", "1.50, 0.25"]  # means of both sets
    assert {table.title for table in tables} == {
        "FVD, protocol latte, clips 30",
        "FVD, protocol latte, clips 20",
        "FVD, protocol stylegan-v, clips 30",
    }
    assert "real stride 3" in tables[0].about and "30 real clips (UCF-101); real-vs-real floor" in tables[0].about


def test_equal_protocols_and_tables_of_one_name_are_explained(tmp_path, capsys):
    alike = replace(result(14.0, "cd-fvd"), protocol=result(14.0, "cd-fvd").protocol | {"eps": None})
    exact = replace(result(14.0, "exact"), protocol=result(14.0, "exact").protocol | {"eps": None})
    for name, value in {
        "all": ProtocolTable({"exact": exact, "cd-fvd": alike}, {}),
        "one": alike,
        "other": replace(exact, seed=7),
        "third": replace(exact, real={**exact.real, "fingerprint": "other"}),
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value.to_dict()))
    tables, _ = read_tables(tmp_path)
    assert [[entry.name for entry in table.entries] for table in tables] == [["all", "one"], ["other"], ["third"]]
    assert tables[0].title == tables[1].title and "apart" not in tables[0].about
    assert 'these protocols are equal here: "exact, clips 30" and "cd-fvd, clips 30"; ' in tables[0].about
    assert "equal" not in tables[1].about
    assert tables[1].about.startswith("apart from the first table of this name, since they differ in seed, 0 and 7; ")
    assert tables[2].apart == "real clips, same and other"
    assert main(["info", str(tmp_path)]) == 0
    assert "clips 30, which differ from those above in seed, 0 and 7; the lowest is" in capsys.readouterr().out


def test_without_extrapolation_the_plain_distance_is_used(tmp_path):
    for name, values in {"a": (9.0, 5.0), "b": (8.0, 6.0), "c": (7.0, None)}.items():
        held = result(12.0).to_dict() | {"distance": values[0]}
        held["infinite"]["value"] = values[1]
        if values[1] is None:
            del held["infinite"]
        (tmp_path / f"{name}.json").write_text(json.dumps(held))
    assert [row[1] for row in read_tables(tmp_path)[0][0].rows()] == ["c", "b", "a"]
    (tmp_path / "c.json").unlink()
    assert [row[1] for row in read_tables(tmp_path)[0][0].rows()] == ["a", "b"]


def test_pages_are_written_and_escaped(folder, capsys):
    assert main(["eval", "--leaderboard", str(folder)]) == 0
    said = capsys.readouterr().out
    pages = {path.suffix: path.read_text() for path in (folder / "leaderboard.md", folder / "leaderboard.html")}
    assert all(f"wrote {folder / f'leaderboard{suffix}'}" in said for suffix in pages)
    assert "worst &lt;model&gt;" in pages[".html"] and "<model>" not in pages[".html"]
    assert "near\\|best" in pages[".md"] and "| 1 | sub/best |" in pages[".md"]
    for page in pages.values():
        assert page.index("sub/best") < page.index("several") < page.index("worst")
        assert "left out: damaged.json (" in page and "left out: samples.json (this is not a result" in page
        assert page.count("the real-vs-real floor is measured on 15 against 15 clips and scaled to all") == 2
    before = dict(pages)
    assert [path.read_text() for path in write_leaderboard(folder)] == list(before.values())


def test_results_of_several_sets_are_described_and_not_compared(folder, capsys):
    several, best = folder / "several.json", folder / "sub/best.json"
    assert main(["info", str(several)]) == 0
    said = capsys.readouterr().out
    assert "FVD: 2 sets of generated clips" in said and "15.50   +- 0.71 (standard deviation over the sets)" in said
    assert main(["eval", "--compare", str(several), str(best)]) == 2
    assert "several.json: this holds results of several sets: measure one, without --sets" in capsys.readouterr().err


def test_folders_without_results_get_one_line(tmp_path, capsys):
    assert main(["eval", "--leaderboard", str(tmp_path)]) == 2
    assert "holds no result of `latte eval --real" in capsys.readouterr().err
    assert main(["eval", "--leaderboard", str(tmp_path / "gone")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["eval", "--leaderboard", str(tmp_path), "--out", "x.json"]) == 2
    assert "--out does nothing with --leaderboard" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
