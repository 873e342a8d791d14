"""Writing text-to-video folders in our layout: a subfolder for every part, with our key names."""

from collections.abc import Iterator
from pathlib import Path

import torch

from latte.models.latte_t2v import LatteT2V
from latte.models.t5 import T5Encoder
from latte.models.vae import VideoVAE
from latte.scheduler import Scheduler
from latte.text.tokenizer import Tokenizer
from latte.weights.folder import MANIFEST, check_replaceable, invalidate, save_folder
from latte.weights.load import model_root, own_vae
from latte.weights.published import TEMPORAL_VAE, part_files, readers, save_scheduler
from latte.weights.sampling_defaults import SAMPLING_FILE, TEXT_GUIDANCE, Sampling, load_sampling, save_sampling
from latte.weights.tensors import CheckpointError


def save_text_to_video(
    folder: str | Path,
    transformer: LatteT2V | None,
    vae: VideoVAE | None,
    text_encoder: T5Encoder | None,
    tokenizer: Tokenizer | None,
    scheduler: Scheduler | None,
    sampling: Sampling | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a text-to-video folder in our layout: a subfolder for every part, with our key names.

    A folder that was written before is replaced part by part. If writing is interrupted, the folder cannot be loaded,
    but it can be written again.

    Args:
        folder: Where to write.
        transformer: The denoiser.
        vae: The autoencoder. If it is None, a vae/ that is already there stays.
        text_encoder: The text encoder, or None for a model trained on stored embeddings.
        tokenizer: The tokenizer of the text encoder.
        scheduler: The scheduler.
        sampling: The defaults for sampling.json; None writes no such file.
        dtype: What to convert the weights to; None keeps the type of each.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder holds something that would be lost, or a part of another model. Nothing was changed.
    """
    folder = Path(folder)
    networks = {"transformer": transformer, "vae": None if vae is None else vae.model, "text_encoder": text_encoder}
    networks = {name: network for name, network in networks.items() if network is not None}
    check_parts(folder, list(networks))
    for name, part in (("text_encoder", text_encoder), ("tokenizer", tokenizer)):
        if part is None and (folder / name).exists():
            raise CheckpointError(f"{folder} holds a {name}, which this model does not have; choose a new folder")
    for name in networks:
        invalidate(folder / name)
    for name, network in networks.items():
        save_folder(network, folder / name, dtype)
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")
    if scheduler is not None:
        save_scheduler(scheduler, folder / "scheduler")
    if sampling is not None:
        save_sampling(sampling, folder)
    return folder


def check_parts(folder: Path, networks: list[str]) -> None:
    """Raise CheckpointError if writing these parts in our layout would overwrite what was not written here."""
    for name in networks:
        check_replaceable(folder / name)
    for name in ("tokenizer", "scheduler"):
        if (folder / name).exists() and not (folder / "transformer" / MANIFEST).exists():
            raise CheckpointError(f"{folder / name} exists and was not written here; choose a new folder")


def rewrite(source: Path, target: Path, dtype: torch.dtype) -> Iterator[tuple[str, Path, int]]:
    """Convert a text-to-video folder of either layout, or a training checkpoint, to our layout, one part at a time.

    Args:
        source: What to convert.
        target: The folder to write.
        dtype: What to convert the weights to.

    Yields:
        The name of a part, a file that it came from, and its number of parameters.

    Raises:
        CheckpointError: The target holds something else, or the source lacks a part. Nothing was written.
    """
    read = readers(source, dtype)
    files = {name: part_files(source, name) for name in weight_parts(source)}
    has_sampling = (model_root(source) / SAMPLING_FILE).is_file()
    expected = {*files, "tokenizer", "scheduler", *([SAMPLING_FILE] if has_sampling else [])}
    found = sorted(path.name for path in target.iterdir() if path.name[0] != ".") if target.is_dir() else []
    if others := [name for name in found if name not in expected]:
        raise CheckpointError(f"{target} holds {others[0]}, which {source} does not have; choose a new folder")
    check_parts(target, list(files))
    tokenizer, scheduler = read["tokenizer"](), read["scheduler"]()
    for name in files:
        invalidate(target / name)  # so that an interrupted conversion cannot be loaded as a mixture of two models
    for name in files:
        network = read[name]()
        module = network.model if isinstance(network, VideoVAE) else network
        save_folder(module, target / name, None)
        for file in files[name]:
            yield name, file, sum(parameter.numel() for parameter in module.parameters())
    tokenizer.save(target / "tokenizer")
    save_scheduler(scheduler, target / "scheduler")
    if has_sampling:
        save_sampling(load_sampling(model_root(source), TEXT_GUIDANCE), target)


def weight_parts(source: Path) -> list[str]:
    """List the parts of a text-to-video model that have weights."""
    vaes = (["vae"] if own_vae(source) else []) + ([TEMPORAL_VAE] if (source / TEMPORAL_VAE).is_dir() else [])
    return ["transformer", "text_encoder", *vaes]
