"""docs/first-steps.ipynb runs from top to bottom, as a user runs it."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install '.[notebook]'")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, which comes with nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install '.[notebook]'")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "docs/first-steps.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = {cell.id: str(cell.get("outputs")) for cell in notebook.cells}
    assert "LattePipeline of shapes" in outputs["sample-code"] and "image/gif" in outputs["video-code"]
    assert "first/final: trained for 10 steps" in outputs["train-code"]
    assert "latte sample ." in outputs["card-code"] and "motion_accuracy" in outputs["evaluate-code"]
    assert "scores" in outputs["scores-code"]
