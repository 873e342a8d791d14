"""Which device a command computes on."""

import argparse
import os

import torch


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """--device, by default cuda where there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help=f"what to compute on (here: {default})")


def local_device(name: str) -> str:
    """The device of this process among those that torchrun started on a machine. ValueError: which one is not said."""
    if name != "cuda" or "RANK" not in os.environ:
        return name
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("RANK is set and LOCAL_RANK is not: start the processes with torchrun")
    return f"cuda:{os.environ['LOCAL_RANK']}"


def usable_device(name: str) -> torch.device:
    """The device of that name. ValueError: there is none on this machine, or no kind that this project runs on."""
    try:
        if torch.device(name).type not in ("cpu", "cuda", "mps", "xpu"):
            raise ValueError(f"--device {name}: expected cpu, cuda, mps or xpu")
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: this machine has no such device") from error


def device_name(device: torch.device) -> str:
    """What results may depend on by rounding: a GPU's name, or "cpu" and the instructions that PyTorch uses on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
