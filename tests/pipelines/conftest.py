"""Fixtures shared by the tests of video sets."""

import pytest
from awake_models import awake_pipeline
from sample_sets import make


@pytest.fixture(scope="module")
def classes():
    return awake_pipeline(3)


@pytest.fixture(scope="module")
def complete_set(classes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete")
    assert make(classes, folder) == 9
    return folder
