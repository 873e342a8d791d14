"""`latte plot`: the curves of one or several runs, as a picture."""

from pathlib import Path

from latte.commands.parser import Parser
from latte.train.curves import plot


def main(argv: list[str]) -> None:
    """Draw."""
    parser = Parser(prog="latte plot", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folders of one run or more")
    parser.add_argument("--out", type=Path, help="the picture (default: curves.png in the first run's folder)")
    parser.add_argument("--smooth", type=int, default=50, metavar="N", help="logged values that a curve is the mean of")
    args = parser.parse_args(argv)
    if args.smooth < 1:
        raise ValueError(f"--smooth is {args.smooth}; it must be 1 or more")
    out = args.out or args.runs[0] / "curves.png"
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{out}: give a .png, .pdf or .svg")
    print(plot(args.runs, out, args.smooth))
