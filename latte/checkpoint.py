"""The former name of `latte.weights.load`, for scripts that import it."""

from latte.weights.load import load_model
from latte.weights.shared_parts import BUNDLED

__all__ = ["BUNDLED", "load_model"]
