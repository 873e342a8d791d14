"""`latte train`: a configuration, a folder, and key=value changes."""

from pathlib import Path

from latte.device import add_device_option, usable_device
from latte.parser import Parser
from latte.train.config import PRESETS, resolve
from latte.train.data import open_clips
from latte.train.loop import train


def main(argv: list[str]) -> None:
    """Train, or go on where the run in that folder stopped."""
    parser = Parser(prog="latte train", description=__doc__)
    parser.add_argument("--config", default="shapes", help=f"a preset ({', '.join(PRESETS)}) or a run's config.yaml")
    parser.add_argument("--run", type=Path, required=True, help="the run's folder; a stopped run there is resumed")
    parser.add_argument("--no-resume", action="store_true", help="refuse a folder that holds checkpoints")
    add_device_option(parser)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="settings to change, such as steps=100")
    args = parser.parse_intermixed_args(argv)
    config = resolve(args.config, args.changes)
    device = usable_device(args.device)
    result = train(config, args.run, open_clips(config), not args.no_resume, device)
    print(f"{result}: trained for {config.steps} steps")
