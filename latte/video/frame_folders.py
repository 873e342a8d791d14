"""Folders of pictures that are the frames of one video, in the order of the numbers in their names."""

import os
import re
from collections import Counter
from pathlib import Path

from latte.folder_tree import is_special
from latte.video.formats import PICTURE_SUFFIXES


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures directly inside a folder in the order of their numbers: frame 9 precedes frame 10."""

    def natural(path: Path) -> list[int | str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]

    with os.scandir(folder) as entries:  # which tells files without a system call for each
        pictures = [entry for entry in entries if Path(entry.name).suffix.lower() in PICTURE_SUFFIXES]
        plain = [folder / entry.name for entry in pictures if is_plain_file(entry) or not is_special(entry.path)]
    return sorted((path for path in plain if not path.name.startswith(".")), key=natural)


def is_plain_file(entry: os.DirEntry) -> bool:
    """Whether a folder's entry is a file or a link to one; False for a link that leads back to itself."""
    try:
        return entry.is_file()
    except OSError:
        return False


def list_frames(folder: Path) -> list[Path]:
    """Return the pictures of a folder as the frames of one video, in order.

    Raises:
        ValueError: Their names are those of several series, such as images and their masks.
    """
    pictures = list_pictures(folder)
    stems = [picture.stem.lower() for picture in pictures]
    if twice := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise ValueError(f"{folder} holds two pictures called {twice[0]}: keep one of each")
    if len({*map(len, stems)}) == 1 and all(re.fullmatch("[0-9a-f]+", stem) for stem in stems):
        return pictures  # hexadecimal numbers or hashes
    series: dict[tuple[str, ...], set[str]] = {}  # by the numbers in the names
    for stem in stems:
        if numbers := re.findall(r"\d+", stem):
            series.setdefault(tuple(number.lstrip("0") for number in numbers), set()).add(re.sub(r"\d+", "*", stem))
    if several := next((sorted(names) for names in series.values() if len(names) > 1), None):
        said = f"several series of pictures ({', '.join(several[:3])})"
        raise ValueError(f"{folder} holds {said}: keep the frames of one video in a folder")
    return pictures
