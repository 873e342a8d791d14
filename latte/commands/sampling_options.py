"""The sampling options in effect: the model that they name, and the settings of its call."""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from latte.commands.options.sampling import NO_AUTOGUIDANCE, parse_numbers
from latte.device import usable_device
from latte.pab import broadcast_options
from latte.pipeline import LattePipeline
from latte.sampling_settings import Guidance, set_words
from latte.scheduler import Scheduler
from latte.text.tokenizer import Tokenizer
from latte.train.precision import SLOW, slowdown
from latte.weights.find_models import WEAKER, is_text_pipeline, own_vae, weaker_folder
from latte.weights.hub import find_pipeline, find_vae
from latte.weights.load import weights_file
from latte.weights.manifest import digest
from latte.weights.published import load_t5, part_files
from latte.weights.shared_parts import part_folder
from latte.weights.state_files import state_files
from latte.weights.tensors import DTYPES
from latte.weights.vae_folder import vae_files

# Tokens of a batch. On a core of an AMD EPYC with AVX2, a step of the bundled class-conditional model takes 39, 28 and
# 26 ms per video in batches of 1, 4 and 16, which are 64, 256 and 1,024 tokens. Not measured on a GPU.
TOKENS_AT_ONCE = {"cpu": 1024, "other": 16384}


def open_sampler(args: argparse.Namespace) -> tuple[LattePipeline, dict[str, Any], list[Path]]:
    """Like open_pipeline, with --pab or --plan applied."""
    pipe, settings, files = open_pipeline(args)
    apply_plan_options(pipe, args)
    return pipe, settings, files


def reuse_record(pipe: LattePipeline, args: argparse.Namespace) -> dict[str, Any]:
    """What sampling reuses, for the record of its videos; empty if it computes everything."""
    plan = {} if args.plan is None else {"plan": pipe.plan_digest()}
    return plan | ({"pab": args.pab} if args.pab else {})


def apply_plan_options(pipe: LattePipeline, args: argparse.Namespace) -> None:
    """Let a pipeline reuse what the options say; raises ValueError if there is no such plan."""
    if args.ranges:
        pipe.enable_pyramid_attention_broadcast(**broadcast_options(args.ranges))
    if args.plan is not None:
        pipe.enable_plan(args.plan)


def open_pipeline(args: argparse.Namespace) -> tuple[LattePipeline, dict[str, Any], list[Path]]:
    """Open the model that the options name.

    Returns:
        The pipeline on its device, the settings of its call, and its files of weights, the VAE's last.

    Raises:
        ValueError: There is no such model, or an option does nothing for this kind of model.
    """
    local = not args.download
    path = find_pipeline(args.model, local, args.variant)
    of_text = is_text_pipeline(path)
    check_sampling_options(args, of_text)
    options: dict[str, Any] = {} if args.vae is None else {"vae": args.vae, "local_files_only": local}
    options |= {} if args.autoguidance is None else {"weaker": None}
    if of_text:
        options |= {"memory": args.memory, "variant": args.variant}
        texts, encoder = open_text_encoder(args) if args.text_encoder else ({}, None)
        pipe = LattePipeline.from_pretrained(path, DTYPES[args.dtype], **options, **texts)
        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, args.sampler)
        files = part_files(path, "transformer", args.variant)
        files += state_files(encoder, args.variant) if encoder else part_files(path, "text_encoder", args.variant)
        files = list(dict.fromkeys(files)) + (part_files(path, WEAKER, args.variant) if pipe.weaker is not None else [])
    else:
        options |= {"weights": args.weights, "num_heads": args.num_heads, "variant": args.variant}
        pipe = LattePipeline.from_pretrained(path, DTYPES[args.dtype], **options)
        files = [weights_file(path, args.weights, args.variant)]
        files += [] if pipe.weaker is None else [weights_file(weaker_folder(path), variant=args.variant)]
    if args.shift is not None:
        if not pipe.scheduler.flow:
            raise ValueError(f"--shift does nothing for {args.model}, which predicts no flow: leave it out")
        pipe.scheduler = replace(pipe.scheduler, shift=args.shift)
    if pipe.vae is not None:
        files += vae_files(find_vae(args.vae, path) if args.vae else own_vae(path), args.variant)
    pipe.to(usable_device(args.device))
    warn_if_slow(args.dtype, pipe.device.type)
    if args.autoguidance not in (None, NO_AUTOGUIDANCE):
        pipe.enable_autoguidance(find_pipeline(args.autoguidance, local))
    return pipe, call_settings(pipe, args), files


def warn_if_slow(dtype: str, device_type: str) -> None:
    """Warn if a device computes in a type more slowly than in float32, with the measured factor."""
    precision = {"float16": "fp16", "bfloat16": "bf16"}.get(dtype)
    if precision and (factor := slowdown(precision, device_type)) > SLOW:
        warnings.warn(f"--dtype {dtype} is {factor:.0f} times as slow as float32 here: leave it out", stacklevel=3)


def open_text_encoder(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The text encoder and the vocabulary that the options name, as from_pretrained takes them, and its folder."""
    folder = named_part(args.text_encoder, "text_encoder", not args.download)
    tokenizer = named_part(args.tokenizer or args.text_encoder, "tokenizer", not args.download)
    encoder = load_t5(folder, DTYPES[args.dtype], args.memory == "low", args.variant)
    return {"text_encoder": encoder, "tokenizer": Tokenizer(tokenizer)}, folder


def named_part(name: str, part: str, local_files_only: bool) -> Path:
    """The folder of a part: that of the named model, or the named folder itself if it is not a model."""
    folder = find_pipeline(name, local_files_only)
    inside = part_folder(folder, part)
    return inside if inside.is_dir() else folder


def model_record(args: argparse.Namespace, files: list[Path]) -> dict[str, Any]:
    """What a set of videos records about the model that made it: its name, its weights and how they were read."""
    about = {"model": args.model, "sha256": [digest(file) for file in files]}
    return about | {name: getattr(args, name) for name in ("weights", "dtype", "memory")}


def call_settings(pipe: LattePipeline, args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the pipeline call for these options; all defaults are filled in, to be recorded."""
    sampler = args.sampler or pipe.scheduler.sampler
    steps = args.num_sampling_steps or pipe.sampling.num_inference_steps
    guidance = asked_guidance(pipe, args)
    guides = pipe.conditioning.guides(pipe, guidance)
    try:
        Scheduler.from_config(pipe.scheduler.config, sampler).schedule(steps)
    except ValueError as error:
        raise ValueError(str(error).replace("num_inference_steps", "--steps", 1)) from error
    return {
        **({} if pipe.takes_prompts else {"sampler": sampler}),
        "num_inference_steps": int(steps) if pipe.takes_prompts else str(steps),
        **(guidance.settings if guides or pipe.weaker is not None else {"guidance_scale": guidance.scale}),
        "eta": pipe.sampling.eta_of(sampler, args.eta),
        "seed": args.seed,
        "batch_size": default_batch_size(pipe, args) if args.batch_size is None else args.batch_size,
    }


def default_batch_size(pipe: LattePipeline, args: argparse.Namespace) -> int:
    """How many videos go through the network at once, unless the options say so: enough to fill the device.

    It depends on the size of a video and the kind of device, and not on how many videos are requested, so that
    requesting more does not change a bit of the first ones.
    """
    asked = {name: getattr(args, name, None) for name in ("num_frames", "height", "width")}
    frames, _, height, width = pipe.latent_shape(video_length=None, **asked)
    config = pipe.transformer.config
    tokens = frames // getattr(config, "tubelet", 1) * (height * width // config.patch_size**2)
    few = getattr(args, "count", "many") is None  # a page of videos; a batch that is not full would cost as much
    wanted = TOKENS_AT_ONCE["cpu" if pipe.device.type == "cpu" else "other"] // (4 if few else 1)
    return max(1, min(4 if few else 16, wanted // tokens))


def asked_guidance(pipe: LattePipeline, args: argparse.Namespace) -> Guidance:
    """The guidance that the options ask for, with defaults from the model's folder.

    Raises:
        ValueError: A value is not valid, or does nothing.
    """
    options = None if args.guidance_options is None else parse_numbers(args.guidance_options)
    asked = (args.cfg_interval, args.guidance_method, options, args.guidance_schedule)
    if args.autoguidance_scale is not None and pipe.weaker is None:
        raise ValueError("--autoguidance-scale does nothing without a weaker model: name one with --autoguidance")
    away = pipe.weaker is not None
    guidance = pipe.sampling.guidance.asked(args.cfg_scale, *asked, args.autoguidance_scale, away=away)
    if (given := set_words(*asked)) and not pipe.conditioning.guides(pipe, guidance):
        scale = guidance.strength
        raise ValueError(f"{given[0]} does nothing with a guidance scale of {scale:g}, which does not guide")
    return guidance


def check_sampling_options(args: argparse.Namespace, of_text: bool) -> None:
    """Raise ValueError for options that do nothing for this kind of model, or are out of range."""
    if of_text and args.num_sampling_steps and not args.num_sampling_steps.isdecimal():
        raise ValueError(f"--steps is {args.num_sampling_steps}; it must be a whole number, 1 or more")
    unused: dict[str, Any] = {"weights": "ema", "num_heads": None}
    if not of_text:
        unused = {"memory": "normal", "text_encoder": None, "tokenizer": None}
    if of_text and args.tokenizer and not args.text_encoder:
        raise ValueError("--tokenizer does nothing without --text-encoder: leave it out")
    if wrong := [name for name, value in unused.items() if getattr(args, name) != value]:
        raise ValueError(f"--{wrong[0].replace('_', '-')} does nothing for {args.model}: leave it out")
