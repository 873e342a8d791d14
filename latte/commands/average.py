"""`latte average`: makes a model from a training run with another EMA length."""

from argparse import Namespace

from latte.train.snapshots import make_average


def main(args: Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: The run has no snapshots, the length is out of range, or --out is not empty.
    """
    made = make_average(args.run, args.length, args.out, args.step)
    about = f"length {args.length:g} after step {made['step']}, of {made['snapshots']} snapshots"
    print(f"{args.out}: {about}; its profile is {100 * made['error']:.2g} % off")
