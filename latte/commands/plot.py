"""`latte plot`: plots the training curves of one run or several."""

from argparse import Namespace

from latte.train.curves import plot_curves


def main(args: Namespace) -> None:
    """Run the command."""
    print(plot_curves(args.runs, args.out, args.smooth))
