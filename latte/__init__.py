"""Latte: the latent diffusion transformer for video (arXiv 2401.03048) in plain PyTorch."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`latte.LattePipeline` and `latte.load_model`, imported on first use: `import latte` alone loads no torch."""
    if name == "LattePipeline":
        from latte.pipeline import LattePipeline

        return LattePipeline
    if name == "load_model":
        from latte.weights.load import load_model

        return load_model
    raise AttributeError(f"module 'latte' has no attribute {name!r}")
