"""What every command that samples shares: its options, the model that they name, and the settings of its call."""

import argparse
from pathlib import Path
from typing import Any

from latte.arguments import MOST_AT_ONCE, check_count
from latte.commands.parser import add_device_option
from latte.device import usable_device
from latte.files import read_utf8
from latte.pab import KINDS, broadcast_options
from latte.pipeline import LattePipeline
from latte.scheduler import ALL, Scheduler
from latte.weights.hub import find_pipeline, find_vae
from latte.weights.load import is_text_pipeline, own_vae, weights_file
from latte.weights.published import part_files
from latte.weights.tensors import DTYPES, digest
from latte.weights.vae_folder import vae_files


def add_sampling_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that every command that samples has."""
    add = parser.add_argument
    add("--vae", help="folder of the VAE, if the model's folder holds none")
    own = "(default: what the model's folder says, or {})"
    add("--num-sampling-steps", help=f"a number of steps, or a respacing such as ddim50 {own.format(50)}")
    words = "guidance scale; 1 is no guidance (default: what the model's folder says, or 4, for text to video 7.5)"
    add("--cfg-scale", type=float, help=words)
    words = "timesteps between which guidance applies (default: what the model's folder says, or all)"
    add("--cfg-interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help=words)
    add("--sampler", choices=ALL, help=f"{', '.join(ALL)} (default: a text-to-video folder's own, else ddim)")
    add("--eta", type=float, help=f"noise of ddim: 0 is none, 1 as much as ddpm {own.format(0)}")
    add("--seed", type=int, default=0, help="video i depends only on the seed, on i and on its class (default: 0)")
    add("--batch-size", type=int, default=4, help="videos that go through the networks at once (default: 4)")
    add("--weights", choices=("ema", "model"), default="ema", help="which of a checkpoint's two sets (default: ema)")
    add("--num-heads", type=int, help="attention heads, for an original file of an unpublished width")
    add("--dtype", choices=DTYPES, default="float32", help="of a text-to-video model's weights (default: float32)")
    add("--variant", help="a word in the names of a text-to-video model's weight files, such as fp16 (default: none)")
    words = "low: text encoder in 8 bits, VAE one frame at a time (text to video; default: normal)"
    add("--memory", choices=("normal", "low"), default="normal", help=words)
    add_device_option(parser)


def open_pipeline(args: argparse.Namespace) -> tuple[LattePipeline, dict[str, Any], list[Path]]:
    """Open the model that the options name.

    Returns:
        The pipeline on its device, the settings of its call, and its files of weights, the VAE's last.

    Raises:
        ValueError: There is no such model, or an option does nothing for this kind of model.
    """
    path = find_pipeline(args.model)
    of_text = is_text_pipeline(path)
    check_sampling_options(args, of_text)
    options = {} if args.vae is None else {"vae": args.vae}
    if of_text:
        options |= {"memory": args.memory, "variant": args.variant}
        pipe = LattePipeline.from_pretrained(path, DTYPES[args.dtype], **options)
        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, args.sampler)
        parts = (part_files(path, part, args.variant) for part in ("transformer", "text_encoder"))
        files = list(dict.fromkeys(file for part in parts for file in part))
    else:
        pipe = LattePipeline.from_pretrained(path, weights=args.weights, num_heads=args.num_heads, **options)
        files = [weights_file(path, args.weights)]
    if pipe.vae is not None:
        files += vae_files(find_vae(args.vae, path) if args.vae else own_vae(path), args.variant)
    return pipe.to(usable_device(args.device)), call_settings(pipe, args), files


def model_record(args: argparse.Namespace, files: list[Path]) -> dict[str, Any]:
    """What a set of videos records of the model that made it: its name, its weights and how they were read."""
    about = {"model": args.model, "sha256": [digest(file) for file in files]}
    return about | {name: getattr(args, name) for name in ("weights", "dtype", "memory")}


def call_settings(pipe: LattePipeline, args: argparse.Namespace) -> dict[str, Any]:
    """What the pipeline's call takes for these options; every default is filled in, so that it can be recorded."""
    sampler = args.sampler or pipe.scheduler.sampler
    steps = args.num_sampling_steps or pipe.sampling.num_inference_steps
    guidance = pipe.sampling.guidance.asked(args.cfg_scale, args.cfg_interval)
    return {
        **({} if pipe.takes_prompts else {"sampler": sampler}),
        "num_inference_steps": int(steps) if pipe.takes_prompts else str(steps),
        "guidance_scale": guidance.scale,
        **({"guidance_interval": guidance.interval} if guidance.interval and guidance.scale != 1 else {}),
        "eta": pipe.sampling.eta_of(sampler, args.eta),
        "seed": args.seed,
        "batch_size": args.batch_size,
    }


def check_sampling_options(args: argparse.Namespace, of_text: bool) -> None:
    """Raise ValueError for options that do nothing for this kind of model, or are out of range."""
    check_count("--batch-size", args.batch_size, MOST_AT_ONCE)
    if of_text and args.num_sampling_steps and not args.num_sampling_steps.isdecimal():
        raise ValueError(f"--num-sampling-steps is {args.num_sampling_steps!r}; for text to video it is a number")
    unused: dict[str, Any] = {"weights": "ema", "num_heads": None}
    if not of_text:
        unused = {"dtype": "float32", "memory": "normal", "variant": None}
    if wrong := [name for name, value in unused.items() if getattr(args, name) != value]:
        raise ValueError(f"--{wrong[0].replace('_', '-')} does nothing for {args.model}: leave it out")


def read_prompts(path: Path) -> list[str]:
    """Read the file of --prompts, one prompt a line. Raises ValueError if it holds none or is not in UTF-8."""
    try:
        prompts = [line.strip() for line in read_utf8(path).splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"--prompts {error}") from error
    if not prompts:
        raise ValueError(f"--prompts {path} holds no prompt; write one per line")
    return prompts


def parse_broadcast(words: list[str]) -> dict[str, int]:
    """Parse the words of --pab, such as "spatial=2", into options of enable_pyramid_attention_broadcast.

    Raises:
        ValueError: A word is not of that form, or a kind is named twice.
    """
    ranges: dict[str, int] = {}
    for word in words:
        kind, _, every = word.partition("=")
        if kind not in KINDS or not every.isdecimal():
            raise ValueError(f"--pab {word}: expected KIND=RANGE, such as spatial=2; the kinds are {', '.join(KINDS)}")
        if kind in ranges:
            raise ValueError(f"--pab {word}: {kind} is given twice")
        ranges[kind] = int(every)
    return broadcast_options(ranges)
