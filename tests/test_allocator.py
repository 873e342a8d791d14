"""Keeping freed memory: large tensors are not mapped again, and the command can opt out."""

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from latte import cli
from latte.commands import info
def run(_):
    faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.zeros(20_000_000)
    for n in range(2):
        y = x + 1
    before = faults()
    for n in range(10):
        y = x + 1
    print(faults() - before)
info.main = run
cli.main(["info"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is about glibc, the C library of Linux")
def test_large_tensors_are_not_mapped_again():
    faults = {}
    for keep in ("1", "0"):
        done = subprocess.run(
            [sys.executable, "-c", COUNT], capture_output=True, text=True, env={**os.environ, "LATTE_KEEP_MEMORY": keep}
        )
        faults[keep] = int(done.stdout)
    assert faults["1"] < faults["0"] / 5
