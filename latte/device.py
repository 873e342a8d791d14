"""The device that a command computes on, and the precision of its float32 arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


def default_device() -> str:
    """The name of the device that is used if none is named: cuda if this machine has it, and cpu otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: str | None) -> torch.device:
    """Return a device by its name, with its index; None for the default one.

    Raises:
        ValueError: If this machine does not have it, or if this project does not run on its type.
    """
    device = existing_device(name or default_device())
    if device.type not in DEVICE_TYPES:
        raise ValueError(f"device {name!r}: unsupported device type; use one of {' '.join(DEVICE_TYPES)}")
    return device


def existing_device(name: str | int | torch.device) -> torch.device:
    """Return a device of any type, with its index. Raises ValueError if this machine does not have it."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device '{name}': this machine has no such device; use cpu, or check the drivers") from error


def device_name(device: torch.device) -> str:
    """Name the hardware that rounding depends on: the GPU's model, or "cpu" and the instruction set in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from the CPU, without waiting for the pending work of the device."""
    pins = x.device.type == "cpu" and device.type == "cuda"
    return (x.pin_memory() if pins else x).to(device, non_blocking=True)


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Set the precision of CUDA's float32 matrix products and convolutions, forward and backward, within the block.

    Args:
        precision: "tf32" allows TensorFloat-32, which is faster and keeps 10 bits of the mantissa. With anything else,
            such as "fp32" or "bf16", float32 is computed in full precision.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context, PyTorch computes in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
