"""`latte train`: trains a model, or resumes a training run."""

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import torch

from latte.device import default_device, usable_device
from latte.processes import Ranks, local_device, processes
from latte.train.base_config import TrainConfig
from latte.train.data.latents import open_data
from latte.train.loop import train
from latte.train.presets import resolve


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    device = usable_device(local_device(args.device or default_device()))
    with processes(device) as ranks:  # they meet first, because reading the data may take long
        train_together(args, device, ranks, lambda: resolve(args.config, args.changes, device))


def train_together(
    args: argparse.Namespace, device: torch.device, ranks: Ranks, settings: Callable[[], TrainConfig]
) -> None:
    """Open the data and train, in each of the processes.

    Args:
        args: The options of `latte train`, or of `latte distill`.
        device: What to compute on.
        ranks: This process among all.
        settings: Makes the configuration.
    """
    with warnings.catch_warnings():
        if not ranks.first:
            warnings.simplefilter("ignore")  # the first process shows the same warnings
        config = settings()
        clips = open_data(config)
    asked = config.tunable() if args.allow_changes else {change.partition("=")[0] for change in args.changes}
    result = train(config, args.run, clips, args.resume == "auto", device, asked, partial(print, flush=True))
    if ranks.first:
        print(f"{result}: trained for {config.steps} steps")
