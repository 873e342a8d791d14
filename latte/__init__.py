"""Latte: the latent diffusion transformer for video (arXiv 2401.03048) in plain PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline
    from latte.weights.load import load_model

__version__ = "0.1.0"
__all__ = ["LattePipeline", "__version__", "load_model"]

LAZY = {"LattePipeline": "latte.pipeline", "load_model": "latte.weights.load"}  # name -> where it is defined


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import latte` alone does not load PyTorch."""
    if name not in LAZY:
        raise AttributeError(f"module 'latte' has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    """List the lazy names too, for tab completion."""
    return sorted({*globals(), *__all__})
