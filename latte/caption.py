"""The former name of `latte.text.caption`, for scripts that import it."""

from latte.text.caption import clean

__all__ = ["clean"]
