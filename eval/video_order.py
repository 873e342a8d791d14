"""The order in which a protocol takes videos. It depends only on their names and a seed."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence


def rank(seed: int, name: str) -> int:
    """A number that depends only on the seed and the name."""
    named = f"{seed}/{name}".encode(errors="surrogateescape")  # for names that are not UTF-8, as systems allow
    return int.from_bytes(hashlib.sha256(named).digest()[:8])


def in_order(names: Sequence[str], order: str, seed: int) -> list[str]:
    """Sort the names of videos.

    Args:
        names: Paths below their folder, with "/".
        order: "name"; "seed": by a hash of the seed and the name; or "class": the first of each subfolder by that hash,
            then the second of each, and so on, so that the first n names are spread evenly over the subfolders, to
            within one.
        seed: Seed of the hash.
    """
    if order == "name":
        return sorted(names)
    by_hash = sorted(names, key=lambda name: rank(seed, name))
    if order == "seed":
        return by_hash
    seen: Counter[str] = Counter()
    turns = {}
    for name in by_hash:
        folder = os.path.dirname(name)
        turns[name] = (seen[folder], rank(seed, folder))
        seen[folder] += 1
    return sorted(by_hash, key=turns.__getitem__)
