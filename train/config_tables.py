"""Configurations from tables of settings, as in a YAML file, a preset or an older run."""

import os
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Any

from latte.eval.networks.shape_features_config import ShapeFeaturesConfig
from latte.models.latte_config import LatteConfig
from latte.models.latte_t2v_config import LatteT2VConfig
from latte.models.network_config import NetworkConfig, check_fields, shown, unknown_key
from latte.models.t5_config import T5Config
from latte.models.vae_config import VAEConfig
from latte.train.bounded_yaml import compose, value_of
from latte.train.config import KINDS, SETTINGS, LatteTrainConfig, TrainConfig
from latte.train.settings import check_bounds, default_of

NETWORKS = {"latte": LatteConfig, "t2v": LatteT2VConfig, "vae": VAEConfig, "features": ShapeFeaturesConfig}  # by kind
TYPES = {  # what a setting of each type is, in words
    int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a table of settings",
}  # fmt: skip
PATHS = {name for name, known in SETTINGS.items() if known.metadata.get("path")}
TEXTS = {name for name, known in SETTINGS.items() if known.type is str}


def from_text(name: str, text: str) -> Any:
    """The value of a setting that is written as key=value.

    Settings of type text are taken literally. All others are YAML.

    Raises:
        ValueError: It is not YAML, or exceeds the limits of latte.train.bounded_yaml.
    """
    if name in TEXTS:
        return text
    root, loader = compose(text)
    return None if root is None else value_of(root, loader)


def typed(name: str, value: Any) -> Any:
    """The value of a setting in the setting's type: a number may be quoted, and an integer may stand for a float.

    Raises:
        ValueError: The value is not of that type.
    """
    wanted = SETTINGS[name].type
    if (wanted is float and type(value) is int) or (wanted in (int, float) and isinstance(value, str)):
        try:
            return wanted(value)
        except (ValueError, OverflowError):
            pass
    if type(value) is not wanted:
        raise ValueError(f"{name} is {shown(value)}; it must be {TYPES[wanted]}")
    return value


def kind_of(values: dict) -> type[TrainConfig]:
    """The class for settings by name, chosen by their "kind", which is "latte" if it is missing.

    Raises:
        ValueError: The kind is unknown.
    """
    kind = values.get("kind", LatteTrainConfig.kind)
    if kind not in list(KINDS):
        raise ValueError(f"kind is {shown(kind)}, not {' or '.join(map(repr, KINDS))}")
    return KINDS[kind]


def without_other_kinds(values: dict) -> dict:
    """Leave out the settings of other kinds that have their default values.

    Earlier versions had all settings in one class, so their config.yaml and state.json list those of every kind.
    """
    own = kind_of(values).defaults()
    foreign = SETTINGS.keys() - own.keys()
    return {name: z for name, z in values.items() if name not in foreign or z != default_of(SETTINGS[name])}


def complete(values: dict) -> dict:
    """The recorded settings of a run, as this version would record them: with defaults for newer settings."""
    return kind_of(values).defaults() | without_other_kinds(values)


def from_settings(values: dict) -> TrainConfig:
    """The configuration with these settings, of the class that "kind" chooses.

    Raises:
        ValueError: The kind or a setting is unknown, or a value is not valid.
    """
    kind = kind_of(values)
    own = kind.defaults()
    values = {name: typed(name, value) if name in SETTINGS else value for name, value in values.items()}
    for name in values.keys() & PATHS:
        values[name] = os.path.expanduser(values[name])
    values = without_other_kinds(values)
    for name in values:
        if name in SETTINGS and name not in own:
            owners = " or ".join(f"kind={kind}" for kind, known in KINDS.items() if name in known.defaults())
            raise ValueError(f"unknown key {name!r} for kind={kind.kind}: it is a setting of {owners}; leave it out")
        if name not in own:
            raise unknown_setting(str(name), own, [NETWORKS[kind.kind]])
    return kind(**{name: value for name, value in values.items() if name != "kind"})


def unknown_setting(name: str, known: Collection[str], networks: Iterable[type[NetworkConfig]]) -> ValueError:
    """The error for an unknown setting: it suggests a known one, or a field of one of the networks."""
    of_model = {field.name: f"model.{field.name}" for network in networks for field in fields(network)}
    listed = "docs/training.md, latte.train.config, or the config.yaml of a run"
    return ValueError(unknown_key(name[:100], of_model | {key: key for key in known}, listed))


def check_model(config: TrainConfig) -> None:
    """Raise ValueError if `model` or `text_encoder` cannot be the configuration of a network, whatever the data are."""
    tables = {"model": NETWORKS[config.kind]} | ({"text_encoder": T5Config} if config.kind == "t2v" else {})
    for name, network in tables.items():
        try:
            network(**check_fields(network, getattr(config, name)))
        except ValueError as error:
            said = str(error).removeprefix(f"{network.__name__}: ")
            raise ValueError(f"the setting {name}: {said}") from error


def check_setting(name: str, value: Any) -> None:
    """Raise ValueError if no kind of training has such a setting, or no kind's takes this value."""
    if name not in SETTINGS:
        raise unknown_setting(name, SETTINGS, NETWORKS.values())
    check_bounds(SETTINGS[name], typed(name, value))
    if name == "kind":
        kind_of({name: value})
    tables = {"model": list(NETWORKS.values()), "text_encoder": [T5Config]}.get(name, [])
    for key in value if tables else ():
        if not any(key in {known.name for known in fields(network)} for network in tables):
            known = {field.name: f"{name}.{field.name}" for network in tables for field in fields(network)}
            raise ValueError(unknown_key(str(key), known, f"the fields of {tables[0].__name__}"))
