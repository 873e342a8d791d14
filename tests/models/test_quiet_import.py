"""Importing the models is silent, and leaves the user's warning filters alone."""

import subprocess
import sys

CODE = """
import warnings
import torch
warnings.simplefilter("always")
before = list(warnings.filters)
import latte.models.latte_t2v
assert warnings.filters == before, "the filters changed"
warnings.warn("Failed to load image Python extension: not timm's", UserWarning)
"""


def test_importing_the_models_is_silent():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert run.returncode == 0 and run.stderr.count("Failed to load image") == run.stderr.count("not timm's"), (
        run.stderr
    )
    assert "not timm's" in run.stderr
