"""The leaderboard of a folder of results: what may be compared is in one table, sorted, and nothing else is."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from latte.cli import main
from latte.eval.features import Detector
from latte.eval.leaderboard import read_tables, write_leaderboard
from latte.eval.protocol import adjusted
from latte.eval.protocol_table import ProtocolTable
from latte.eval.seed_spread import SeedSpread
from latte.eval.statistics import FeatureSet
from latte.eval.video_comparison import measure_distance

SKETCH = Detector({"metric": "fvd", "name": "FVD", "network": "I3D, sha256 12ab"}, None, "cpu", 6)


@cache
def result(scale: float, protocol: str = "latte", count: int = 60, seed: int = 1):
    draw = lambda seed: torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    real = FeatureSet({"clips": count, "fingerprint": "same", "folder": "data/UCF-101"}, draw(0))
    generated = FeatureSet({"clips": count, "codecs": {"ffv1": count}}, draw(seed) * scale)
    return measure_distance(real, generated, adjusted(protocol, clips=count), SKETCH)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five results under Latte's protocol, three of them of one model, two under StyleGAN-V's, and other files."""
    made = {
        "worst <model>": result(3.0),
        "sub/best": result(1.2),
        "near|best": result(1.22),
        "several": SeedSpread((result(1.5), result(1.52, seed=5)), ("a", "b")),
        "table": ProtocolTable({name: result(1.4, name) for name in ("latte", "stylegan-v")}, {"tf": "too short"}),
        "fewer": result(1.3, count=50),
    }
    for name, value in made.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.json").write_text(json.dumps(value.to_dict()))
    (tmp_path / "samples.json").write_text('{"seed": 0}')
    (tmp_path / "damaged.json").write_text("{")
    return tmp_path


def test_tables_hold_what_may_be_compared_in_order(folder):
    tables, others = read_tables(folder)
    assert [len(table.entries) for table in tables] == [5, 1, 1] and set(others) == {"samples", "damaged"}
    rows = tables[0].rows()
    assert [row[1] for row in rows] == ["sub/best", "near|best", "table", "several", "worst <model>"]
    assert [row[0] for row in rows][:2] == ["1", "2 \u2248"] and rows[-1][0] == "5"
    best, spread = result(1.2), (result(1.5), result(1.52, seed=5))
    assert rows[0][2] == f"{best.value:.2f}" and rows[0][7] == "60"
    assert rows[0][3] == f"{best.infinite.value:.2f} ({best.infinite.low:.2f} to {best.infinite.high:.2f})"
    assert rows[0][5] == f"{best.manifold['precision']:.2f}, {best.manifold['recall']:.2f}"
    mean = sum(each.value for each in spread) / 2
    assert rows[3][2].startswith(f"{mean:.2f} \u00b1 ") and rows[3][2].endswith("(2 sets)")
    assert {table.title for table in tables} == {
        "FVD, protocol latte, clips 60",
        "FVD, protocol latte, clips 50",
        "FVD, protocol stylegan-v, clips 60",
    }
    assert "real stride 3" in tables[0].about and "60 real clips (UCF-101); real-vs-real floor" in tables[0].about


def test_without_extrapolation_the_distance_decides(tmp_path):
    for name, values in {"a": (9.0, 5.0), "b": (8.0, 6.0), "c": (7.0, None)}.items():
        held = result(1.2).to_dict() | {"distance": values[0]}
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
        assert page.count("the real-vs-real floor is measured on 30 against 30 clips and scaled to all") == 2
    before = dict(pages)
    assert [path.read_text() for path in write_leaderboard(folder)] == list(before.values())


def test_folders_without_results_get_one_line(tmp_path, capsys):
    assert main(["eval", "--leaderboard", str(tmp_path)]) == 2
    assert "holds no result of `latte eval --real" in capsys.readouterr().err
    assert main(["eval", "--leaderboard", str(tmp_path / "gone")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["eval", "--leaderboard", str(tmp_path), "--out", "x.json"]) == 2
    assert "--out does nothing with --leaderboard" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
