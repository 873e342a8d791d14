"""The shipped weights: small enough to be part of the package."""

import json
from pathlib import Path

import pytest

import latte

ASSETS = Path(latte.__file__).parent / "assets"


def size(folder):
    """Bytes of the weights in a folder and below it."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["shapes", "shapes-four", "shapes-t2v", "shapes-t2v-four"])
def test_a_model_takes_at_most_12_mb(name):
    """With the parts that it shares with another model."""
    listed = ASSETS / name / "shared.json"
    shared = json.loads(listed.read_text()) if listed.exists() else {}
    parts = [ASSETS / source["model"] / part for part, source in shared.items()]
    assert 10**6 < sum(map(size, [ASSETS / name, *parts])) <= 12 * 10**6


def test_all_models_together_take_less_than_36_mb():
    assert 10**6 < size(ASSETS) < 36 * 10**6
