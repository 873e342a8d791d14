"""The options of `latte sample` and `latte demo`, and those that every command that samples shares."""

import argparse
from pathlib import Path
from typing import Any

from latte.arguments import (
    MOST_AT_ONCE,
    MOST_VIDEOS,
    TRAINING_STEPS,
    check_count,
    check_eta,
    check_size,
    check_timesteps,
    is_whole,
)
from latte.commands.options.choices import (
    BROADCAST_KINDS,
    DTYPES,
    FPS_RANGE,
    SAMPLERS,
)
from latte.commands.parser import Parser, add_device_option, add_download_option, check_model, check_out_folder
from latte.diffusion.guidance_options import OPTIONS, SHAPES
from latte.diffusion.respacing import read_respacing
from latte.files import read_lines
from latte.plans.named_rules import RULES, check_rule_words

SAMPLE = """Make videos with a model, and a page, a contact sheet and an animation to view them.

With --n it makes a set for evaluation: lossless files, cycling through the classes or prompts. It makes the
missing videos, with one process or several at once, and writes no page.
"""
DEMO = """Serve a web page to make videos with models, compare two settings, and view results.

It needs the extra demo: pip install 'latte-video[demo]'. Nothing leaves this machine.
"""
NO_AUTOGUIDANCE = "none"  # of --autoguidance


def add_guidance_options(parser: argparse._ActionsContainer, shown: bool = True) -> None:
    """Add the options that set how samples are guided.

    With shown=False, the help leaves out all but --autoguidance: a command that sets the guidance itself rejects them.
    """

    def add(name: str, help: str, **options: Any) -> None:
        listed = shown or name == "--autoguidance"
        parser.add_argument(name, help=help if listed else argparse.SUPPRESS, **options)

    words = "guidance scale; 1 is no guidance (default: from the model's folder, or 4; for text to video, 7.5)"
    add("--cfg-scale", type=float, help=words)
    words = "timesteps between which guidance applies (default: from the model's folder, or all)"
    add("--cfg-interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help=words)
    words = "guidance method; apg and cfg-zero keep more variety, cfg++ takes a scale from 0 to 1 (default: cfg)"
    add("--guidance-method", choices=OPTIONS, help=words)
    words = "parameters of the method, such as momentum=-0.5 threshold=5 parallel=0 for apg, zero_steps=1 for cfg-zero"
    add("--guidance-options", nargs="+", metavar="NAME=NUMBER", help=words)
    words = "how the scale depends on the timestep: linear and cosine grow as the noise falls (default: constant)"
    add("--guidance-schedule", choices=SHAPES, help=words)
    words = "guide away from a weaker model: a smaller one, or an early checkpoint; none: classifier-free"
    add("--autoguidance", metavar="MODEL", help=f"{words} (default: the weaker model in the model's folder, or none)")
    words = "guidance scale away from the weaker model (default: from the model's folder, or --cfg-scale)"
    add("--autoguidance-scale", type=float, metavar="SCALE", help=words)


def add_sampling_options(parser: argparse._ActionsContainer, guidance_shown: bool = True) -> None:
    """Add the options that every command that samples has; guidance_shown is that of add_guidance_options."""
    add = parser.add_argument
    add("--vae", help="folder of the VAE, if the model's folder holds none")
    add_download_option(parser)
    own = "(default: from the model's folder, or {})"
    words = "the T5 of a text-to-video model trained on stored embeddings: its folder, or a model that contains it"
    add("--text-encoder", metavar="FOLDER", help=words)
    words = "its vocabulary: a folder, or a model that contains it (default: beside the text encoder)"
    add("--tokenizer", metavar="FOLDER", help=words)
    add("--num-sampling-steps", "--steps", help=f"a number of steps, or a respacing such as ddim50 {own.format(50)}")
    add_guidance_options(parser, guidance_shown)
    add("--sampler", choices=SAMPLERS, help=f"{', '.join(SAMPLERS)} (default: a text-to-video folder's own, else ddim)")
    add("--eta", type=float, help=f"noise of ddim: 0 adds none, 1 as much as ddpm {own.format(0)}")
    words = "timestep shift of a flow model: above 1, more steps at high noise (default: from the folder, or 1)"
    add("--shift", type=float, help=words)
    words = "seed of the noise; video i depends only on it, on i, and on its class or prompt (default: 0)"
    add("--seed", type=int, default=0, help=words)
    words = "videos that go through the networks at once (default: depends on the size of a video and the device)"
    add("--batch-size", type=int, help=words)
    add("--weights", choices=("ema", "model"), default="ema", help="which weights of a checkpoint (default: ema)")
    add("--num-heads", type=int, help="attention heads, for an original file of an unpublished width")
    add("--dtype", choices=DTYPES, default="float32", help="type of the model's and VAE's weights (default: float32)")
    add("--variant", help="a word in the names of the weight files, such as fp16 (default: none)")
    words = "low: text encoder in 8 bits, VAE one frame at a time (text to video; default: normal)"
    add("--memory", choices=("normal", "low"), default="normal", help=words)
    add_device_option(parser)


def check_sampling_ranges(args: argparse.Namespace) -> None:
    """Raise ValueError for options of add_sampling_options that have a wrong form or range, whatever the model."""
    steps = args.num_sampling_steps
    if steps is not None and is_whole(steps) and int(steps) < 1:  # how many are too many depends on the model
        check_count("--steps", int(steps), TRAINING_STEPS)
    if steps is not None and not is_whole(steps):
        read_respacing(steps)
    if args.eta is not None:
        check_eta(args.eta, args.sampler or "ddim")
    if args.cfg_interval is not None:
        check_timesteps("guidance_interval", args.cfg_interval)
    if args.batch_size is not None:
        check_count("--batch-size", args.batch_size, MOST_AT_ONCE)


def check_plan_options(args: argparse.Namespace) -> None:
    """Check the options of add_plan_options: .ranges becomes the ranges of --pab by kind of layer, or None.

    Raises:
        ValueError: A range is not valid, or --plan is neither a file, nor a possible name, nor a valid rule.
    """
    args.ranges = parse_ranges(args.pab) if args.pab else None
    if args.plan is not None:
        check_rule_words(args.plan)


def add_plan_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say what sampling reuses."""
    several = parser.add_mutually_exclusive_group()
    words = "Pyramid Attention Broadcast: reuse outputs over steps, such as spatial=2 temporal=3 cross=6"
    several.add_argument("--pab", nargs="+", metavar="KIND=RANGE", help=words)
    words = "compute less by a plan: a plan file, a name in the model's folder, such as fast, or rules "
    words += f"such as network:17 ({', '.join(RULES)}; see `latte plan --help`)"
    several.add_argument("--plan", type=Path, metavar="FILE|NAME|RULES", help=words)


def sample_parser() -> Parser:
    """The options of `latte sample`."""
    parser = Parser(prog="latte sample", description=SAMPLE)
    add = parser.add_argument
    words = "a folder, an original .pt, or a bundled model (default: shapes; with --prompt shapes-t2v)"
    add("model", nargs="?", help=words)
    words = "folder to write to (default: samples, or the next free one of samples-2, samples-3, ...; with --n samples)"
    add("--out", type=Path, help=words)
    add("--overwrite", action="store_true", help="replace the page and the videos of an earlier call in --out")
    add("--classes", nargs="+", help="numbers or names of classes, or all (default)")
    words = "make a set of N videos for evaluation (under torchrun: --count)"
    add("--n", "--count", dest="count", type=int, metavar="N", help=words)
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", nargs="+", help="text prompts, one or more")
    prompts.add_argument("--prompts", type=Path, metavar="FILE", help="a file of prompts, one per line")
    add("--negative-prompt", default="", help="negative prompt")
    words = "videos per class (default: 2) or prompt (1), or in total from an unconditional model"
    add("--num-videos", type=int, help=words)
    add("--num-frames", type=int, help="frames of a video (default: as in training)")
    add("--height", type=int, help="in pixels (default: as in training)")
    add("--width", type=int, help="in pixels (default: as in training)")
    add("--fps", type=float, default=8, help="frames per second of the files (default: 8)")
    add_plan_options(parser)
    add_sampling_options(parser)
    return parser


def sample_options(argv: list[str]) -> argparse.Namespace:
    """Parse the options of `latte sample`. --pab becomes a range for each kind, --prompts becomes --prompt.

    They also have .given, the arguments as they were given.

    Raises:
        ValueError: A value would fail after minutes of work, whatever the model.
    """
    args = sample_parser().parse_args(argv)
    args.given = argv
    check_model(args.model, args.download)
    if args.prompts:
        args.prompt = read_prompts(args.prompts)
    check_sampling_ranges(args)
    check_plan_options(args)
    for name in ("num_frames", "height", "width"):
        if getattr(args, name) is not None:
            check_size(name, getattr(args, name))
    if args.num_videos is not None and not 1 <= args.num_videos * len(args.prompt or [0]) <= MOST_VIDEOS:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be 1 or more, and at most {MOST_VIDEOS} in total")
    if args.count is not None:
        check_count("--n", args.count, MOST_VIDEOS)
        if args.num_videos is not None:
            raise ValueError("--num-videos is for each class or prompt, --n is for all of them: give one")
    for prompt in (*(args.prompt or ()), args.negative_prompt):
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # bytes of the command line that are not UTF-8
            raise ValueError(f"the prompt {prompt!r} is not UTF-8 text: write it in UTF-8")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; it must be 0 or more")
    if not FPS_RANGE[0] <= args.fps <= FPS_RANGE[1]:
        raise ValueError(f"--fps is {args.fps:g}; it must be from {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g}")
    check_out_folder(args.out or Path("samples"))
    return args


def demo_options(argv: list[str]) -> argparse.Namespace:
    """Parse the options of `latte demo`. Raises ValueError if the port is out of range."""
    parser = Parser(prog="latte demo", description=DEMO)
    add = parser.add_argument
    words = "folders, original .pt files, or bundled models (default: shapes and shapes-t2v)"
    add("models", nargs="*", default=["shapes", "shapes-t2v"], help=words)
    words = "what the Results tab shows: folders of `latte ablate`, results of `latte eval --out` or folders of them"
    add("--results", type=Path, nargs="+", default=[], metavar="PATH", help=words)
    add("--vae", help="folder of the VAE for models whose folder holds none")
    add_download_option(parser)
    add("--dtype", choices=DTYPES, default="float32", help="type of the models' and VAE's weights (default: float32)")
    words = "address to listen on; with any but the default, others can use the page too (default: 127.0.0.1)"
    add("--host", default="127.0.0.1", help=words)
    add("--port", type=int, help="the port (default: the first free one from 7860 on)")
    add_device_option(parser)
    args = parser.parse_args(argv)
    for model in args.models:
        check_model(model, args.download)
    if args.port is not None and not 1 <= args.port <= 65535:
        raise ValueError(f"--port is {args.port}; it must be from 1 to 65535")
    return args


def read_prompts(path: Path) -> list[str]:
    """Read the file of --prompts, one prompt per line. Raises ValueError if it holds none or is not in UTF-8."""
    try:
        prompts = read_lines(path)
    except ValueError as error:
        raise ValueError(f"--prompts {error}") from error
    if not prompts:
        raise ValueError(f"--prompts {path} holds no prompt; write one per line")
    return prompts


def parse_ranges(words: list[str]) -> dict[str, int]:
    """Parse the arguments of --pab, such as "spatial=2", into a range for each kind of layer.

    Raises:
        ValueError: An argument is not of that form, a range is below 1, or a kind is named twice.
    """
    ranges: dict[str, int] = {}
    for word in words:
        kind, _, every = word.partition("=")
        if kind not in BROADCAST_KINDS or not every.isdecimal():
            known = ", ".join(BROADCAST_KINDS)
            raise ValueError(f"--pab {word}: expected KIND=RANGE, such as spatial=2; the kinds are {known}")
        if kind in ranges:
            raise ValueError(f"--pab {word}: {kind} is given twice")
        check_count("skip_range", int(every))
        ranges[kind] = int(every)
    return ranges


def parse_numbers(words: list[str]) -> dict[str, float]:
    """Parse the arguments of --guidance-options, such as "momentum=-0.5". Raises ValueError for other forms."""
    numbers: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError as error:
            raise ValueError(f"--guidance-options {word}: expected NAME=NUMBER, such as momentum=-0.5") from error
    return numbers
