"""What a run prints: before its first step, what is trained, on what and how; at its end, what to do next."""

from pathlib import Path

from latte.arguments import counted, in_units
from latte.device import default_device, device_name
from latte.train.base_config import TrainConfig
from latte.train.data.latent_files import encoder_of
from latte.train.metrics import METRICS_FILE
from latte.train.objectives.denoising import Denoising
from latte.train.parallel import micro_batches
from latte.train.run import Run
from latte.train.run_card import use_command
from latte.weights.find_models import CHECKPOINTS, FINAL

TRAINED = {"latte": "a Latte", "t2v": "a text-to-video Latte", "vae": "a VAE", "features": "a feature network"}


def header(run: Run, first: int) -> str:
    """Describe a run in a few lines.

    Args:
        run: The run, restored from its checkpoint if there is one.
        first: How many steps are done.
    """
    config, folder = run.config, run.folder
    if first == config.steps:
        return f"{folder}: all {first} steps are already done; give a larger steps=N to continue"
    kept = dict(run.ema.named_parameters())  # without a head or an auxiliary network, which only training needs
    learning = (own for name, own in run.network.named_parameters() if own.requires_grad and name in kept)
    count = sum(parameter.numel() for parameter in learning)
    begins = f", starting from {config.init}" if config.init and not first else ""
    every = f"every {config.save_every} steps" if config.save_every < config.steps else "at the end"
    results = f"metrics in {METRICS_FILE}; result in {folder / FINAL}"
    lines = {
        "trains": f"{TRAINED[config.kind]} of {in_units(count)} parameters{begins}",
        "on": f"{describe_processes(run.ranks.size, device_name(run.device))}, precision {config.precision}",
        "data": describe_data(run),
        **({"vae": config.vae} if config.vae else {}),
        "batch": describe_batch(run),
        "steps": f"{config.steps}, learning rate {config.learning_rate:g}, {config.schedule}",
        "saves": f"checkpoints {every}, in {folder / CHECKPOINTS}; {results}",
    }
    text = "\n".join([f"{folder}", *(f"  {name:7} {value}" for name, value in lines.items())])
    return f"{text}\nresumed at step {first}" if first else text


def ending(run: Run, result: Path) -> str:
    """What a run prints at its end: where its result is, and the command that uses it."""
    folder, name = run.folder, run.folder.name.removesuffix("-vae")
    used = result if run.config.kind == "vae" else folder
    other = folder.with_name(name if name != folder.name else f"{name}-latte")
    command = use_command(run.network, run.objective, str(used), str(other), run.config.data)
    device = run.device.type
    on = "" if device == default_device() else f" --device {device}"
    return f"{result}: trained for {counted(run.config.steps, 'step')}\nnext: {command}{on}"


def describe_data(run: Run) -> str:
    """Describe the training data."""
    config, clips = run.config, run.objective.clips
    source = config.data if config.latents in ("once", "step") else f"latents of {config.data} in {config.latents}"
    counts = [counted(len(clips), unit(config))]
    counts += [f"drawn from {counted(clips.num_videos, 'video')}"] if config.data != "shapes" else []
    counts += [f"in {counted(len(clips.names), 'class', 'classes')}"] if clips.names else []
    frames = [counted(config.num_frames, "frame"), chosen_frames(config)] if config.num_frames > 1 else []
    frames += [f"{config.image_size} x {config.image_size} pixels"]
    if isinstance(run.objective, Denoising):
        frames += [f"latents {run.objective.channels} x {run.objective.side} x {run.objective.side}"]
    encoder = encoder_of(clips).get("name")
    by = f"; captions embedded by {encoder}" if encoder else ""
    return f"{source}: {' '.join(counts)}, each {', '.join(frames)}{by}"


def unit(config: TrainConfig) -> str:
    """The unit of the training data, in the singular."""
    return "clip" if config.num_frames > 1 else "frame"


def chosen_frames(config: TrainConfig) -> str:
    """How the frames of a clip are chosen."""
    return f"interval {config.frame_interval}" if config.selection == "stride" else f"selection {config.selection}"


def describe_batch(run: Run) -> str:
    """How many clips or frames a step takes, and how they are split."""
    config, micro = run.config, micro_batches(run.config, run.ranks)
    text = f"{counted(config.global_batch_size, unit(config))} a step"
    text += f", each with {counted(config.num_images, 'image')}" if config.num_images else ""
    text += f", {sum(map(len, micro))} in each of {run.ranks.size} processes" if run.ranks.size > 1 else ""
    return text + (f", in {len(micro)} micro-batches of {len(micro[0])}" if len(micro) > 1 else "")


def describe_processes(size: int, name: str) -> str:
    """How many processes train, and on what: `name` is latte.device.device_name's."""
    kind, _, instructions = name.partition(" ")
    if kind != "cpu":
        return f"{size} x {name}"
    plain = instructions in ("", "DEFAULT")
    known = "" if plain else f" ({instructions.replace('AVX512', 'AVX-512')})"
    return f"{counted(size, 'CPU process', 'CPU processes')}{known}"
