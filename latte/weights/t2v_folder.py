"""Writing text-to-video folders in our layout: a subfolder for every part, with our key names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte.drafts import own_folder
from latte.files import replacing_folder, write_json
from latte.sampling_settings import Sampling
from latte.weights.find_models import PARTS, WEAKER, model_root, own_vae
from latte.weights.folder import check_replaceable, refuse_leftovers, write_network
from latte.weights.manifest import MANIFEST
from latte.weights.published import TEMPORAL_VAE, networks_of, part_files, readers, save_scheduler
from latte.weights.sampling_defaults import SAMPLING_FILE, TEXT_GUIDANCE, own_weaker, read_sampling, save_sampling
from latte.weights.shared_parts import SHARED_FILE
from latte.weights.tensors import CheckpointError


def save_text_to_video(
    folder: str | Path, parts: Mapping[str, Any], sampling: Sampling | None = None, variant: str | None = None
) -> Path:
    """Write a text-to-video folder in our layout: a subfolder for every part, with our key names.

    An existing model folder is replaced at the end, in one step. If writing is interrupted, it stays unchanged.

    Args:
        folder: Where to write.
        parts: Parts by the names in PARTS and WEAKER, as a pipeline's `components`. One that is None or absent is left
            out: the text encoder of a model that was trained on stored embeddings, for instance.
        sampling: The defaults for sampling.json; None writes no such file.
        variant: A word for the names of the weight files, such as "fp16"; None writes the plain names.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder holds something that would be lost, or a part of another model. Nothing was changed.
    """
    folder, networks = Path(folder), networks_of(parts)
    check_parts_replaceable(folder, list(networks))
    given = {name: parts.get(name) is not None for name in (*PARTS, TEMPORAL_VAE, WEAKER)}
    refuse_leftovers(folder, given | {SAMPLING_FILE: sampling is not None, SHARED_FILE: False})
    with replacing_folder(folder, keep=True) as draft:
        for name, network in networks.items():
            write_network(network, draft / name, None, variant)
        save_small_parts(draft, parts, sampling)
    return folder


def save_small_parts(folder: Path, parts: Mapping[str, Any], sampling: Sampling | None) -> None:
    """Write the parts without weights, if they are given: the tokenizer, the scheduler and the sampling defaults."""
    if (tokenizer := parts.get("tokenizer")) is not None:
        tokenizer.save(own_folder(folder / "tokenizer"))
    if (scheduler := parts.get("scheduler")) is not None:
        save_scheduler(scheduler, own_folder(folder / "scheduler"))
    if sampling is not None:
        save_sampling(sampling, folder)


def check_parts_replaceable(folder: Path, networks: list[str]) -> None:
    """Raise CheckpointError if writing these parts in our layout would overwrite anything not written here."""
    for name in networks:
        check_replaceable(folder / name)
    for name in ("tokenizer", "scheduler"):
        if (folder / name).exists() and not (folder / "transformer" / MANIFEST).exists():
            raise CheckpointError(f"{folder / name} exists and was not written here; choose a new folder")


def convert_to_our_layout(
    source: Path,
    target: Path,
    dtype: torch.dtype,
    variant: str | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, list[Path], nn.Module]]:
    """Convert a text-to-video folder of either layout, or a training checkpoint, to our layout, one part at a time.

    Args:
        source: The folder or checkpoint to convert.
        target: The folder to write.
        dtype: The type to convert the weights to.
        variant: The variant of the source's weight files, see latte.weights.state_files.
        shared: The entries of a shared.json (latte.weights.shared_parts), for parts that are not written.

    Yields:
        For each part with weights: its name, the files that it came from, and its network.

    Raises:
        CheckpointError: The target holds something else, or the source lacks a part. Nothing was written.
    """
    shared = shared or {}
    in_eight_bits = dtype == torch.int8  # then they are read as floats
    read = readers(source, torch.float32 if in_eight_bits else dtype, variant=variant)
    files = {name: part_files(source, name, variant) for name in weight_parts(source) if name not in shared}
    sampling = read_sampling(model_root(source), TEXT_GUIDANCE)
    others = [name for name in ("tokenizer", "scheduler") if name not in shared]
    expected = {*files, *others, *([SAMPLING_FILE] if sampling else []), *([SHARED_FILE] if shared else [])}
    found = sorted(path.name for path in target.iterdir() if path.name[0] != ".") if target.is_dir() else []
    refuse_leftovers(target, {name: name in expected for name in found})
    check_parts_replaceable(target, list(files))
    small = {name: read[name]() for name in others}
    with replacing_folder(target, keep=True) as draft:
        for name in files:
            network = networks_of({name: read[name]()})[name]
            write_network(network, draft / name, dtype if in_eight_bits else None)
            yield name, files[name], network
        save_small_parts(draft, small, sampling)
        if shared:
            write_json(draft / SHARED_FILE, dict(shared))


def weight_parts(source: Path) -> list[str]:
    """List the parts of a text-to-video model that have weights. Raises CheckpointError as own_weaker does."""
    weaker = own_weaker(source, read_sampling(model_root(source), TEXT_GUIDANCE))
    vaes = (["vae"] if own_vae(source) else []) + ([TEMPORAL_VAE] if (source / TEMPORAL_VAE).is_dir() else [])
    return ["transformer", "text_encoder", *vaes, *([] if weaker is None else [WEAKER])]
