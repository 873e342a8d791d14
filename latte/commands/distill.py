"""`latte distill`: trains a student that samples in a few steps, or resumes its training."""

import argparse

from latte.commands.train import train_together
from latte.device import default_device, usable_device
from latte.processes import local_device, processes
from latte.train.student import student_config


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    device = usable_device(local_device(args.device or default_device()))
    interval = None if args.cfg_interval is None else tuple(args.cfg_interval)
    settings = lambda: student_config(args.teacher, args.steps, args.changes, args.cfg_scale, interval)
    with processes(device) as ranks:
        train_together(args, device, ranks, settings)
