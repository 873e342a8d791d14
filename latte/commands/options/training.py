"""The options of the commands for data and training, of which `latte train` and `latte distill` share some."""

import math
from argparse import Namespace
from pathlib import Path

from latte.commands.options.choices import (
    DRAWN_BY_DEFAULT,
    LATENT_DTYPES,
    LAYOUTS,
    ORIGINAL_SIZE,
    SELECTIONS,
    WHEN_DAMAGED,
)
from latte.commands.parser import Parser, add_device_option, add_download_option, check_model
from latte.train.config import MOST_STUDENT_STEPS
from latte.train.presets import PRESETS

PICTURES = (".png", ".pdf", ".svg")


def prepare_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte prepare`."""
    description = "Check the videos of a data set by decoding them, and list those that training can use."
    parser = Parser(prog="latte prepare", description=description)
    add = parser.add_argument
    add("kind", choices=LAYOUTS, help="; ".join(f"{name}: {layout}" for name, layout in LAYOUTS.items()))
    add("source", nargs="?", type=Path, metavar="SRC", help="folder of the data set; leave it out for shapes")
    add("--out", type=Path, required=True, help="folder to write")
    add("--num-frames", type=int, default=16, help="frames in a clip (default: 16)")
    add("--frame-interval", type=int, default=3, help="distance between a clip's frames in the video (default: 3)")
    add("--selection", choices=SELECTIONS, default="stride", help="how the frames are chosen (default: stride)")
    add("--quick", action="store_true", help="read only headers and first frames")
    words = "damaged videos: leave them out (raise, the default), or take what FFmpeg makes of them"
    add("--damaged", choices=WHEN_DAMAGED, default="raise", help=words)
    add("--clips", type=int, help=f"shapes: number of videos to draw (default: {DRAWN_BY_DEFAULT})")
    add("--split", type=Path, help="ucf101: take only the videos of this list, such as trainlist01.txt")
    frames = f"also write every frame, SIZE pixels square, for the original's joint training (default: {ORIGINAL_SIZE})"
    add("--frame-list", type=int, nargs="?", const=ORIGINAL_SIZE, metavar="SIZE", help=frames)
    return parser.parse_intermixed_args(argv)


def encode_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte encode`. Raises ValueError if --shard-size is out of range or a setting is wrong."""
    description = "Encode the latents of a data set once, and store them for training."
    parser = Parser(prog="latte encode", description=description)
    add = parser.add_argument
    add("--config", default="folder", help=f"a preset ({', '.join(PRESETS)}) or a file (default: folder)")
    add("--out", type=Path, required=True, help="folder to write; a stopped encoding in it is resumed")
    add("--text-encoder", metavar="FOLDER", help="also store embeddings of the captions, from the T5 of this model")
    add_download_option(parser)
    add("--shard-size", type=int, default=64, help="videos per file (default: 64)")
    add("--dtype", choices=LATENT_DTYPES, default="float16", help="type of the stored numbers (default: float16)")
    add_device_option(parser)
    add("changes", nargs="*", metavar="key=value", help="settings of the training to change, such as data=videos")
    args = parser.parse_intermixed_args(argv)
    if args.shard_size < 1:
        raise ValueError(f"--shard-size is {args.shard_size}; it must be 1 or more")
    check_changes(args.config, args.changes, network=False)
    return args


def train_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte train`. Raises ValueError if a setting is wrong, or --config is missing."""
    parser = Parser(prog="latte train", description="Train a model, or resume a training run.")
    add = parser.add_argument
    words = f"a preset ({', '.join(PRESETS)}), the config.yaml of a run, or a training configuration of the original "
    add("--config", help=words + "Latte; a new run needs one (default: the run's own settings)")
    add_run_options(parser, "steps=100 or model.depth=4")
    allow = "resume even if --config changes settings of the run; it uses the new values from then on, and records the "
    allow += "change; a key=value needs no flag"
    add("--allow-changes", action="store_true", help=allow)
    args = parser.parse_intermixed_args(argv)
    check_changes(args.config, args.changes)
    if not args.config and not args.run.exists():
        from latte.train.resolve import needs_config  # here, as in check_changes

        raise needs_config(args.run, args.changes)
    return args


def check_changes(source: str | None, changes: list[str], network: bool = True) -> None:
    """Raise ValueError for wrong settings, as latte.train.resolve.check_settings does."""
    from latte.train.resolve import check_settings  # here, because help texts can do without YAML

    check_settings(source or None, changes, network)


def add_run_options(parser: Parser, example: str) -> None:
    """Add the options that every command that trains has, with an example of its settings."""
    add = parser.add_argument
    folder = "the run folder; a run that stopped there is resumed (under torchrun use --run-dir, because torchrun has "
    folder += "its own --run)"
    add("--run", "--run-dir", type=Path, required=True, help=folder)
    resuming = "auto: resume from the newest intact checkpoint, if any; never: refuse a folder with checkpoints"
    add("--resume", choices=("auto", "never"), default="auto", help=resuming)
    add_device_option(parser)
    changes = f"settings to change, such as {example}; a resumed run uses the new value from then on, and records the "
    changes += "change"
    add("changes", nargs="*", metavar="key=value", help=changes)


def distill_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte distill`. Raises ValueError if --steps, the guidance or a setting is out of range."""
    description = "Distil a model into a student that samples in a few steps, with guidance built in."
    parser = Parser(prog="latte distill", description=description)
    add = parser.add_argument
    add("teacher", metavar="TEACHER", help="the model to learn from: a folder, a run, or a bundled model")
    add("--steps", type=int, default=4, help="evaluations of the student (default: 4)")
    words = "guidance scale to build in; 1 is none (default: from the teacher's folder)"
    add("--cfg-scale", type=float, help=words)
    words = "timesteps between which the teacher is guided (default: from its folder, or all)"
    add("--cfg-interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help=words)
    add_run_options(parser, "global_batch_size=8 or learning_rate=1e-4")
    args = parser.parse_intermixed_args(argv)
    check_model(args.teacher)
    if not 1 <= args.steps <= MOST_STUDENT_STEPS:
        raise ValueError(f"--steps is {args.steps}; a student takes 1 to {MOST_STUDENT_STEPS}")
    if args.cfg_scale is not None and not math.isfinite(args.cfg_scale):
        raise ValueError(f"--cfg-scale is {args.cfg_scale}; it must be a finite number")
    if args.cfg_interval is not None and not 0 <= args.cfg_interval[0] <= args.cfg_interval[1]:
        raise ValueError(f"--cfg-interval is {args.cfg_interval}; it must be two timesteps, the lower one first")
    if args.cfg_interval is not None and args.cfg_scale == 1:
        raise ValueError("--cfg-interval does nothing with --cfg-scale 1, which does not guide: leave it out")
    check_changes(None, args.changes)
    args.allow_changes = False
    return args


def average_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte average`."""
    description = "Make a model from a training run with another EMA length, chosen after training."
    parser = Parser(prog="latte average", description=description)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run that was trained with average_every=N")
    words = "length of the average: standard deviation of its steps, as a share of training, such as 0.01 to 0.25"
    add("--length", type=float, required=True, help=words)
    add("--step", type=int, help="after how many steps; one of the snapshots (default: the newest)")
    add("--out", type=Path, required=True, help="the folder to write: a model like the run's final/")
    return parser.parse_args(argv)


def plot_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte plot`. Raises ValueError if a value is out of range, or --out is not a picture."""
    parser = Parser(prog="latte plot", description="Plot the training curves of one or several runs.")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    words = "the picture to write, .png, .pdf or .svg (default: curves.png in the first run folder)"
    add("--out", type=Path, help=words)
    words = "draw the moving average of N logged values (default: 50)"
    add("--smooth", type=int, default=50, metavar="N", help=words)
    args = parser.parse_args(argv)
    if args.smooth < 1:
        raise ValueError(f"--smooth is {args.smooth}; it must be 1 or more")
    args.out = args.out or args.runs[0] / "curves.png"
    if args.out.suffix.lower() not in PICTURES:
        raise ValueError(f"{args.out} is not a picture: give a .png, .pdf or .svg")
    return args
