"""Snapshots of the two power-function averages of a run, and models made from them afterwards.

averages/step-0000500/ holds a .safetensors file for each of the averages, in float16, config.json (of the network),
snapshot.json, and manifest.json with the size and the SHA-256 of every other file. Like a checkpoint, it is written
as a draft, flushed and renamed. It is written before the checkpoint of the same step, so that a run that is killed and
resumed has all of its snapshots.
"""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latte.drafts import discard, flush, flush_entries
from latte.files import read_json, replacing_folder, set_aside, write_json
from latte.folder_tree import copy_files
from latte.train.checkpoint import load_tensors, remove_leftovers, step_of
from latte.train.export import TEXT_PARTS
from latte.train.power_average import mixture
from latte.weights.find_models import COMPANIONS, STEPS_FILE
from latte.weights.latte_folder import CLASSES_FILE
from latte.weights.manifest import CONFIG, MANIFEST, WEIGHTS, damage, digest_folder, write_manifest
from latte.weights.tensors import cast, write_tensors

AVERAGES, SNAPSHOT_FILE = "averages", "snapshot.json"


def average_name(length: float) -> str:
    """The name of the file of an average, without its suffix."""
    return f"average-{length:.2f}"


def save_snapshot(
    run: Path, step: int, averages: dict[float, dict[str, Tensor]], config: dict[str, Any], about: dict[str, Any]
) -> Path:
    """Write a snapshot.

    Args:
        run: The run folder.
        step: How many steps are done.
        averages: The tensors of each average, by its length.
        config: The network's configuration.
        about: What a model needs besides its weights: the names of the "classes" and the digest of the "vae".

    Returns:
        The snapshot's folder.

    Raises:
        OSError: The disk is full, for instance. The earlier snapshots are then unchanged.
        CheckpointError: A weight is too large for float16.
    """
    final = run / AVERAGES / f"step-{step:07d}"
    remove_leftovers(final.parent)
    if os.path.lexists(final) and not final.is_dir():
        set_aside(final)
    with replacing_folder(final) as draft:
        for length, tensors in averages.items():
            write_tensors(draft / f"{average_name(length)}.safetensors", cast(tensors, torch.float16))
        write_json(draft / CONFIG, config)
        write_json(draft / SNAPSHOT_FILE, {"step": step, "lengths": list(averages), **about})
        write_manifest(draft, sorted(path.name for path in draft.iterdir()))
        flush(draft)
    flush_entries(final.parent)
    return final


def list_snapshots(run: Path) -> list[Path]:
    """The snapshots of a run, oldest first. They may be damaged."""
    names = os.listdir(run / AVERAGES) if (run / AVERAGES).is_dir() else []
    found = [run / AVERAGES / name for name in names if name.removeprefix("step-").isdecimal()]
    return sorted((path for path in found if path.name.startswith("step-")), key=step_of)


def remove_snapshots_after(run: Path, step: int) -> None:
    """Remove the snapshots of later steps, which the run will take again, perhaps with other settings."""
    for path in list_snapshots(run):
        if step_of(path) > step:
            discard(path)


def sound_snapshots(run: Path, step: int | None = None) -> list[Path]:
    """The undamaged snapshots up to a step (None: the newest one), with a warning for each damaged one.

    Raises:
        ValueError: There are none, or none of that step.
    """
    found = []
    for path in (each for each in list_snapshots(run) if step is None or step_of(each) <= step):
        reason = damage(path) if (path / MANIFEST).exists() else f"{MANIFEST} is missing"
        if reason is None:
            found.append(path)
        else:
            warnings.warn(f"{path}: {reason}; the average is made without it", stacklevel=2)
    if not found:
        raise ValueError(f"{run} holds no snapshots of averages to use: train with average_every=N")
    if step not in (None, step_of(found[-1])):
        steps = ", ".join(str(step_of(path)) for path in list_snapshots(run))
        raise ValueError(f"{run} holds no intact snapshot of step {step}; its steps are {steps}")
    return found


def reconstruct(snapshots: list[Path], length: float) -> tuple[dict[str, Tensor], float]:
    """Make an average of a given length, at the step of the last of some snapshots.

    Args:
        snapshots: Folders of the snapshots, oldest first.
        length: The average's length, see latte.train.power_average.

    Returns:
        Its tensors in float32, and how far its profile is from the wanted one (latte.train.power_average.mixture).

    Raises:
        ValueError: The length is out of range.
    """
    kept = [(path, float(each)) for path in snapshots for each in read_json(path / SNAPSHOT_FILE)["lengths"]]
    weights, error = mixture([(step_of(path), each) for path, each in kept], step_of(snapshots[-1]), length)
    total: dict[str, Tensor] = {}
    for (path, each), weight in zip(kept, weights.tolist()):
        for name, tensor in load_tensors(path, average_name(each)).items():
            total[name] = total.get(name, 0) + weight * tensor.double()
    return {name: tensor.float() for name, tensor in total.items()}, error


def write_average(run: Path, snapshot: Path, tensors: dict[str, Tensor], record: dict[str, Any], folder: Path) -> None:
    """Write averaged weights as a model folder that looks like the run's final/.

    Args:
        run: The run folder, which has the VAE and the other parts.
        snapshot: The snapshot at the step of the weights.
        tensors: The weights.
        record: What to record about them in trained.json.
        folder: Where to write; new or empty.

    Raises:
        ValueError: The folder is not empty, or the VAE in the run folder is not the one that the run was trained with.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: choose a new one")
    about = read_json(snapshot / SNAPSHOT_FILE)
    if not (run / "vae").is_dir() or digest_folder(run / "vae") != about["vae"]:
        raise ValueError(f"{run / 'vae'} is not the VAE that the run was trained with: restore that VAE")
    with replacing_folder(folder) as draft:
        for name, (config, state) in parts(read_json(snapshot / CONFIG), tensors).items():
            (draft / name).mkdir(exist_ok=True)
            write_tensors(draft / name / WEIGHTS, state)
            write_json(draft / name / CONFIG, config)
            write_manifest(draft / name, [CONFIG, WEIGHTS])
        for companion in (run / name for name in COMPANIONS if (run / name).exists()):
            if companion.is_dir():
                copy_files(companion, draft / companion.name)
            else:
                shutil.copyfile(companion, draft / companion.name)
        if about["classes"] and (draft / CONFIG).is_file():  # a text-to-video model has none
            write_json(draft / CLASSES_FILE, {"names": about["classes"]})
        write_json(draft / STEPS_FILE, record)


def make_average(run: Path, length: float, folder: Path, step: int | None = None) -> dict[str, Any]:
    """Make a model from a run with another average of its weights.

    Args:
        run: The run folder, with snapshots.
        length: The average's length, see latte.train.power_average.
        folder: Where to write the model; new or empty.
        step: The step of the average, which must have a snapshot. None: the newest one.

    Returns:
        The "step", the number of "snapshots", and the "error" of the profile (latte.train.power_average.mixture).

    Raises:
        ValueError: There are no snapshots, the length is out of range, or the folder is not empty.
    """
    snapshots = sound_snapshots(run, step)
    tensors, error = reconstruct(snapshots, length)
    step = step_of(snapshots[-1])
    write_average(run, snapshots[-1], tensors, {"steps": step, "average": length}, folder)
    return {"step": step, "snapshots": len(snapshots), "error": error}


def parts(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, tuple[dict, dict[str, Tensor]]]:
    """The configuration and the tensors of each part of a network, by its subfolder; "" is the folder itself."""
    if "text_encoder" not in config:
        return {TEXT_PARTS[0] if "caption_channels" in config else "": (config, tensors)}
    own = lambda part: {key.removeprefix(f"{part}."): z for key, z in tensors.items() if key.startswith(f"{part}.")}
    return {part: (config[part], own(part)) for part in TEXT_PARTS}
