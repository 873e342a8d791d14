"""`latte train`: trains a model, or resumes a training run."""

import argparse
import warnings
from pathlib import Path

import torch

from latte.commands.parser import Parser, add_device_option
from latte.device import usable_device
from latte.processes import Ranks, local_device, processes
from latte.train.data.latents import open_data
from latte.train.loop import train
from latte.train.presets import PRESETS, resolve


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = Parser(prog="latte train", description=__doc__)
    parser.add_argument(
        "--config",
        default="shapes",
        help=f"a preset ({', '.join(PRESETS)}), the config.yaml of a run, or a training configuration of the original "
        "Latte (default: shapes)",
    )
    folder = "the run folder; a run that stopped there is resumed (under torchrun use --run-dir, because torchrun has "
    folder += "its own --run)"
    parser.add_argument("--run", "--run-dir", type=Path, required=True, help=folder)
    resuming = "auto: resume from the newest intact checkpoint, if any; never: refuse a folder with checkpoints"
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help=resuming)
    add_device_option(parser)
    allow = "resume also if --config has another learning_rate or the like than the run; a key=value needs no flag"
    parser.add_argument("--allow-changes", action="store_true", help=allow)
    changes = "settings to change, such as steps=100 or model.depth=4; a run that resumes takes a new learning_rate or "
    changes += "the like from there on, and records that"
    parser.add_argument("changes", nargs="*", metavar="key=value", help=changes)
    args = parser.parse_intermixed_args(argv)
    device = usable_device(local_device(args.device))
    with processes(device) as ranks:  # they meet first, because reading the data may take long
        train_together(args, device, ranks)


def train_together(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> None:
    """Open the data and train, in each of the processes."""
    with warnings.catch_warnings():
        if not ranks.first:
            warnings.simplefilter("ignore")  # the first process shows the same warnings
        config = resolve(args.config, args.changes, device)
        clips = open_data(config)
    asked = config.tunable() if args.allow_changes else {change.partition("=")[0] for change in args.changes}
    result = train(config, args.run, clips, args.resume == "auto", device, asked)
    print(f"{result}: trained for {config.steps} steps")
