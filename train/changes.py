"""Changes of settings when a run resumes: which are allowed, and the record of those that were made.

Which settings may change is declared where they are defined (latte.train.config): `resumable` and `movable` ones may,
`tunable` ones if the user asks for it, and all others never, because they would not fit the checkpoint or would make
the run draw other clips. A run records each change of a tunable setting, and of "steps", with the number of steps done
before it: in the state of its checkpoints, in changes.json, and in final/.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from latte.files import write_json
from latte.models.network_config import shown
from latte.train.base_config import TrainConfig

CHANGES_FILE = "changes.json"


def changed_settings(
    folder: Path, config: TrainConfig, before: dict[str, Any], asked: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Compare the settings of a run that resumes with its earlier settings.

    Args:
        folder: The run's folder, for the message.
        config: The settings now.
        before: Every setting of its checkpoint, by name.
        asked: The tunable settings that may change.

    Returns:
        The changes to record: for each setting, its old value ("from") and its new one ("to").

    Raises:
        ValueError: A setting differs that must not change. The message names it, with both values.
    """
    now = {name: getattr(config, name) for name in config.defaults()}
    other = f"{folder} holds a run with different settings"
    differ = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    free, tunable = config.resumable() | config.movable(), config.tunable()
    if config.deterministic_reduce or config.dispersive_weight:
        free -= {"micro_batch_size"}  # rounding, or the loss, depends on it
    if not {before.get("latents", "once"), config.latents} & {"once", "step"}:
        free |= {"latents"}  # both are folders of latents, whose fingerprints are compared
    if fixed := [name for name in differ if name not in free | tunable]:
        values = "; ".join(f"it has {name}={shown(before.get(name))}, not {shown(now.get(name))}" for name in fixed)
        raise ValueError(f"{other}: {values}; choose another folder")
    if unasked := [name for name in differ if name in tunable and name not in asked]:
        kept, new = (" ".join(f"{name}={values[name]}" for name in unasked) for values in (before, now))
        advice = f"to keep its own, add {kept}; to change them from here on, add {new} or --allow-changes"
        raise ValueError(f"{other}: {advice}")
    return {name: {"from": before[name], "to": now[name]} for name in differ if name in tunable | {"steps"}}


def check_steps(folder: Path, config: TrainConfig, done: int) -> None:
    """Raise ValueError if the run in a folder has done more steps than the settings ask for."""
    if done > config.steps:
        raise ValueError(f"{folder} has done {done} steps: give steps={done} or more, or another folder")


def told(folder: Path, done: int, changes: dict[str, dict[str, Any]]) -> str:
    """Describe in one line what changes after `done` steps."""
    said = ", ".join(f"{name}={change['to']} (it was {change['from']})" for name, change in changes.items())
    return f"{folder}: after step {done} the run continues with {said}; recorded in {CHANGES_FILE}"


def write_changes(folder: Path, changes: list[dict[str, Any]]) -> None:
    """Write changes.json, unless nothing ever changed."""
    if changes or (folder / CHANGES_FILE).exists():
        write_json(folder / CHANGES_FILE, {"changes": changes})
