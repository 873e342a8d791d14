"""`latte average`: makes a model of a training run with another average of its weights."""

from argparse import Namespace

from latte.train.checkpoint import step_of
from latte.train.snapshots import reconstruct, sound_snapshots, write_average


def main(args: Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: The run has no snapshots, the length is out of range, or --out holds something.
    """
    snapshots = sound_snapshots(args.run, args.step)
    tensors, error = reconstruct(snapshots, args.length)
    step = step_of(snapshots[-1])
    write_average(args.run, snapshots[-1], tensors, {"steps": step, "average": args.length}, args.out)
    about = f"length {args.length:g} after step {step}, of {len(snapshots)} snapshots"
    print(f"{args.out}: {about}; its profile is {100 * error:.2g} % off")
