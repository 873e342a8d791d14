"""Finding models: by path, by the name of a bundled one, and within the folder of a training run.

Nothing here loads PyTorch.
"""

import difflib
import math
import os
import warnings
from pathlib import Path

from latte.files import CheckpointError, read_json
from latte.weights.manifest import CONFIG, MANIFEST, damage, digest_folder
from latte.weights.shared_parts import BUNDLED, part_folder, shared_parts

FINAL, CHECKPOINTS = "final", "checkpoints"  # in the folder of a training run: its result, and what it resumes from
STANDS_ALONE = {"block_out_channels", "widths"}  # in config.json: a VAE's or a feature network's, without companions
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")  # of a text-to-video model
WEAKER = "weaker"  # in a model's folder: the weaker model that it is guided away from (latte.autoguidance)
COMPANIONS = ("vae", "tokenizer", "scheduler", "sampling.json")  # what a run keeps beside its checkpoints and in final/
EMA = "ema.safetensors"  # in a checkpoint: its averaged weights
STEPS_FILE = "trained.json"  # in the final/ of a run: how many steps it was trained for


def find_model(name: str | Path) -> Path:
    """Find a model by name or path.

    Args:
        name: A bundled model ("shapes", "shapes/vae"), or a path. A path that has the name of a bundled model must be
            written "./shapes"; a warning says so.

    Returns:
        The path. For the folder of a training run, its most trained model that is complete and not damaged: final/ or
        a checkpoint. A warning names a model that is passed over.

    Raises:
        CheckpointError: There is no such path. The message says what is missing, or lists the bundled models.
    """
    path, bundled = Path(name), bundled_models()
    if str(name) in bundled:
        if os.path.exists(path):
            warnings.warn(f"{name} means the bundled model; write ./{name} for the path", stacklevel=2)
        return bundled[str(name)]
    if not os.path.exists(path):
        inside = part_folder(path.parent, path.name)
        if os.path.isdir(inside):  # a part that the model shares
            return inside
        if near := [*difflib.get_close_matches(str(name), bundled, 1), nearest_path(path)][0]:
            raise CheckpointError(f"no model at {name}: did you mean {near}?")
        if missing := [folder for folder in reversed(path.parents) if not os.path.isdir(folder)]:
            raise CheckpointError(f"no model at {name}: there is no folder {missing[0]}")
        models = ", ".join(sorted(known for known, folder in bundled.items() if folder.parent == BUNDLED)) or "none"
        raise CheckpointError(f"no model at {name}; give a path or the name of a bundled model: {models}")
    return path if (path / CONFIG).exists() else most_trained(path)


def nearest_path(path: Path) -> Path | None:
    """What a mistyped path may mean: the path with its first missing part replaced by the most similar name there."""
    for here in reversed(path.parents):
        if not os.path.exists(missing := here / path.relative_to(here).parts[0]):
            close = difflib.get_close_matches(missing.name, os.listdir(here) if here.is_dir() else [], 1)
            found = Path(here, *close, path.relative_to(missing))
            return found if close and os.path.exists(found) else None
    return None


def most_trained(run: Path) -> Path:
    """Return the most trained model of a run that is sound; if none is, the most trained one; without any, `run`."""
    trained = [folder for folder in (run / FINAL, *run.glob(f"{CHECKPOINTS}/step-*")) if holds_model(folder)]
    passed_over = []
    if os.path.lexists(run / FINAL) and run / FINAL not in trained:
        passed_over.append(f"{run / FINAL} holds no complete model")
    trained.sort(key=steps_done, reverse=True)
    for folder in trained:
        if (reason := damage_of(folder, run)) is None:
            if passed_over:
                warnings.warn(f"{'; '.join(passed_over)}: using {folder} in its place", stacklevel=3)
            return folder
        passed_over.append(f"{folder} is damaged or incomplete ({reason})")
    return trained[0] if trained else run


def damage_of(folder: Path, run: Path) -> str | None:
    """Say what is wrong with the final/ or a checkpoint of a run; None if nothing is.

    A final/ holds the parts that lie beside the checkpoints, such as the VAE, and a record of its steps that can be
    read. In a checkpoint, or a part of a final/, every file is compared with the manifest.
    """
    try:
        if folder.name != FINAL:
            return damage(folder) if (folder / MANIFEST).is_file() else f"{MANIFEST} is missing"
        kind = read_json(folder / CONFIG).keys() if (folder / CONFIG).is_file() else set()
        alone = not kind.isdisjoint(STANDS_ALONE)
        expected = [] if alone else [*(name for name in COMPANIONS if (run / name).exists()), STEPS_FILE]
        if missing := [name for name in expected if not (folder / name).exists()]:
            return f"{missing[0]} is missing"
        if (folder / STEPS_FILE).exists() and not isinstance(read_json(folder / STEPS_FILE).get("steps"), int):
            return f"{STEPS_FILE} names no steps"
        for part in (folder, *(folder / name for name in (*PARTS, WEAKER))):
            if part.exists() and (reason := damage(part)) is not None:
                return reason if part == folder else f"{part.name}: {reason}"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def bundled_models() -> dict[str, Path]:
    """The models that ship with the package, and those of their parts that are models, own or shared, by name."""
    folders = {config.parent for config in BUNDLED.rglob(CONFIG)}
    folders |= {folder.parent for folder in folders if is_text_pipeline(folder.parent)}
    own = {str(folder.relative_to(BUNDLED)): folder for folder in folders}
    shared = {f"{model}/{part}": shared for model, each in own.items() for part, shared in shared_parts(each).items()}
    return own | {name: folder for name, folder in shared.items() if (folder / CONFIG).is_file()}


def holds_model(folder: Path) -> bool:
    """Whether a model lies directly in this folder, or a text-to-video model in its subfolders."""
    return (folder / CONFIG).is_file() or is_text_pipeline(folder)


def is_model_folder(path: Path) -> bool:
    """Whether this is the folder of a model, even an incomplete one, or of a training run."""
    return holds_model(path) or any((path / name).exists() for name in (FINAL, CHECKPOINTS, EMA))


def steps_done(folder: Path) -> float:
    """Return how many steps a run's final/ or checkpoint was trained for.

    A final/ may be older than the checkpoints, if the run went on after it. One without a record counts as the newest.
    """
    if folder.name == FINAL:
        try:
            steps = read_json(folder / STEPS_FILE).get("steps")
        except (OSError, ValueError):
            return math.inf
        return steps if isinstance(steps, int) else math.inf
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def is_text_pipeline(path: Path) -> bool:
    """Whether this is the folder of a text-to-video model, or a training checkpoint of one."""
    if (path / "transformer" / CONFIG).is_file():
        return True
    return is_checkpoint(path) and not read_json(path / CONFIG).keys().isdisjoint(("text_encoder", "caption_channels"))


def is_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint of a training run, which lies in the run's folder."""
    return (path / "state.json").is_file() and (path / CONFIG).is_file()


def model_root(path: Path) -> Path:
    """Return the folder with the model's other parts, such as its VAE: for a checkpoint the run's, else `path`."""
    folder = Path(os.path.abspath(path)).parent  # not resolved: checkpoints/ may be a link, and its own place counts
    return folder.parent if is_checkpoint(path) and folder.name == CHECKPOINTS else path


def own_vae(path: Path) -> Path | None:
    """Return the folder of the VAE that comes with a model or that it shares, or None if it has none.

    Raises:
        CheckpointError: Its shared.json is not valid, or the VAE beside a checkpoint is not the one that it was trained
            with.
    """
    vae = part_folder(model_root(path), "vae")
    if not vae.is_dir():
        return None
    data = read_json(path / "state.json").get("data") if is_checkpoint(path) else None
    if is_checkpoint(path) and (data.get("vae") if isinstance(data, dict) else None) != digest_folder(vae):
        raise CheckpointError(f"{vae} is not the VAE that {path} was trained with; put that one there or give --vae")
    return vae


def weaker_folder(path: Path) -> Path:
    """Where the weaker model of a model lies: an absolute path, since "shapes/weaker" may name a bundled model."""
    return (path / WEAKER).absolute()
