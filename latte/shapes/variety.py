"""The variety of a set of clips: what share of them shows each colour or shape, and how evenly these are spread."""

import math
from collections import Counter
from collections.abc import Sequence


def shares(names: Sequence[str], choices: Sequence[str]) -> dict[str, float]:
    """The fraction of names that each choice has; all are 0 if there are no names."""
    counts = Counter(names)
    return {choice: counts[choice] / max(len(names), 1) for choice in choices}


def entropy(names: Sequence[str], choices: Sequence[str]) -> float:
    """How evenly names are spread over choices: their Shannon entropy, relative to the largest possible.

    Names that are not among the choices, such as "none", are left out: only recognised clips count. `shares` tells how
    many those are.

    Args:
        names: What each clip shows.
        choices: What it could show, two or more.

    Returns:
        Bits divided by log2(len(choices)): 0 if one choice has all names, or none has any; 1 if all have equally many.

    Raises:
        ValueError: There are fewer than two choices.
    """
    if len(choices) < 2:
        raise ValueError(f"entropy needs two choices or more; got {list(choices)}")
    known = shares([name for name in names if name in choices], choices)
    bits = sum(-share * math.log2(share) for share in known.values() if share)
    return bits / math.log2(len(choices))
