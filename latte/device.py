"""Which device a command computes on."""

import argparse

import torch


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """--device, by default cuda where there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help=f"what to compute on (here: {default})")


def usable_device(name: str) -> torch.device:
    """The device of that name. ValueError: there is none on this machine, or no kind that this project runs on."""
    try:
        if torch.device(name).type not in ("cpu", "cuda", "mps", "xpu"):
            raise ValueError(f"--device {name}: expected cpu, cuda, mps or xpu")
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: this machine has no such device") from error
