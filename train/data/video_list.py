"""The list of checked videos, index.json, that `latte prepare` writes and training reads."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from latte.arguments import counted
from latte.files import MOST_LIST_BYTES, read_json, write_json
from latte.folder_tree import is_special
from latte.train.data.content_digests import ContentDigests, progress
from latte.video.damage import WhenDamaged
from latte.video.frame_folders import list_pictures

VIDEO_LIST, VIDEO_LIST_FORMAT, REPORT = "index.json", "latte-videos-1", "report.txt"
ENTRY_TYPES = {"path": str, "class": int, "frames": int, "height": int, "width": int, "bytes": int, "caption": str}
ENTRY_TYPES |= {"sha256": str, "damaged": bool}
OPTIONAL = {"caption", "sha256", "damaged"}


@dataclass(frozen=True)
class VideoEntry:
    """A video of the list, and its properties."""

    path: str  # relative to the root, with "/"; a file or a folder of frames
    label: int  # index of its class; 0 if there are no classes
    frames: int
    height: int  # of the decoded frames, in pixels
    width: int
    bytes: int  # size of the file, or of the pictures in the folder
    caption: str = ""  # empty if there is none
    sha256: str = ""  # of the content (latte.train.data.content_digests); empty if it was not read
    damaged: bool = False  # taken although FFmpeg reports damage: it is read with damaged="take"

    @property
    def when_damaged(self) -> WhenDamaged:
        """How the video is read."""
        return "take" if self.damaged else "raise"

    def to_json(self) -> dict:
        """Return the entry as it is written to index.json."""
        values = {"path": self.path, "class": self.label, "frames": self.frames, "height": self.height}
        values |= {"width": self.width, "bytes": self.bytes}
        return values | {name: value for name in sorted(OPTIONAL) if (value := getattr(self, name))}


@dataclass(frozen=True)
class VideoList:
    """The videos of a data set."""

    kind: str  # a key of latte.train.data.layouts.LAYOUTS
    root: Path  # folder that the videos' paths are relative to
    classes: list[str]  # empty for unconditional training
    videos: list[VideoEntry]  # sorted by path
    frame_interval: int = 0  # distance between a clip's frames for which they were checked; 0: unknown

    @property
    def fingerprint(self) -> str:
        """sha256 of the class names and of all entries; it does not depend on the root's location."""
        about = [self.classes, [video.to_json() for video in self.videos]]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @property
    def former_fingerprint(self) -> str:
        """The fingerprint of earlier versions, which did not look at the content of videos."""
        return replace(self, videos=[replace(video, sha256="") for video in self.videos]).fingerprint

    def path(self, video: VideoEntry) -> Path:
        """Return the path of a video."""
        return self.root / video.path


def is_without_list(folder: Path) -> bool:
    """Whether a folder was written by `latte prepare`, as its report shows, but its list of videos is gone."""
    report = folder / REPORT
    if (folder / VIDEO_LIST).is_file() or not report.is_file():
        return False
    with report.open("rb") as file:
        return re.match(rb"\w+: [\d,]+ videos, [\w,]+ classes, ", file.read(200)) is not None


def write_video_list(video_list: VideoList, folder: Path, root: str) -> Path:
    """Write folder/index.json atomically.

    Args:
        video_list: What to write.
        folder: The folder to write to.
        root: The root to write: absolute, or relative to the folder in which the file will finally be.

    Returns:
        The path of the file.
    """
    values = {"format": VIDEO_LIST_FORMAT, "kind": video_list.kind, "root": root, "classes": video_list.classes}
    values |= {"frame_interval": video_list.frame_interval} if video_list.frame_interval else {}
    values |= {"fingerprint": video_list.fingerprint, "videos": [video.to_json() for video in video_list.videos]}
    return write_json(folder / VIDEO_LIST, values)


def open_video_list(path: str | Path, verify_files: bool = True) -> VideoList:
    """Read a list of videos.

    Args:
        path: The file, or the folder that holds it as index.json.
        verify_files: Also make sure that every video exists and still has its size. This is slow on a slow disk.

    Raises:
        FileNotFoundError: The file or the videos' root does not exist.
        ValueError: The file is not a list of videos, is damaged or was edited, has a path that leads out of the root,
            or a video is missing or has changed.
    """
    path = Path(path)
    path = path / VIDEO_LIST if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no list of videos at {path}: write one with `latte prepare`")
    values = read_json(path, MOST_LIST_BYTES)
    if values.get("format") != VIDEO_LIST_FORMAT:
        raise ValueError(f"{path} is not a list of videos by `latte prepare` (format {VIDEO_LIST_FORMAT})")
    video_list = parse_video_list(values, path)
    if verify_files:
        verify_videos(video_list, path)
    return video_list


class ListHead(NamedTuple):
    """The fields of a list of videos besides the videos; see `VideoList`."""

    kind: str = ""
    frame_interval: int = 0


def read_list_head(folder: Path) -> ListHead:
    """The head of the list that `latte prepare` wrote to a folder; empty if there is no readable list."""
    try:
        values = read_json(folder / VIDEO_LIST, MOST_LIST_BYTES)
        if values.get("format") != VIDEO_LIST_FORMAT:
            return ListHead()
        listed = parse_video_list(values, folder / VIDEO_LIST)
        return ListHead(listed.kind, listed.frame_interval)
    except (OSError, ValueError):
        return ListHead()  # opening the data reports what is wrong


def parse_video_list(values: dict, path: Path) -> VideoList:
    """Make a list from the JSON values of `path`. Raises ValueError if they were changed after writing."""
    damaged = ValueError(f"{path} is damaged or was edited: run `latte prepare` again")
    kind, root, classes, entries = (values.get(name) for name in ("kind", "root", "classes", "videos"))
    lists = isinstance(classes, list) and isinstance(entries, list)
    interval = values.get("frame_interval", 0)
    if type(interval) is not int or interval < 0:
        raise damaged
    if not (lists and isinstance(kind, str) and isinstance(root, str) and all(isinstance(c, str) for c in classes)):
        raise damaged
    for entry in entries:
        known = isinstance(entry, dict) and ENTRY_TYPES.keys() - OPTIONAL <= entry.keys() <= ENTRY_TYPES.keys()
        if not known or any(type(value) is not ENTRY_TYPES[name] for name, value in entry.items()):
            raise damaged
        relative = PurePosixPath(entry["path"])
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"{path}: {entry['path']!r} leads out of the folder of the videos")
        if not 0 <= entry["class"] < max(len(classes), 1):
            raise damaged
    videos = [VideoEntry(label=entry.pop("class"), **entry) for entry in entries]
    video_list = VideoList(kind, path.absolute().parent / root, classes, videos, interval)
    if video_list.fingerprint != values.get("fingerprint"):
        raise damaged
    return video_list


def verify_videos(video_list: VideoList, path: Path) -> None:
    """Raise FileNotFoundError or ValueError if a video of the list in `path` is missing or has a different size."""
    if not video_list.root.is_dir():
        raise FileNotFoundError(
            f"{path} lists videos in {video_list.root}, which does not exist: run `latte prepare` again"
        )
    differences = [(video, how) for video in video_list.videos if (how := difference(video_list.path(video), video))]
    refuse_differences(video_list, differences, path)


def with_contents(video_list: VideoList, path: Path) -> VideoList:
    """Add the digests of the videos that lack them.

    Args:
        video_list: The list.
        path: Where it was read from, for the message.

    Raises:
        OSError: A video cannot be read.
        ValueError: The content of a video is not what the list says.
    """
    with ContentDigests(video_list.root) as digests:
        found = [digests.of(video_list.path(video)) for video in progress(video_list.videos)]
    pairs = list(zip(video_list.videos, found))
    changed = [(video, "has different content") for video, sha256 in pairs if video.sha256 not in ("", sha256)]
    refuse_differences(video_list, changed, path)
    return replace(video_list, videos=[replace(video, sha256=sha256) for video, sha256 in pairs])


def refuse_differences(video_list: VideoList, differences: list[tuple[VideoEntry, str]], path: Path) -> None:
    """Raise ValueError if there are pairs of a video and how it differs from its entry in the list at `path`."""
    if differences:
        video, how = differences[0]
        of_all = f"of {counted(len(video_list.videos), 'video')}"
        changed = counted(len(differences), f"{of_all} has changed", f"{of_all} have changed")
        raise ValueError(f"{path}: {changed}; {video_list.path(video)} {how}: run `latte prepare` again")


def difference(path: Path, video: VideoEntry) -> str:
    """How the video at `path` differs from its entry; empty if it does not."""
    if not path.exists():
        return "is missing"
    if is_special(path):
        return "is a pipe, a socket or a device"
    size = size_in_bytes(path)
    return "" if size == video.bytes else f"has {size} bytes, not {video.bytes}"


def size_in_bytes(path: Path) -> int:
    """Return the size of a file, or of the pictures in a folder."""
    return sum(file.stat().st_size for file in (list_pictures(path) if path.is_dir() else [path]))
