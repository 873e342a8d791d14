"""Settings of a run from a preset or a file, with changes."""

import shlex
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from latte.files import prefix_errors
from latte.launch import launch
from latte.models.network_config import shown
from latte.train.bounded_yaml import DecimalLoader, compose, merge, value_of
from latte.train.config import SETTINGS, TrainConfig, VideoTrainConfig
from latte.train.config_tables import (
    TEXTS,
    check_model,
    check_setting,
    from_settings,
    from_text,
    kind_of,
    typed,
)
from latte.train.original_config import TEXTS as ORIGINAL_TEXTS
from latte.train.original_config import is_original, translate
from latte.train.presets import PRESETS
from latte.train.settings import default_of, overruled_by

if TYPE_CHECKING:
    import torch

    from latte.train.data.video_list import ListHead


def resolve(source: str, changes: list[str], device: "str | torch.device | None" = None) -> TrainConfig:
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
    values, said, notes = named_settings(source, changes, lambda: is_cuda(device))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    config = from_settings(values)
    if not isinstance(config, VideoTrainConfig) or config.data == "shapes" or "frame_interval" in said:
        return config
    return replace(config, frame_interval=listed(Path(config.data)).frame_interval or config.frame_interval)


def check_settings(source: str | None, changes: list[str], network: bool = True) -> None:
    """Raise ValueError for settings that are wrong whatever a run, a teacher or the data hold, without loading PyTorch.

    Args:
        source: As in `resolve`. None: only known later, so that only each change by itself is checked.
        changes: Settings as on the command line.
        network: Whether a network is made, so that the settings of its shape count.
    """
    if source is None:
        for name, value in with_changes({}, changes).items():
            check_setting(name, value)
    else:
        values, _, _ = named_settings(source, changes, lambda: False)
        config = from_settings(values)
        if network:
            check_model(config)


def needs_config(run: Path, changes: list[str]) -> ValueError:
    """The error for a training without a configuration, in a folder that holds no run. It says which presets fit."""
    data = with_changes({"data": "shapes"}, changes)["data"]
    if data == "shapes":
        return ValueError(f"there is no run at {run}: to start one, give --config, such as shapes")
    if not (folder := Path(data).expanduser()).exists():
        return ValueError(
            f"there is nothing at data={data}, and no --config: give both a folder of videos and a preset"
        )
    kind = listed(folder).kind
    own = f", or {kind} (the paper's)" if kind in PRESETS and kind not in ("folder", "shapes") else ""
    choice = f"folder-vae (a small VAE), folder (a small Latte on its latents){own}"
    return ValueError(f"data={data} does not say what to train: give --config, such as {choice}")


def listed(data: Path) -> "ListHead":
    """The head of the list of videos in a folder, if `latte prepare` wrote one."""
    from latte.train.data.video_list import read_list_head  # loads PyTorch, which wrong settings do not wait for

    return read_list_head(data)


def is_cuda(device: "str | torch.device | None") -> bool:
    """Whether a device is a GPU with CUDA; None is the device that commands take by default."""
    from latte.device import default_device  # loads PyTorch, which wrong settings do not wait for

    return str(device or default_device()).startswith("cuda")


def named_settings(
    source: str, changes: list[str], on_cuda: Callable[[], bool]
) -> tuple[dict[str, Any], set[str], list[str]]:
    """The settings of a preset or a file, some of them changed.

    Args:
        source: As in `resolve`.
        changes: As in `resolve`.
        on_cuda: Whether the run will compute on a GPU with CUDA. It is called only if that matters.

    Returns:
        The settings by name; the names of those that the file or a change says; and notes on keys of the original.

    Raises:
        ValueError: As `resolve`.
    """
    preset, notes = source in PRESETS, []
    values = asdict(PRESETS[source]) if preset else read_settings(source)
    if is_original(values):
        with prefix_errors(Path(source)):
            values, notes = translate(values, launch().size, on_cuda())
    said = {change.partition("=")[0] for change in changes} | (set() if preset else values.keys())
    values = with_changes(values, changes)
    if preset:  # what it says is dropped where a change leaves it without effect
        defaults = {each: default_of(each) for each in fields(kind_of(values)) if each.name not in said}
        set_ones = lambda: (each for each, default in defaults.items() if values.get(each.name, default) != default)
        while idle := [each for each in set_ones() if overruled_by(each, values)]:
            values |= {each.name: defaults[each] for each in idle}  # which may leave further ones without effect
        if "vae" not in said:
            require_own_vae(source, values)
    return values, said, notes


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


def with_changes(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Settings by name, some of them changed by words such as "steps=100" or "model.depth=4".

    Raises:
        ValueError: A word is no setting, or its value has another type.
    """
    values = dict(values)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"{shown(change)} is not a setting: write it as key=value")
        try:
            value = from_text(name, text)
        except ValueError as error:
            raise ValueError(f"the value of {shown(name)} {error}") from error
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
        raise ValueError(f"no preset and no file is called {shown(source)}; the presets are {', '.join(PRESETS)}")
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
