"""The videos of a folder, of a list of `latte prepare`, of a file of arrays or of a list of files, and their names."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from latte.arguments import counted
from latte.files import MOST_LIST_BYTES, read_json
from latte.video.array_files import ARRAY_SUFFIXES, array_shape, is_array_file, set_paths, split_number
from latte.video.array_ranges import stored_range
from latte.video.find import scan_videos
from latte.video.formats import PICTURE_SUFFIXES, video_kind
from latte.video.frame_folders import list_pictures
from latte.video.inspect import inspect_video
from latte.weights.manifest import digest

VIDEO_LIST, LIST_FORMATS = "index.json", "latte-videos-"  # latte.train.data.video_list writes it


def videos_of(root: Path) -> list[Path]:
    """The videos of a folder, sorted.

    Those that cannot be read are included, so that their reader can count and name them. For a folder with a list by
    `latte prepare`, they are those of the list; for a file of arrays, those in it.

    Raises:
        FileNotFoundError: There is no such folder or file. ValueError: The list is damaged.
    """
    if root.is_file() and root.suffix.lower() in ARRAY_SUFFIXES:
        return set_paths(root)
    if listed := prepared_list(root):
        folder, names, _ = listed
        return [folder / name for name in names]
    scanned = scan_videos(root)
    found = sorted([*scanned.videos, *scanned.unreadable])
    return [video for path in found for video in (set_paths(path) if is_array_file(path) else [path])]


class PreparedList(NamedTuple):
    """A list by `latte prepare`: the folder of the videos, their names, and those that are taken though damaged."""

    root: Path
    names: list[str]
    damaged: list[str]


def prepared_list(folder: Path) -> PreparedList | None:
    """Read the list of `latte prepare` in a folder; None if there is no such list.

    Raises:
        ValueError: The list is damaged, or one of its paths leads out of the folder of the videos.
            FileNotFoundError: That folder does not exist.
    """
    path = folder / VIDEO_LIST
    try:
        values = read_json(path, MOST_LIST_BYTES) if path.is_file() else {}
    except ValueError as error:
        with path.open("rb") as file:
            if LIST_FORMATS.encode() in file.read(4096):
                raise ValueError(f"{error}: run `latte prepare` again") from error
        return None  # it belongs to something else
    if not str(values.get("format")).startswith(LIST_FORMATS):
        return None
    try:
        root, names = folder / values["root"], sorted(str(video["path"]) for video in values["videos"])
        damaged = [str(video["path"]) for video in values["videos"] if video.get("damaged")]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or was edited: run `latte prepare` again") from error
    if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"{path}: {outside[0]!r} leads out of the folder of the videos")
    if not root.is_dir():
        raise FileNotFoundError(f"{path} lists videos in {root}, which does not exist: run `latte prepare` again")
    return PreparedList(root, names, damaged)


def video_names(videos: str | Path | Sequence[str | Path]) -> tuple[Path, list[str]]:
    """A folder and the names of its videos below it; for a list of videos, their nearest common folder.

    Raises:
        ValueError: A list is empty, or names a file twice. FileNotFoundError: There is no such folder, or a file of a
            list is missing.
    """
    if isinstance(videos, str | Path):
        root = Path(videos)
        listed, paths = prepared_list(root), videos_of(root)
        if listed and not (listed.root.is_relative_to(root) and ".." not in listed.root.relative_to(root).parts):
            return listed.root, listed.names
        if paths != [root] or root.is_dir():
            return root, [path.relative_to(root).as_posix() for path in paths]
    else:
        paths = [Path(os.path.abspath(path)) for path in videos]
        if not paths:
            raise ValueError("the list of videos is empty: name at least two files")
        if twice := [path for path, count in Counter(paths).items() if count > 1]:
            raise ValueError(f"{twice[0]} is listed twice: name each video once")
        for path in paths:
            video_kind(path)  # raises FileNotFoundError for one that is missing
        paths = [video for path in paths for video in (set_paths(path) if is_array_file(path) else [path])]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return root, [path.relative_to(root).as_posix() for path in paths]


def taken_though_damaged(videos: str | Path | Sequence[str | Path]) -> frozenset[Path]:
    """The damaged videos that a list by `latte prepare` takes; empty for other videos."""
    listed = prepared_list(Path(videos)) if isinstance(videos, str | Path) else None
    return frozenset(listed.root / name for name in listed.damaged) if listed else frozenset()


def stored_as(path: Path) -> tuple[str, str]:
    """How the frames of a video are stored, and their size as they are read, such as "320x240".

    The first is the codec; for arrays it includes their range, unless that is the range of bytes, as in "npz [0, 1]".
    """
    if (kind := video_kind(path)) in ARRAY_SUFFIXES:
        _, height, width = array_shape(path)
        return f"{kind.removeprefix('.')} {stored_range(path)}".rstrip(), f"{width}x{height}"
    facts = inspect_video(path, quick=True)
    return facts.codec, f"{facts.width}x{facts.height}"


def content(path: Path) -> str:
    """The sha256 of a file, or of a folder's pictures in their order."""
    file, number = split_number(path)
    if number is not None:
        state = file.stat()
        return hashlib.sha256(f"{file_digest(file, state.st_size, state.st_mtime_ns)}/{number}".encode()).hexdigest()
    if not path.is_dir():
        return digest(path)
    return hashlib.sha256("".join(digest(picture) for picture in list_pictures(path)).encode()).hexdigest()


@lru_cache(maxsize=256)
def file_digest(file: Path, size: int, time: int) -> str:
    """The sha256 of a file of this size and time, which is computed once for all videos in it."""
    return digest(file)


def describe_files(folder: Path) -> str:
    """What a folder without videos holds, by suffix, for a message; empty if it holds no files."""
    if not folder.is_dir():
        return ""
    names = [name for _, _, files in os.walk(folder) for name in files if name[0] != "."]
    suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in names).most_common(3)
    return ", ".join(
        f"{counted(count, 'file')} with {suffix}" for suffix, count in suffixes if suffix not in PICTURE_SUFFIXES
    )
