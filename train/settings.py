"""Where a run's settings come from: a preset's name or a file, and what the command line changes of it."""

import os
import warnings
from dataclasses import asdict
from pathlib import Path

import yaml

from latte.tensors import naming
from latte.train.config import TABLES, TrainConfig, typed
from latte.train.original_config import is_original, translate
from latte.train.presets import PRESETS


def resolve(source: str, changes: list[str]) -> TrainConfig:
    """A preset's name or a file, with changes such as "steps=100" or "model.depth=4" on top.

    The file is a run's config.yaml, or a training configuration of the original Latte: then a warning tells of each key
    that did nothing there or does nothing here. ValueError: no such preset or file, an unknown key (with the closest
    one), a value of the wrong type.
    """
    values = asdict(PRESETS[source]) if source in PRESETS else read_yaml(source)
    if is_original(values):
        with naming(Path(source)):
            values, notes = translate(values, ranks=int(os.environ.get("WORLD_SIZE", "1")))
        for note in notes:
            warnings.warn(note, stacklevel=2)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r}: a setting is changed as key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{change!r}: the value is not YAML: {error}") from error
        table, dot, inner = name.partition(".")
        if dot and table in TABLES:
            values[table] = {**typed(table, values.get(table, {})), inner: value}
        else:
            values[name] = value
    return TrainConfig(**{name: typed(name, value) for name, value in values.items()})


def read_yaml(source: str) -> dict:
    """A file's table of settings."""
    if not Path(source).is_file():
        raise ValueError(f"no preset and no file is called {source!r}; the presets are {', '.join(PRESETS)}")
    try:
        values = yaml.safe_load(Path(source).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} does not hold a table of settings")
    return values
