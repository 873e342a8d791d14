"""Which device a command computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Within it, forward and backward, CUDA's products and convolutions of float32 are that, or TF32 if so asked."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
