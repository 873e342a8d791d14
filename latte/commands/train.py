"""`latte train`: trains a model, or resumes a training run."""

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import torch

from latte.device import default_device, usable_device
from latte.folder_lock import exclusive
from latte.processes import Ranks, local_device, processes
from latte.train.base_config import TrainConfig
from latte.train.config_tables import from_settings
from latte.train.data.latents import open_data
from latte.train.loop import signals_before_steps, train
from latte.train.resolve import needs_config, resolve, with_changes
from latte.train.start import check_start, recorded_settings, with_precision


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    device = usable_device(local_device(args.device or default_device()))
    with processes(device) as ranks:  # they join first, because reading the data may take long
        train_together(args, device, ranks, lambda: configure(args, device))


def configure(args: argparse.Namespace, device: torch.device) -> TrainConfig:
    """The settings that the options name. Without --config, they are those of the existing run.

    Raises:
        ValueError: There is neither a run nor --config.
    """
    if args.config:
        return resolve(args.config, args.changes, device)
    recorded, _ = recorded_settings(args.run)
    if recorded:
        return from_settings(with_changes(recorded, args.changes))
    raise needs_config(args.run, args.changes)


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
    with warnings.catch_warnings(), signals_before_steps():
        if not ranks.first:
            warnings.simplefilter("ignore")  # the first process shows the same warnings
        config = settings()
        asked = config.tunable() if args.allow_changes else {change.partition("=")[0] for change in args.changes}
        with ranks.first_inside(lambda: exclusive(args.run)):
            config = ranks.first_only(lambda: with_precision(config, args.run, device))
            ranks.first_only(lambda: check_start(config, args.run, asked, args.resume == "auto"))
        clips = open_data(config)
    train(config, args.run, clips, args.resume == "auto", device, asked, partial(print, flush=True))
