"""The model card of a run's result: what it was trained on, how, its scores, and the command that uses it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from latte.arguments import in_units
from latte.models.latte import Latte
from latte.models.latte_t2v import LatteT2V, TextToVideo
from latte.models.vae import AutoencoderKL
from latte.train.base_config import TrainConfig
from latte.train.data.latent_files import encoder_of
from latte.train.metrics import METRICS_FILE, parse_lines
from latte.train.objectives import Objective
from latte.train.presets import PRESETS
from latte.train.settings import default_of
from latte.weights.find_models import FINAL
from latte.weights.model_card import HERE, ModelCard

ALWAYS = ("steps", "global_batch_size", "learning_rate", "precision", "seed")  # settings that are always shown
# settings that say nothing about the result, or that other sections show
NOT_SHOWN = {"kind", "data", "model", "tensorboard", "wandb", "trackio", "sample_every", "save_every", "log_every"}
NOT_SHOWN |= {"keep", "keep_every", "num_workers", "clips", "image_size", "num_frames", "frame_interval"}


def run_card(
    objective: Objective, network: nn.Module, scores: Mapping[str, float], changes: Sequence[dict[str, Any]] = ()
) -> ModelCard:
    """Make the card. It depends only on the run, and shows relative paths as they were given.

    Args:
        objective: The objective that the network was trained with.
        network: The network.
        scores: Scores of the last evaluation, by name, and its "step".
        changes: What changed when the run was resumed (latte.train.changes).
    """
    clips, config = objective.clips, objective.config
    data: dict[str, object] = {"data": named(config.data), "videos": clips.num_videos, "clips": len(clips)}
    data |= {"frames of a clip": config.num_frames, "frame interval": config.frame_interval}
    data |= {"size in pixels": f"{config.image_size} x {config.image_size}"}
    data |= {"classes": ", ".join(clips.names)} if clips.names else {}
    data |= {"different captions": len(clips.captions)} if config.kind == "t2v" else {}
    if encoder := encoder_of(clips):
        data["text encoder"] = f"{encoder['name']}, sha256 {encoder['sha256']}"
    sections: dict[str, str | Mapping[str, object]] = {"Data": data, "Training": settings_shown(config)}
    if changes:
        sections["Changes during training"] = {
            f"after step {change['after_step']}": ", ".join(
                f"{name} from {value['from']} to {value['to']}" for name, value in change["settings"].items()
            )
            for change in changes
        }
    if config.kind in ("latte", "t2v"):
        without = "The model was not evaluated during training (`eval_every`). `latte eval` can evaluate it."
        sections["Scores"] = dict(scores) or without
    summary, use, task = described(network, objective)
    return ModelCard(summary, use, task=task, sections=sections)


def use_command(network: nn.Module, objective: Objective, folder: str, run: str, data: str) -> str:
    """The command that uses a trained network.

    Args:
        network: The network.
        objective: The objective that it was trained with.
        folder: Where the network is.
        run: The run that trains a Latte with it, if it is a VAE.
        data: The data of that run.
    """
    sample = ["latte", "sample", folder]
    prompt = lambda: ["--prompt", " ".join((objective.clips.captions or ["a prompt"])[0].split())]
    if isinstance(network, TextToVideo):
        return shlex.join([*sample, *prompt()])
    if isinstance(network, LatteT2V):
        about = encoder_of(objective.clips)
        name = about.get("name", "FOLDER")
        encoder = name if folder == HERE else about.get("path", name)  # a card names no folders
        return shlex.join([*sample, "--text-encoder", encoder, *prompt()])
    if isinstance(network, AutoencoderKL):
        preset, settings = ("shapes", []) if data == "shapes" else ("folder", [f"data={data}"])
        own = {name: getattr(objective.config, name) for name in ("image_size", "damaged")}
        settings += [f"{name}={value}" for name, value in own.items() if value != getattr(PRESETS[preset], name)]
        return shlex.join(["latte", "train", "--config", preset, "--run", run, *settings, f"vae={folder}"])
    return shlex.join(sample if isinstance(network, Latte) else ["latte", "bench", "features", folder])


def described(network: nn.Module, objective: Objective) -> tuple[str, list[str], str]:
    """(A description of a network, the commands that use it, the hub's name for its task)."""
    config = objective.config
    use = [use_command(network, objective, HERE, "runs/mine", "VIDEOS")]
    size = f"{in_units(sum(weight.numel() for weight in network.parameters()))} parameters"
    frames = f"frames of {config.image_size} x {config.image_size} pixels"
    makes = f"for videos of {config.num_frames} {frames}" if config.num_frames > 1 else f"for {frames}"
    paper = "[Latte](https://arxiv.org/abs/2401.03048)"
    if isinstance(network, Latte):
        kind = "A class-conditional" if network.config.num_classes else "An unconditional"
        return f"{kind} {paper} with {size}, {makes}.", use, ""
    if isinstance(network, TextToVideo):
        return f"A text-to-video {paper} with {size}, {makes}.", use, "text-to-video"
    if isinstance(network, LatteT2V):
        needs = "It was trained on stored embeddings of captions: a prompt needs the text encoder that made them"
        return f"A text-to-video {paper} with {size}, {makes}. {needs}.", use, "text-to-video"
    if isinstance(network, AutoencoderKL):
        return f"An autoencoder with {size}, {makes}, on whose latents a {paper} is trained.", use, ""
    return f"A network with {size} that recognises the built-in shapes, {makes}.", use, ""


def settings_shown(config: TrainConfig) -> dict[str, object]:
    """The settings that differ from their defaults, and those in ALWAYS; then the network's."""
    shown: dict[str, object] = {}
    for known in fields(config):
        value = getattr(config, known.name)
        if known.name not in NOT_SHOWN and (known.name in ALWAYS or value != default_of(known)):
            shown[known.name] = named(value) if known.metadata.get("path") else value
    return shown | {f"model.{name}": value for name, value in config.model.items()}


def named(path: str) -> str:
    """A path as it was given, but only the end of an absolute one, since a card is shown to others."""
    end = Path(path).parts[-2 if Path(path).name == FINAL else -1 :]
    return str(Path(*end)) if Path(path).is_absolute() else path


def last_scores(run: Path) -> dict[str, float]:
    """The last evaluation in the metrics of a run; empty if there is none, or the file cannot be read."""
    try:
        lines = parse_lines((run / METRICS_FILE).read_bytes())[0]
    except OSError:
        return {}
    found = [{name: value for name, value in line.items() if value is not None} for line in lines if "loss" not in line]
    return found[-1] if found else {}
