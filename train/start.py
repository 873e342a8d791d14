"""Checks before a run reads any video: its folder, its settings if it resumes, its trackers and its VAE."""

import re
import shlex
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latte.fast.onednn import onednn_is_faster
from latte.files import writable
from latte.train import checkpoint
from latte.train.base_config import AUTO, PRECISIONS, TrainConfig
from latte.train.changes import changed_settings, check_steps
from latte.train.config_tables import check_model, complete
from latte.train.objectives.autoencoder import new_autoencoder
from latte.train.precision import choose_precision
from latte.train.presets import PRESETS
from latte.train.resolve import read_settings
from latte.train.run_folder import SETTINGS_FILE, check_unused
from latte.train.trackers import require_packages
from latte.weights.find_models import FINAL, find_model
from latte.weights.hub import NAME
from latte.weights.tensors import CheckpointError

# the VAEs that presets name by the folder they are fetched into: that folder, and the name of its model on the hub
PUBLISHED_VAES = {
    "sd-vae-ft-ema": ("sd-vae-ft-ema", "stabilityai/sd-vae-ft-ema"),
    "Latte-1/vae": ("Latte-1", "maxin-cn/Latte-1"),
}


def recorded_states(folder: Path) -> Iterator[dict[str, Any]]:
    """The states of the checkpoints of the run in a folder that are not damaged, newest first."""
    for found in reversed(checkpoint.list_checkpoints(folder)):
        with suppress(OSError, ValueError):  # opening the run reports what is wrong with it
            if checkpoint.whats_wrong(found) is None:
                yield checkpoint.read_state(found)


def recorded_settings(folder: Path) -> tuple[dict[str, Any], int]:
    """The settings of the run in a folder, by name, and how many steps it has done; empty and 0 if none can be read.

    They are those of its newest checkpoint that is not damaged or, before the first one, of its config.yaml.
    """
    for state in recorded_states(folder):
        with suppress(ValueError, KeyError, TypeError):
            return complete(state["run"]), state["step"]
    with suppress(OSError, ValueError, KeyError, TypeError):
        return complete(read_settings(str(folder / SETTINGS_FILE))), 0
    return {}, 0


def with_precision(config: TrainConfig, folder: Path, device: torch.device) -> TrainConfig:
    """Replace the precision "auto" by that of the run in the folder or, if there is none, by the device's."""
    if config.precision != AUTO:
        return config
    recorded = recorded_settings(folder)[0].get("precision")
    return replace(config, precision=recorded if recorded in PRECISIONS else choose_precision(device))


def recorded_products(folder: Path) -> bool:
    """Whether oneDNN computes the float32 products of the run in a folder; if it does not say, as measured here."""
    recorded = next(recorded_states(folder), {}).get("onednn")
    return recorded if isinstance(recorded, bool) else onednn_is_faster()


def check_start(config: TrainConfig, folder: Path, asked: Collection[str] = (), resume: bool = True) -> None:
    """Check what can be checked before the data are opened, which may take long.

    Args:
        config: The settings, with a precision other than "auto".
        folder: The run folder.
        asked: The settings that may change when the run resumes; see latte.train.loop.train.
        resume: Whether a run with checkpoints may be resumed.

    Raises:
        ValueError: The folder cannot be written, is the data folder, holds something else, checkpoints that may not be
            resumed, or a run with different settings; or the settings of the network are wrong; or a tracker's package
            or the VAE is missing.
        CheckpointError: There is no model to start from.
    """
    if not writable(folder):
        raise ValueError(f"{folder} cannot be written: choose another folder for --run")
    if folder.is_dir() and Path(config.data).is_dir() and folder.samefile(config.data):
        raise ValueError(f"{folder} is the folder of the data: choose another folder for --run")
    if not checkpoint.list_checkpoints(folder):
        check_unused(folder, config, asked)
        check_network(config)
    elif not resume:
        raise ValueError(f"{folder} already holds checkpoints: choose another folder, or resume")
    else:
        before, done = recorded_settings(folder)
        if before:
            changed_settings(folder, config, before, asked)
            check_steps(folder, config, done)
    require_packages(config)
    if config.vae:
        require_vae(config)


def check_network(config: TrainConfig) -> None:
    """Raise ValueError if the network of the settings cannot be right, whatever the data are."""
    check_model(config)
    if config.kind == "vae":
        with torch.device("meta"):
            new_autoencoder(config)


def require_vae(config: TrainConfig) -> None:
    """Raise ValueError if the VAE of the settings is not there; the message says how to get one that fits."""
    try:
        find_model(config.vae)
    except CheckpointError as error:
        fetch = lambda folder, hub: f"`hf download {hub} --local-dir {folder}`"
        get = f"train one with `{vae_command(config)}`, or name another, vae=..."
        if config.vae in PUBLISHED_VAES:
            folder, hub = PUBLISHED_VAES[config.vae]
            get = f"get huggingface.co/{hub}, for instance with {fetch(folder, hub)}, or name another, vae=..."
        elif re.fullmatch(NAME, config.vae) and not Path(config.vae).parent.is_dir():
            get += f"; if it is a name on the Hugging Face hub, fetch it with {fetch(config.vae, config.vae)}"
        gone = config.data != "shapes" and not Path(config.data).exists()
        also = f"; there is nothing at data={config.data} either" if gone else ""
        raise ValueError(f"there is no VAE at {config.vae}: {get}{also}") from error


def vae_command(config: TrainConfig) -> str:
    """The command that trains a VAE for the settings."""
    path, usual = Path(config.vae), "shapes-vae" if config.data == "shapes" else "folder-vae"
    run = path.parent if path.name == FINAL else Path("runs", usual)
    preset = run.name if run.name in PRESETS else usual
    data = [] if config.data == PRESETS[preset].data else [f"data={config.data}"]
    return shlex.join(["latte", "train", "--config", preset, "--run", str(run), *data])
