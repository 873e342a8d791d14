"""The options of `latte plan` and `latte calibrate`."""

from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from latte.arguments import check_count
from latte.commands.options.sampling import (
    add_plan_options,
    add_sampling_options,
    check_plan_options,
    check_sampling_ranges,
    read_prompts,
)
from latte.commands.parser import Parser, check_model, check_out_file
from latte.plans.named_rules import rules_help

CALIBRATE = """Search for which sampling steps to compute and what to reuse in the others, and write a plan.

Every plan is measured on the final videos of a few prompts or classes, against those of the exact plan.
"""
COSTS = ("flops", "time")
PICTURES = (".png", ".pdf", ".svg")
PLAN_FILE = ".json"


def plan_parser() -> Parser:
    """The options of `latte plan`."""
    description = "Print, draw or write what a plan computes, and its FLOPs, before anything is sampled."
    parser = Parser(
        prog="latte plan", description=description, formatter_class=RawDescriptionHelpFormatter, epilog=rules_help()
    )
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a folder, or a bundled model (default: shapes)")
    add_plan_options(parser)
    add("--tokens", type=int, default=120, help="tokens of a prompt, for text to video (default: 120)")
    add("--out", type=Path, help="also draw the plan, as a .png, .pdf or .svg file, or write it as a .json file")
    add_sampling_options(parser)
    return parser


def plan_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte plan`.

    Raises:
        ValueError: A value is out of range, or --out is neither a picture nor a plan.
    """
    args = plan_parser().parse_args(argv)
    check_model(args.model, args.download)
    check_sampling_ranges(args)
    check_plan_options(args)
    if args.out is not None and args.out.suffix.lower() not in (*PICTURES, PLAN_FILE):
        raise ValueError(f"--out {args.out} is neither a picture nor a plan: give a .png, .pdf or .svg, or a .json")
    check_out_file(args.out)
    if not 1 <= args.tokens <= 4096:
        raise ValueError(f"--tokens is {args.tokens}; it must be from 1 to 4096")
    return args


def calibrate_parser() -> Parser:
    """The options of `latte calibrate`."""
    parser = Parser(prog="latte calibrate", description=CALIBRATE)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a folder, or a bundled model (default: shapes)")
    words = "FLOPs or time that the plan may take, as a share of what the exact plan takes (default: 0.45)"
    add("--budget", type=float, default=0.45, metavar="SHARE", help=words)
    words = "what the budget counts: flops, or time, which is measured on this machine (default: flops)"
    add("--cost", choices=COSTS, default="flops", help=words)
    add("--videos", type=int, default=8, help="videos to measure on, as one batch; classes in turn (default: 8)")
    words = "a file of prompts, one per line (default: captions of the built-in shapes, for shapes-t2v)"
    add("--prompts", type=Path, metavar="FILE", help=words)
    add("--out", type=Path, default=Path("plan.json"), help="the plan to write (default: plan.json)")
    add_sampling_options(parser)
    return parser


def calibrate_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte calibrate`; --prompts becomes a list, and .given are the arguments as given.

    Raises:
        ValueError: A value is out of range.
    """
    args = calibrate_parser().parse_args(argv)
    args.given = argv
    check_model(args.model, args.download)
    check_sampling_ranges(args)
    check_count("--videos", args.videos, 256)
    check_out_file(args.out)
    if not 0 < args.budget <= 1:
        what = "FLOPs" if args.cost == "flops" else "time"
        raise ValueError(f"--budget is {args.budget:g}; it is a share of the exact {what}, above 0 and up to 1")
    args.prompts = None if args.prompts is None else read_prompts(args.prompts)
    return args
