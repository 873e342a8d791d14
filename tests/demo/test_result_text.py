"""Results as shown on the `latte demo` page."""

import base64
import json
from pathlib import Path

import pytest

from latte.demo.result_text import result_text

ROOT = Path(__file__).parents[2]
RESULT = {
    "metric": "fvd",
    "protocol": None,
    "detector": {"name": "FVD", "network": "I3D"},
    "device": "cpu",
    "seed": 0,
    "real": {"clips": 20},
    "generated": {"clips": 10},
    "distance": 321.5,
    "caveats": ["few clips"],
    "versions": {},
}


def test_a_report_embeds_only_its_own_pictures(tmp_path):
    folder = tmp_path / "ablations"
    folder.mkdir()
    (folder / "curve.png").write_bytes(b"picture")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "report.md").write_text("# A\n![curve](curve.png)\n![no](../secret.png)\n![gone](gone.png)\n")
    text = result_text(folder)
    data = base64.b64encode(b"picture").decode()
    assert text == f"# A\n![curve](data:image/png;base64,{data})\n![no](../secret.png)\n![gone](gone.png)\n"
    assert result_text(folder / "report.md") == text


def test_one_result_and_a_folder_of_them(tmp_path):
    for name, distance in (("ours", 321.5), ("theirs", 400.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**RESULT, "distance": distance}))
    one, table = result_text(tmp_path / "ours.json"), result_text(tmp_path)
    assert "FVD: 10 generated clips, 20 real clips" in one and "321.50" in one and "few clips" in one
    assert table.index("ours") < table.index("theirs") and "400.00" in table


def test_examiner_scores_are_shown_as_a_table(tmp_path):
    text = result_text(ROOT / "latte" / "assets" / "shapes" / "scores.json")
    row = next(line.split() for line in text.splitlines() if line.startswith("motion_accuracy"))
    assert row[:2] == ["motion_accuracy", "1.000"] and "num_inference_steps     100" in text
    (tmp_path / "speed.json").write_text('{"clips": 3}')
    assert "clips                   3" in result_text(tmp_path / "speed.json")


def test_a_missing_or_invalid_result_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no result"):
        result_text(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no result of `latte eval"):
        result_text(tmp_path)
