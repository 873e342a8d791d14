"""The former name of `latte.weights.load`, for scripts that import it."""

from latte.weights.load import BUNDLED, load_model

__all__ = ["BUNDLED", "load_model"]
