"""The calls of two widely used tools: code written for them runs unchanged, except for the import.

| cd-fvd and common_metrics_on_video_quality | here |
|---|---|
| `from cdfvd import fvd` | `from latte.eval.compat import fvd` |
| `from calculate_fvd import calculate_fvd` | `from latte.eval.compat import calculate_fvd` |

`calculate_psnr`, `calculate_ssim` and `calculate_lpips` likewise. Arguments, their order and the results are those of
the tools; a warning says where their protocol differs from that of `latte.eval`. Nothing is downloaded: weights are
looked for in the current folder and in PyTorch's folder of checkpoints, and the error says where to get them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latte.eval.compat import fvd
    from latte.eval.compat.common_metrics import calculate_fvd, calculate_lpips, calculate_psnr, calculate_ssim

__all__ = ["calculate_fvd", "calculate_lpips", "calculate_psnr", "calculate_ssim", "fvd"]


def __getattr__(name: str) -> object:
    """The functions and the module above, imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'latte.eval.compat' has no attribute {name!r}")
    if name == "fvd":
        return import_module("latte.eval.compat.fvd")
    return getattr(import_module("latte.eval.compat.common_metrics"), name)
