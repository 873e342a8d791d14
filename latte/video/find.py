"""Find the videos in a folder: files, and folders of frames."""

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from latte.folder_tree import walk_tree
from latte.video.array_files import is_video_array
from latte.video.formats import PICTURE_SUFFIXES, STREAM_SUFFIXES, video_kind
from latte.video.page import OVERVIEWS, PAGE_FILE, is_page
from latte.video.read import count_picture_frames, decoding


def list_videos(folder: str | Path) -> list[Path]:
    """Find all videos in a folder and its subfolders.

    Links are followed. Hidden files and folders are skipped, which includes files that are still being written. Pipes,
    sockets, devices and npy files whose header cannot be read are skipped with a warning. An animated webp is a video;
    any other webp is a frame of the folder that it is in. Thumbnails beside videos, which are called like them or have
    no number, are not frames, and neither are the overviews of `latte sample`.

    Args:
        folder: Where to search.

    Returns:
        Every video file and every folder of frames (which may be `folder` itself), sorted.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    found = scan_videos(folder)
    for path, reason in found.unreadable.items():
        warnings.warn(f"left out: {path} cannot be read: {reason}", stacklevel=2)
    return found.videos


class FoundFiles(NamedTuple):
    """What lies in a folder and its subfolders.

    Attributes:
        videos: See `list_videos`.
        others: The other visible files, sorted.
        unreadable: Those among them that may be videos, as far as can be told from a damaged header, and the damage.
    """

    videos: list[Path]
    others: list[Path]
    unreadable: dict[Path, str]


def scan_videos(folder: str | Path) -> FoundFiles:
    """Find what `list_videos` does, and what else there is. Raises as `list_videos`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of videos at {folder}")
    visible = [path for path in walk_tree(folder) if not re.search(r"(^|/)\.", path.relative_to(folder).as_posix())]
    pages = {path.parent for path in visible if path.name == PAGE_FILE and is_page(path)}
    visible = [path for path in visible if path.parent not in pages or path.name not in OVERVIEWS]
    animated = {path for path in visible if path.suffix.lower() == ".webp" and is_animated(path)}
    streams = [path for path in visible if path.suffix.lower() in (*STREAM_SUFFIXES, ".npz") and not path.is_dir()]
    arrays, unreadable = [], {}
    for path in visible:
        try:
            arrays += [path] if is_video_array(path) else []
        except (ValueError, OSError) as error:
            unreadable[path] = getattr(error, "strerror", None) or str(error)
    files = [*streams, *arrays]
    pictures = {path for path in visible if path.suffix.lower() in PICTURE_SUFFIXES} - animated
    pictures -= thumbnails(pictures, [*files, *animated])
    others = set(visible) - {*files, *animated, *pictures}
    videos = {*files, *animated, *(path.parent for path in pictures)}
    return FoundFiles(sorted(videos), sorted(path for path in others if not path.is_dir()), unreadable)


def thumbnails(pictures: Iterable[Path], videos: Sequence[Path]) -> set[Path]:
    """The pictures beside videos that are no frames: they are called like one of the videos, or have no number."""
    called = {video.with_suffix("") for video in videos if video.suffix.lower() != ".npz"}  # may hold a frame's pose
    beside = {path.parent for path in called}
    unnumbered = {path for path in pictures if path.parent in beside and not re.search(r"\d", path.stem)}
    return unnumbered | {path for path in pictures if path.with_suffix("") in called}


def is_animated(path: Path) -> bool:
    """Whether a webp file has several frames. A file that cannot be opened is not animated."""
    try:
        video_kind(path)
        with decoding(path):
            return count_picture_frames(path) > 1
    except (OSError, ValueError):
        return False
