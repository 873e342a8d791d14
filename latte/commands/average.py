"""`latte average`: makes a model of a training run with another average of its weights."""

from argparse import Namespace

from latte.train.snapshots import make_average


def main(args: Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: The run has no snapshots, the length is out of range, or --out holds something.
    """
    made = make_average(args.run, args.length, args.out, args.step)
    about = f"length {args.length:g} after step {made['step']}, of {made['snapshots']} snapshots"
    print(f"{args.out}: {about}; its profile is {100 * made['error']:.2g} % off")
