"""Settings of a run from a preset or a file, with changes."""

import shlex
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from latte.device import default_device
from latte.processes import launch
from latte.train.bounded_yaml import DecimalLoader, compose, merge, value_of
from latte.train.config import SETTINGS, TrainConfig
from latte.train.config_tables import TEXTS, from_settings, from_text, kind_of, typed
from latte.train.data.video_list import read_list_head
from latte.train.original_config import TEXTS as ORIGINAL_TEXTS
from latte.train.original_config import is_original, translate
from latte.train.presets import PRESETS
from latte.train.settings import brief, default_of, overruled_by
from latte.weights.tensors import prefix_errors


def resolve(source: str, changes: list[str], device: str | torch.device | None = None) -> TrainConfig:
    """Read settings from a preset or a file, and change some.

    Where neither a file nor a change says a frame_interval, and `latte prepare` prepared the data, it is the list's.

    Args:
        source: The name of a preset, a run's config.yaml, or a training configuration of the original Latte. For the
            latter, a warning names each key that had no effect there or has none here.
        changes: Settings as on the command line, such as "steps=100" or "model.depth=4".
        device: Where the run will compute, on which the precision that the original has depends. None: the device that
            commands take by default, CUDA if this machine has it.

    Returns:
        The configuration, of the class of its kind.

    Raises:
        ValueError: There is no such preset, file or setting, a value is not valid, or a preset for the built-in shapes
            gets other data but no VAE for them.
    """
    values = asdict(PRESETS[source]) if source in PRESETS else read_settings(source)
    if is_original(values):
        device = torch.device(device or default_device())
        with prefix_errors(Path(source)):
            values, notes = translate(values, launch().size, device)
        for note in notes:
            warnings.warn(note, stacklevel=2)
    said = {change.partition("=")[0] for change in changes} | (set() if source in PRESETS else values.keys())
    values = with_changes(values, changes)
    if source in PRESETS:  # what it says is dropped where a change leaves it without effect
        defaults = {each: default_of(each) for each in fields(kind_of(values)) if each.name not in said}
        set_ones = lambda: (each for each, default in defaults.items() if values.get(each.name, default) != default)
        while idle := [each for each in set_ones() if overruled_by(each, values)]:
            values |= {each.name: defaults[each] for each in idle}  # which may leave further ones without effect
    if source in PRESETS and "vae" not in said:
        require_own_vae(source, values)
    of_list = "frame_interval" not in said and has_interval(values)
    if of_list and (interval := read_list_head(Path(values["data"]).expanduser()).frame_interval):
        values["frame_interval"] = interval
    return from_settings(values)


def require_own_vae(preset: str, values: dict[str, Any]) -> None:
    """Raise ValueError if a preset for the built-in shapes gets other data, which it would encode with its own VAE."""
    data, usual = values.get("data"), PRESETS[preset]
    if usual.data != "shapes" or data in ("shapes", "") or not values.get("vae"):
        return
    if not Path(str(data)).expanduser().exists():
        raise ValueError(f"no folder of videos at {data}: give data=FOLDER")
    command = shlex.join(["latte", "train", "--config", "folder-vae", "--run", "runs/folder-vae", f"data={data}"])
    raise ValueError(
        f"the VAE of {preset}, {values['vae']}, knows only the built-in shapes: train one on {data} with `{command}`, "
        "and add vae=runs/folder-vae/final"
    )


def has_interval(values: dict[str, Any]) -> bool:
    """Whether settings are of a kind that chooses frames at an interval, from data in a folder."""
    return "frame_interval" in kind_of(values).defaults() and isinstance(values.get("data"), str)


def with_changes(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Settings by name, some of them changed by words such as "steps=100" or "model.depth=4".

    Raises:
        ValueError: A word is no setting, or its value has another type.
    """
    values = dict(values)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"{brief(change)} is not a setting: write it as key=value")
        try:
            value = from_text(name, text)
        except ValueError as error:
            raise ValueError(f"the value of {brief(name)} {error}") from error
        table, dot, inner = name.partition(".")
        if dot and table in SETTINGS and SETTINGS[table].type is dict:
            values[table] = {**typed(table, values.get(table, {})), inner: value}
        else:
            values[name] = value
    return values


def read_settings(source: str) -> dict[str, Any]:
    """Read a YAML file of settings, ours or the original's. Raises ValueError if it is none."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f"no preset and no file is called {brief(source)}; the presets are {', '.join(PRESETS)}")
    try:
        root, loader = compose(path.read_bytes())
        if not isinstance(root, yaml.MappingNode) or not all(isinstance(key, yaml.ScalarNode) for key, _ in root.value):
            raise ValueError("does not hold settings by name")
        return settings_by_name(root, loader)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def settings_by_name(root: yaml.MappingNode, loader: DecimalLoader) -> dict[str, Any]:
    """The values in a YAML table. A text is taken as it is written, whatever it looks like."""
    merge(root, loader)
    values = {}
    for name, node in ((key.value, node) for key, node in root.value):
        null = node.tag == "tag:yaml.org,2002:null"
        of_text = name in TEXTS or (name in ORIGINAL_TEXTS and not null)
        values[name] = node.value if isinstance(node, yaml.ScalarNode) and of_text else value_of(node, loader)
    return values
