"""The range of floats in arrays. All arrays of a data set must agree: a bright clip does not tell what is black."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from latte.video.array_files import find_videos, is_array_file, load_all, open_set, split_number


def stored_range(path: Path) -> str:
    """The range of a video's values if they are floats, such as "[-1, 1]"; otherwise "". Raises as read_array."""
    file, number = split_number(path)
    headers = find_videos(file)
    if all(header.dtype.kind != "f" for header in headers):
        return ""
    low, high = (load_all if number is None else open_set)(file, headers).black_white
    return f"[{low:g}, {high:g}]"


def check_ranges(source: object, paths: Iterable[Path]) -> None:
    """Raise ValueError if files of arrays differ in their range of floats, as far as they can be read."""
    files, ranges = {split_number(path)[0]: path for path in paths}, set()
    for file, path in files.items():  # the range of a set is that of all its videos
        if is_array_file(file):
            with suppress(ValueError, OSError):  # reading it reports what is wrong
                ranges.add(stored_range(path))
    refuse_two_ranges(source, ranges)


def refuse_two_ranges(source: object, ranges: Iterable[str]) -> None:
    """Raise ValueError if arrays have floats in more than one range, as `stored_range` names them."""
    if len(found := sorted(set(ranges) - {""})) > 1:
        some = " and others in ".join(found)
        raise ValueError(f"{source} holds arrays in {some}, so black is unclear: save them as uint8")
