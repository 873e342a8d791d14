"""Fixtures for the tests of data sets."""

import pytest
from tiny_data_sets import TAKEN

from latte.cli import main


@pytest.fixture
def prepare(tmp_path, capsys):
    """Runs the command with --out tmp_path/out, and returns its status, stdout and stderr."""

    def run(kind, source, *words, taken=TAKEN):
        sources = [] if source is None else [str(source)]
        status = main(["prepare", kind, *sources, "--out", str(tmp_path / "out"), *taken, *map(str, words)])
        return status, *capsys.readouterr()

    return run
