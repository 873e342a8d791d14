"""`latte train`: a configuration, a folder, and key=value changes."""

import os
import warnings
from pathlib import Path

from latte.commands.parser import Parser, add_device_option
from latte.device import usable_device
from latte.processes import local_device
from latte.train.data.folders import open_clips
from latte.train.data.latents import stored_latents
from latte.train.loop import train
from latte.train.presets import PRESETS, resolve


def main(argv: list[str]) -> None:
    """Train, or go on where the run in that folder stopped."""
    parser = Parser(prog="latte train", description=__doc__)
    parser.add_argument(
        "--config",
        default="shapes",
        help=f"a preset ({', '.join(PRESETS)}), a run's config.yaml, or a training YAML of the original Latte",
    )
    folder = "the run's folder; a stopped run there is resumed (for torchrun --run-dir: it takes --run for its own)"
    parser.add_argument("--run", "--run-dir", type=Path, required=True, help=folder)
    resuming = "auto: go on from the newest sound checkpoint there, if there is one; never: refuse such a folder"
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help=resuming)
    add_device_option(parser)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="settings to change, such as steps=100")
    args = parser.parse_intermixed_args(argv)
    device = usable_device(local_device(args.device))
    with warnings.catch_warnings():
        if os.environ.get("RANK", "0") != "0":
            warnings.simplefilter("ignore")  # what all processes find, the first one tells
        config = resolve(args.config, args.changes)
        clips = stored_latents(config) or open_clips(config)
    result = train(config, args.run, clips, args.resume == "auto", device)
    print(f"{result}: trained for {config.steps} steps")
