"""Mixed precision: the arithmetic in which networks compute. Weights, losses and averages stay in float32."""

import time
import warnings
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.device import one_thread
from latte.fast.training_blocks import attend_on_cpu
from latte.models.attention import AxialAttention, CrossAttention

COMPUTE_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SLOW = 1.5  # warn about a requested precision that is slower than float32 by more than this factor
PAYS = 0.8  # "auto" chooses bf16 below this share of float32's time, so that noise in timing does not decide


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context that computes matrix products and convolutions in a precision (Micikevicius et al. 2018).

    Args:
        precision: A name in latte.train.base_config.PRECISIONS.
        device: Where the network computes.

    Returns:
        The context; it does nothing for "fp32" and "tf32".
    """
    dtype = COMPUTE_DTYPES[precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def choose_precision(device: torch.device) -> str:
    """What "auto" stands for on a device: "bf16" if it is clearly faster there than float32, else "fp32"."""
    return "bf16" if slowdown("bf16", device.type) < PAYS else "fp32"


def warn_if_slow(precision: str, device: torch.device) -> None:
    """Warn if a device computes in a precision more slowly than in float32, with the measured factor."""
    if COMPUTE_DTYPES[precision] != torch.float32 and (factor := slowdown(precision, device.type)) > SLOW:
        advice = "precision=auto chooses the faster one"
        warnings.warn(f"precision={precision} is {factor:.0f} times as slow as fp32 here: {advice}", stacklevel=3)


@cache
def slowdown(precision: str, device_type: str) -> float:
    """The time of a small matrix product and a small convolution in a precision, relative to float32.

    It is measured once per process, in about 0.2 s, as the fastest of three calls. On a CPU it is the CPU time of one
    thread, which other load does not affect. CUDA reports whether it has units for bfloat16, which are known to be
    faster; the result is then 0.
    """
    if precision == "bf16" and device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return 0.0
    x, frames = torch.ones(256, 256, device=device_type), torch.ones(1, 16, 32, 32, device=device_type)
    kernel, clock = torch.ones(16, 16, 3, 3, device=device_type), time.perf_counter
    if device_type == "cpu":
        clock = time.thread_time

    def least_seconds(dtype: torch.dtype) -> float:
        a, b, c = (z.to(dtype) for z in (x, frames, kernel))
        seconds = []
        for _ in range(4):
            start = clock()
            (a @ a).sum().item(), F.conv2d(b, c).sum().item()  # the sums wait for the device
            seconds.append(clock() - start)
        return min(seconds[1:])  # the first call also sets up

    with one_thread():
        return least_seconds(COMPUTE_DTYPES[precision]) / least_seconds(torch.float32)


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a device supports a precision.

    Raises:
        ValueError: The device does not support it.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 is for CUDA; on {device.type} use fp32 or bf16")


def keep_in_float32(network: nn.Module, device: str | None = None) -> None:
    """Keep in float32 under autocast the layers that declare `full_precision = True`.

    They compute few numbers on which all others depend: the embedding of the timestep (in bfloat16 only 507 of 1000
    timesteps are distinct), the modulation of the norms, the last layer. On a CPU, attention stays in float32 too,
    unless latte.fast.training_blocks has replaced it: the backward pass of PyTorch's kernel is five times slower in
    bfloat16.

    Args:
        network: Changed in place: these layers become instances of a class that computes outside of autocast. (If
            `forward` were replaced on each instance, torch.compile would recompile for every block.)
        device: The type of the device that computes. None: that of the network's parameters.
    """
    for module in list(network.modules()):
        if getattr(module, "full_precision", False):
            module.__class__ = in_float32(type(module))
    if (device or next(network.parameters()).device.type) == "cpu":
        attend_in_float32(network)


@cache
def in_float32(kind: type[nn.Module]) -> type[nn.Module]:
    """A kind of layer whose forward(x) is computed outside of autocast."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return kind.forward(self, x.float() if x.is_floating_point() else x)

    return type(kind.__name__, (kind,), {"forward": forward})


def attend_in_float32(network: nn.Module) -> None:
    """Keep a network's attention in float32 under a CPU's autocast."""
    for module in network.modules():
        if isinstance(module, (AxialAttention, CrossAttention)) and module.attend is not attend_on_cpu:
            module.attend = outside_autocast(module.attend)


@cache
def outside_autocast(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A kind of attention that is computed in float32, outside of a CPU's autocast."""

    def in_full_precision(*tensors: Tensor | None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return attend(*(None if tensor is None else tensor.float() for tensor in tensors))

    return in_full_precision
