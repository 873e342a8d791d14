"""Importing the models is silent, and leaves the user's warning filters alone."""

import subprocess
import sys

CODE = """
import sys, warnings
import torch
warnings.simplefilter("always")
before = list(warnings.filters)
import latte.models.latte, latte.models.latte_t2v
assert warnings.filters == before, "the filters changed"
assert "torchvision" not in sys.modules, "torchvision is loaded"
"""


def test_importing_the_models_is_silent():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
