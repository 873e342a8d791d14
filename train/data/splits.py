"""Recognising folders of a data set that are splits, such as train and val, not classes."""

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
    """Return the names of folders that are splits of one data set, such as "k400_train" and "k400_val".

    Args:
        names: Names of sibling folders.

    Returns:
        The names that differ from another one in the word for a split, and otherwise only in numbers and in words such
        as "videos"; sorted. Empty if only one name is a split: a lone "train" among others may well be a class.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in sorted(names):
        if (parts := split_of(name)) is not None:
            groups[parts[1]][name] = parts[0]
    return sorted(name for group in groups.values() if len(set(group.values())) > 1 for name in group)


def split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The word for a split in a folder's name, and its other meaningful words; None if it has no word for a split."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()  # trainA
    plain = plain.replace("held-out", "heldout").replace("held_out", "heldout")
    if (found := SPLIT.search(plain)) is None:
        return None
    rest = re.findall(r"[^\W\d_]+", plain[: found.start()] + " " + plain[found.end() :])
    return found[1], tuple(word for word in rest if word not in NEUTRAL)


def reject_splits(root: Path, videos: Iterable[Path], classes: bool) -> None:
    """Refuse videos of several splits, at any depth, which training must not mix or mistake for classes.

    Splits beside folders with other names may be classes. They count as splits if there are three or more of them, or
    if all have a subfolder in common. Otherwise a warning says that they are taken for classes.

    Args:
        root: The folder of the data set.
        videos: The paths of its videos.
        classes: Whether folders in `root` are classes if there are several.

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
            inside = ", or if each class has its splits, gather those of one split in a folder"
            raise ValueError(f"{told}: give one of them{inside if classes and parent != PurePath() else ''}")
        warnings.warn(f"{told}; they are taken for classes, like the folders beside them", stacklevel=3)


def warn_of_hidden_classes(root: Path, videos: Iterable[Path]) -> None:
    """Warn if all videos are in one folder, such as a split, whose subfolders are then not classes."""
    folders = {path.relative_to(root).parts[:-1][:2] for path in videos}
    inside = sorted(names[1] for names in folders if len(names) > 1)
    if len(inside) > 1 and len({names[:1] for names in folders}) == 1:
        only = next(iter(folders))[0]
        told = f"{root} holds all its videos in {only}, so the folders in it, {abbreviate(inside)}, are not classes"
        warnings.warn(f"{told}; if they should be, give {root / only}", stacklevel=3)


def abbreviate(items: list[Path] | list[str]) -> str:
    """The first three items and the number of the others, for a message."""
    return ", ".join(map(str, items[:3])) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
