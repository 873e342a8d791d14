"""A run's outputs besides its checkpoints: its result, and the parts that are needed to sample from its weights."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte.files import replacing_folder, set_aside, write_json, write_text
from latte.folder_tree import copy_files
from latte.models.latte_t2v import LatteT2V, TextToVideo
from latte.progress import Progress
from latte.scheduler import Scheduler, usual_scheduler
from latte.train.data.latent_files import encoder_of
from latte.train.latent_normalisation import standardise_latents
from latte.train.objectives import Captioned, ClassConditional, Objective, Recognition, Reconstruction
from latte.train.objectives.denoising import Denoising
from latte.train.objectives.distillation import student_scheduler
from latte.train.objectives.text_to_video import TextConditional
from latte.train.run_card import run_card
from latte.weights.find_models import STEPS_FILE
from latte.weights.folder import write_network
from latte.weights.latte_folder import CLASSES_FILE
from latte.weights.manifest import CONFIG, damage, digest_folder
from latte.weights.model_card import CARD, card_text
from latte.weights.published import save_scheduler
from latte.weights.sampling_defaults import SAMPLING_FILE, save_sampling

LATENT_STEPS = 16  # steps whose clips give the statistics of a VAE's latents
FEATURE_STEPS = 32  # steps whose clips give the mean and covariance of the features
VAE, TOKENIZER, SCHEDULER = "vae", "tokenizer", "scheduler"  # folders beside the weights
TEXT_PARTS = ("transformer", "text_encoder")  # folders of a text-to-video model's weights


def save_companions(objective: Objective, folder: Path) -> None:
    """Write the parts that are not trained, without which the weights cannot be sampled.

    A Latte gets its VAE and, with config.sample_guidance, sampling.json; without it, an earlier sampling.json is
    removed, so that the pipeline's defaults apply. A student gets a scheduler and a sampling.json for its number of
    steps. A text-to-video model also gets a scheduler and the vocabulary of a text encoder that is trained with it.
    Other networks need nothing.

    Args:
        objective: The objective that the weights are trained with.
        folder: The folder of the run, or of its result.
    """
    if isinstance(objective, Denoising):
        vae = folder / VAE
        if not is_this_vae(vae, objective.vae_digest):
            with replacing_folder(vae) as draft:
                copy_files(objective.vae_folder, draft)
        if defaults := objective.config.sampling_defaults():
            save_sampling(defaults, folder)
        else:
            (folder / SAMPLING_FILE).unlink(missing_ok=True)
    if isinstance(objective, Captioned):
        save_part(objective.tokenizer.save, folder / TOKENIZER)
    if scheduler := scheduler_of(objective):
        save_part(partial(save_scheduler, scheduler), folder / SCHEDULER)


def scheduler_of(objective: Objective) -> Scheduler | None:
    """The scheduler of a student or of a text-to-video model; None where the pipeline's default applies."""
    if isinstance(objective, Denoising) and objective.distillation:
        return student_scheduler(objective.config.student_steps, objective.config.prediction)
    return usual_scheduler(objective.config.prediction) if isinstance(objective, TextConditional) else None


def is_this_vae(folder: Path, digest: str) -> bool:
    """Whether a folder holds the VAE with this digest, undamaged."""
    try:
        return (folder / CONFIG).is_file() and damage(folder) is None and digest_folder(folder) == digest
    except OSError:
        return False


def save_part(save: Callable[[Path], None], folder: Path) -> None:
    """Write a part into its folder. If a folder is where a file belongs, the part's folder is set aside first."""
    try:
        save(folder)
    except (IsADirectoryError, NotADirectoryError, FileExistsError):
        warnings.warn(f"{folder} is damaged; renamed to {set_aside(folder).name}", stacklevel=2)
        save(folder)


def save_result(
    objective: Objective, network: nn.Module, folder: Path, changes: Sequence[dict[str, Any]] = (),
    scores: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Write a trained network as a folder that can be loaded and sampled without the run.

    An earlier result there stays readable until the new one is complete. Files that a run does not write are kept.

    Args:
        objective: The objective that the network was trained with.
        network: The network, with averaged weights. A VAE and a feature network are calibrated in place.
        folder: Where to write: the network with its companions, its classes, the number of steps and a model card.
        changes: What changed when the run was resumed (latte.train.changes), to be recorded beside the steps.
        scores: Scores of the last evaluation, for the model card.
    """
    network.eval()
    if isinstance(objective, Reconstruction) and not objective.config.freeze_encoder:
        slots = range(objective.config.global_batch_size)
        steps = Progress(range(LATENT_STEPS), "statistics of the latents", leave=False)
        videos = (objective.batches[step, slots].videos for step in steps)
        standardise_latents(network, videos, objective.config.whiten_latents)
    elif isinstance(objective, Recognition):
        whiten_features(objective, network)
    with replacing_folder(folder, keep=True) as draft:
        for name, part in trained_parts(network).items():
            write_network(part, draft / name, torch.float32)
        save_companions(objective, draft)
        if isinstance(objective, ClassConditional) and objective.clips.names:
            write_json(draft / CLASSES_FILE, {"names": objective.clips.names})
        record: dict[str, Any] = {"steps": objective.config.steps} | ({"changes": list(changes)} if changes else {})
        if encoder := encoder_of(objective.clips):
            record |= {"text_encoder": encoder["name"], "text_encoder_sha256": encoder["sha256"]}
        write_json(draft / STEPS_FILE, record)
        write_text(draft / CARD, card_text(run_card(objective, network, scores or {}, changes)))


def trained_parts(network: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a network by their subfolders; "" is the folder itself."""
    if isinstance(network, TextToVideo):
        return dict(zip(TEXT_PARTS, (network.transformer, network.text_encoder)))
    return {TEXT_PARTS[0] if isinstance(network, LatteT2V) else "": network}


@torch.no_grad()
def whiten_features(objective: Recognition, network: nn.Module) -> None:
    """Give the features of clean clips mean 0 and covariance 1, so that a distance of 1 is one standard deviation."""
    slots = range(objective.config.global_batch_size)
    network.whiten(torch.cat([network.features(objective.batch(step, slots)[0]) for step in range(FEATURE_STEPS)]))
