"""The former name of `latte.weights.convert_latte`, for scripts that import it."""

from latte.weights.convert_latte import state_for_original

__all__ = ["state_for_original"]
