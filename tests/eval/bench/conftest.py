"""Fixtures of the tests of `latte bench speed`."""

import pytest
from speed_models import shorten, text_pipeline


@pytest.fixture
def short(monkeypatch):
    shorten(monkeypatch)


@pytest.fixture
def t2v():
    return text_pipeline()
