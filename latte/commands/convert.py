"""`latte convert`: convert a checkpoint to a model folder, or a model to the original's or diffusers' format."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte.commands.options.sampling import NO_AUTOGUIDANCE
from latte.files import read_json, replacing
from latte.models.latte import Latte
from latte.pipeline import LattePipeline
from latte.weights.convert_latte import state_for_original
from latte.weights.find_models import STEPS_FILE, WEAKER, bundled_models, is_text_pipeline, model_root, own_vae
from latte.weights.folder import check_replaceable
from latte.weights.hub import find_pipeline
from latte.weights.latte_folder import CLASSES_FILE, save_latte
from latte.weights.load import load_model, weights_file
from latte.weights.manifest import CONFIG, MANIFEST, digest
from latte.weights.published import load_scheduler, part_files, readers
from latte.weights.published_export import check_published_target, save_published
from latte.weights.sampling_defaults import TEXT_GUIDANCE, own_weaker, read_sampling, usual_guidance
from latte.weights.shared_parts import parts_of
from latte.weights.t2v_folder import convert_to_our_layout, weight_parts
from latte.weights.tensors import DTYPES, cast, write_tensors
from latte.weights.vae_folder import is_vae, load_vae, save_vae, vae_files

STORED_DTYPES = {**DTYPES, "int8": torch.int8}  # for int8 see latte.weights.eight_bits
ORIGINAL_SUFFIXES = (".pt", ".safetensors")  # of the files that the original reads


def main(args: Namespace) -> None:
    """Convert a model, and print the sha256 of every file that was read.

    Raises:
        ValueError: The options do not fit the model, the model has no such format, or the target holds a model and
            --overwrite is not given.
        CheckpointError: The source is missing or damaged, or the target holds something else.
    """
    if not args.overwrite and holds_model(args.target):
        replace = "add --overwrite to replace one of the same kind"
        raise ValueError(f"{args.target} holds a model already: choose another target, or {replace}")
    if args.to != "original" and args.target.suffix.lower() in ORIGINAL_SUFFIXES and not args.target.is_dir():
        raise ValueError(f"{args.target} looks like a file of the original: add --to original, or name a folder")
    source, target = find_pipeline(args.source, not args.download, args.variant), args.target
    dtype, shared = STORED_DTYPES[args.dtype], {} if args.share is None else parts_to_share(source, args.share)
    if is_vae(source):
        check_conversion(f"{source} is a VAE", ("latte",), args.to, args.num_heads, args.weights)
        if args.autoguidance is not None:
            raise ValueError(f"--autoguidance does nothing for {source}, which is a VAE: leave it out")
        check_target(target, args.to)
        summary = convert_vae(source, target, dtype, args.variant)
    elif is_text_pipeline(source):
        formats = ("latte", "diffusers")
        check_conversion(f"{source} is a text-to-video model", formats, args.to, args.num_heads, args.weights)
        if args.autoguidance is not None:
            summary = convert_with_weaker(source, args)
        else:
            summary = convert_text_to_video(source, target, dtype, args.to, args.variant, shared)
    elif args.to == "diffusers":
        raise ValueError(f"{source} is a Latte, which diffusers has no class for; choose --to latte or original")
    else:
        check_target(target, args.to)
        weaker = args.autoguidance is not None
        summary = convert_with_weaker(source, args) if weaker else convert_latte(source, args, shared)
    print(f"{target}: {summary}, {args.dtype}")


def holds_model(target: Path) -> bool:
    """Whether the target is a file of weights, or a model folder that this project wrote, in any layout."""
    if target.is_file():
        return target.suffix.lower() in ORIGINAL_SUFFIXES
    folders = (target, target / "transformer")
    return any((folder / MANIFEST).exists() and (folder / CONFIG).exists() for folder in folders)


def check_target(target: Path, to: str) -> None:
    """Raise ValueError or CheckpointError if a Latte or a VAE cannot be written there, before anything is read."""
    if to == "latte":
        if target.is_file():
            raise ValueError(f"{target} is a file, but the model is written as a folder: choose another name")
        check_replaceable(target)
    elif target.suffix.lower() not in ORIGINAL_SUFFIXES:
        raise ValueError(f"{target}: the original reads .pt or .safetensors files; choose one of these suffixes")


def check_conversion(what: str, formats: tuple[str, ...], to: str, num_heads: int | None, weights: str) -> None:
    """Raise ValueError if these options are not for this kind of model."""
    if to not in formats:
        raise ValueError(f"{what}, which has no format {to!r}; choose --to {' or '.join(formats)}")
    if num_heads is not None or weights != "ema":
        raise ValueError(f"{what}: --num-heads and --weights are for a Latte; leave them out")


def convert_vae(source: Path, target: Path, dtype: torch.dtype, variant: str | None) -> str:
    """Convert a VAE to our folder; return a summary of it."""
    if variant is not None and source.is_file():
        raise ValueError(f"--variant does nothing for {source}, a single file: leave it out")
    vae = load_vae(source, variant=variant)
    for file in vae_files(source, variant):
        print_read(file)
    save_vae(vae, target, dtype)
    return f"VAE, {parameters(vae)}"


def parts_to_share(source: Path, model: str) -> dict[str, dict[str, str]]:
    """The entries of a shared.json for the parts that are those of a bundled model. Raises ValueError if none is."""
    if model not in (known := sorted(name for name in bundled_models() if "/" not in name)):
        raise ValueError(f"--share {model}: no bundled model has this name; they are {', '.join(known)}")
    folder, trained = model_root(source), model_root(source) / STEPS_FILE
    shared = parts_of(folder, model, read_json(trained).get("text_encoder_sha256") if trained.is_file() else None)
    if not shared:
        raise ValueError(f"--share {model}: no part of {source} is equal to that of {model}; leave it out")
    print(f"shared with {model}: {', '.join(shared)}")
    return shared


def convert_text_to_video(
    source: Path, target: Path, dtype: torch.dtype, to: str, variant: str | None, shared: Mapping[str, Any]
) -> str:
    """Convert a text-to-video model to our folder, one part at a time, or to diffusers'; return a summary of it."""
    if to == "latte":
        for name, files, network in convert_to_our_layout(source, target, dtype, variant, shared):
            print_part(name, files, network)
        return "text-to-video"
    check_published_target(target)
    read, names = readers(source, dtype, variant=variant), weight_parts(source)
    parts = {name: read[name]() for name in (*names, "tokenizer", "scheduler")}
    for name in names:
        print_part(name, part_files(source, name, variant), parts[name])
    save_published(target, parts, dtype, read_sampling(model_root(source), TEXT_GUIDANCE))
    return "text-to-video for diffusers"


def convert_with_weaker(source: Path, args: Namespace) -> str:
    """Write a model with a different weaker model, or with none; return a summary."""
    named = args.autoguidance != NO_AUTOGUIDANCE
    other = find_pipeline(args.autoguidance, not args.download) if named else None
    words = {"weights": args.weights, "num_heads": args.num_heads, "variant": args.variant}
    pipe = LattePipeline.from_pretrained(source, DTYPES[args.dtype], weaker=None, **words)
    print_part("transformer", network_files(source, args.weights, args.variant), pipe.transformer)
    if other is not None:
        pipe.enable_autoguidance(other, scale=args.autoguidance_scale)
        print_part(WEAKER, network_files(other), pipe.weaker)
    pipe.save_pretrained(args.target, published=args.to == "diffusers")
    weaker = "no weaker model" if pipe.weaker is None else f"a weaker one of {parameters(pipe.weaker)}"
    return f"{type(pipe.transformer).__name__}, {parameters(pipe.transformer)}, with {weaker}"


def network_files(path: Path, weights: str = "ema", variant: str | None = None) -> list[Path]:
    """The files that the weights of a model's network come from."""
    of_text = is_text_pipeline(path)
    return part_files(path, "transformer", variant) if of_text else [weights_file(path, weights, variant)]


def convert_latte(source: Path, args: Namespace, shared: Mapping[str, Any]) -> str:
    """Convert a class-conditional or unconditional Latte to our folder or to the original's file; return a summary."""
    model = load_model(source, args.num_heads, args.weights, args.variant)
    print_read(weights_file(source, args.weights, args.variant))
    if args.to == "original":
        write_original(model, args.target, DTYPES[args.dtype])
        if (source / WEAKER).is_dir():
            print(f"left out {source / WEAKER}: the original has no autoguidance")
    else:
        write_folder(model, source, args.target, STORED_DTYPES[args.dtype], args.variant, shared)
    return f"Latte, {parameters(model)}, {model.config.num_classes or 'no'} classes"


def print_read(file: Path, about: str = "") -> None:
    """Print a file that was read, with its sha256."""
    print(f"read {file}, sha256 {digest(file)}{about}")


def print_part(name: str, files: list[Path], network: nn.Module) -> None:
    """Print the files of a part of a model, with the number of its parameters."""
    for file in files:
        print_read(file, f": {name}, {parameters(network)}")


def parameters(network: nn.Module) -> str:
    """Return the number of parameters, with thousands separators and the word."""
    return f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters"


def write_folder(
    model: Latte, source: Path, target: Path, dtype: torch.dtype, variant: str | None, shared: Mapping[str, Any]
) -> None:
    """Write a model folder, with the parts beside the weights: VAE, class names, sampling, scheduler, weaker model.

    Raises:
        CheckpointError: The target holds something that would be lost, or that would be taken for a part of this model.
    """
    vae_folder, classes, root = own_vae(source), source / CLASSES_FILE, model_root(source)
    vae = None if vae_folder is None or "vae" in shared else load_vae(vae_folder, variant=variant)
    names = read_json(classes).get("names", []) if classes.is_file() else []
    sampling = read_sampling(root, usual_guidance(model.config))
    scheduler = load_scheduler(root / "scheduler") if (root / "scheduler").is_dir() else None
    folder = own_weaker(source, sampling)
    weaker = None if folder is None else load_model(folder, variant=variant)
    if folder is not None and weaker is not None:
        print_part(WEAKER, [source / WEAKER / weights_file(folder, variant=variant).name], weaker)
    save_latte(target, model, vae, names, sampling, scheduler, dtype, weaker, shared=shared)


def write_original(model: Latte, path: Path, dtype: torch.dtype) -> None:
    """Write a file that the original's load_state_dict takes: {"ema": tensors} as .pt, or bare tensors as .safetensors.

    Raises:
        ValueError: The original has no such model, or a weight overflows `dtype`.
    """
    state = cast(state_for_original(model), dtype)
    if path.suffix.lower() == ".safetensors":
        write_tensors(path, state)
        return
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with replacing(path, needed, alone=True) as draft:  # PyTorch stores the file's name
        torch.save({"ema": state}, draft)
