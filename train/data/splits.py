"""Folders of a data set that are splits, such as train and val, and not classes."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

WORDS = ("trainval", "training", "train", "validation", "valid", "minival", "val", "development", "devel", "dev")
WORDS += ("testing", "tests", "test", "evaluation", "eval", "heldout", "holdout")
SPLIT = re.compile(rf"(?<![a-z])({'|'.join(WORDS)})(?:set|split)?(?![a-z])")
NEUTRAL = {"set", "split", "data", "video", "videos", "clip", "clips", "frame", "frames", "rawframes"}


def split_names(names: Iterable[str]) -> list[str]:
    """Return those of some folder names that are splits of one data set, such as "k400_train" and "k400_val".

    Args:
        names: Names of folders beside each other.

    Returns:
        The largest group of two or more names that differ in the word for a split, and else only in numbers and in
        words such as "videos"; sorted. It is empty if there is none: a lone "train" is as good as any class.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in sorted(names):
        plain = name.lower().replace("held-out", "heldout").replace("held_out", "heldout")
        if found := SPLIT.search(plain):
            rest = re.findall(r"[^\W\d_]+", plain[: found.start()] + " " + plain[found.end() :])
            groups[tuple(word for word in rest if word not in NEUTRAL)][name] = found[1]
    several = [group for group in groups.values() if len(set(group.values())) > 1]
    return sorted(max(several, key=len, default=()))


def reject_splits(root: Path, videos: Iterable[Path], classes: bool) -> None:
    """Refuse videos of several splits, at any depth, which training must not mix or take for classes.

    If splits lie beside folders of other names, they may be classes: then three of them, or the same subfolders in
    each, tell that they are splits. Otherwise a warning says what they are taken for.

    Args:
        root: The folder of the data set.
        videos: The paths of its videos.
        classes: Whether the folders in `root` would be classes.

    Raises:
        ValueError: There are several splits.
    """
    below: dict[PurePath, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # folder -> child -> its folders
    for path in videos:
        folders = path.relative_to(root).parts[:-1]
        for i, name in enumerate(folders):
            below[PurePath(*folders[:i])][name] |= set(folders[i + 1 : i + 2])
    for parent, children in sorted(below.items()):
        if not (splits := split_names(children)):
            continue
        shared = set.intersection(*(children[name] for name in splits))
        told = f"{root / parent} holds several splits, {abbreviate([root / parent / name for name in splits])}"
        if len(splits) == len(children) or len(splits) > 2 or shared or not classes or parent != PurePath():
            raise ValueError(f"{told}: give one of them")
        warnings.warn(f"{told}; they are taken for classes, like the folders beside them", stacklevel=3)


def abbreviate(items: list[Path] | list[str]) -> str:
    """The first three items and the number of the others, for a message."""
    return ", ".join(map(str, items[:3])) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
