"""`latte plot`: plots the training curves of one run or several."""

from pathlib import Path

from latte.commands.parser import Parser
from latte.train.curves import plot_curves


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = Parser(prog="latte plot", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--out",
        type=Path,
        help="the picture to write, .png, .pdf or .svg (default: curves.png in the first run folder)",
    )
    parser.add_argument(
        "--smooth", type=int, default=50, metavar="N", help="draw the moving average of N logged values (default: 50)"
    )
    args = parser.parse_args(argv)
    if args.smooth < 1:
        raise ValueError(f"--smooth is {args.smooth}; it must be 1 or more")
    out = args.out or args.runs[0] / "curves.png"
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{out} is not a picture: give a .png, .pdf or .svg")
    print(plot_curves(args.runs, out, args.smooth))
