"""`latte train`: trains a model, or resumes a training run."""

import argparse
import warnings

import torch

from latte.device import default_device, usable_device
from latte.processes import Ranks, local_device, processes
from latte.train.data.latents import open_data
from latte.train.loop import train
from latte.train.presets import resolve


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    device = usable_device(local_device(args.device or default_device()))
    with processes(device) as ranks:  # they meet first, because reading the data may take long
        train_together(args, device, ranks)


def train_together(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> None:
    """Open the data and train, in each of the processes."""
    with warnings.catch_warnings():
        if not ranks.first:
            warnings.simplefilter("ignore")  # the first process shows the same warnings
        config = resolve(args.config, args.changes, device)
        clips = open_data(config)
    asked = config.tunable() if args.allow_changes else {change.partition("=")[0] for change in args.changes}
    result = train(config, args.run, clips, args.resume == "auto", device, asked)
    print(f"{result}: trained for {config.steps} steps")
