"""A list of checked videos, index.json: what `latte prepare` writes and training reads."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from latte.files import read_json, write_json
from latte.video.read import list_pictures

VIDEO_LIST, VIDEO_LIST_FORMAT = "index.json", "latte-videos-1"
TYPES = {"path": str, "class": int, "frames": int, "height": int, "width": int, "bytes": int, "caption": str}


@dataclass(frozen=True)
class Video:
    """A video that was decoded: what is known of it."""

    path: str  # below the root, with "/"; a file or a folder of frames
    label: int  # its class, an index into the names; 0 where there are none
    frames: int
    height: int  # in pixels, as its frames are decoded
    width: int
    bytes: int  # of the file, or of the pictures of a folder
    caption: str = ""  # empty: none

    def entry(self) -> dict:
        """As JSON."""
        about = {"path": self.path, "class": self.label, "frames": self.frames, "height": self.height}
        about |= {"width": self.width, "bytes": self.bytes}
        return about | ({"caption": self.caption} if self.caption else {})


@dataclass(frozen=True)
class Index:
    """The videos of a data set, sorted by path."""

    kind: str  # of latte.train.data.layouts.LAYOUTS
    root: Path  # what paths are below
    classes: list[str]  # empty: unconditional
    videos: list[Video]

    @property
    def fingerprint(self) -> str:
        """sha256 over the names of the classes and all that is known of the videos, wherever they lie."""
        about = [self.classes, [video.entry() for video in self.videos]]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def path(self, video: Video) -> Path:
        """Where a video is."""
        return self.root / video.path


def write_index(index: Index, folder: Path, root: str) -> Path:
    """Write folder/index.json, whole or not at all; root: index.root, absolute or relative to where that will lie."""
    values = {"format": VIDEO_LIST_FORMAT, "kind": index.kind, "root": root, "classes": index.classes}
    values |= {"fingerprint": index.fingerprint, "videos": [video.entry() for video in index.videos]}
    return write_json(folder / VIDEO_LIST, values)


def open_index(path: str | Path, check: bool = True) -> Index:
    """The list in a file, or in a folder's index.json.

    check: also look that every video is there and has the size that it had; on a slow disk that takes a while.
    FileNotFoundError: no such file, or the root is gone. ValueError: it is damaged, changed by hand or no such list, a
    path leads out of the root, or a video is gone or has changed.
    """
    path = Path(path)
    path = path / VIDEO_LIST if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no list of videos at {path}: `latte prepare` writes one")
    values = read_json(path)
    if values.get("format") != VIDEO_LIST_FORMAT:
        raise ValueError(f"{path} is not a list that `latte prepare` wrote (format {VIDEO_LIST_FORMAT})")
    index = parsed(values, path)
    if not check:
        return index
    if not index.root.is_dir():
        raise FileNotFoundError(f"{path}: its videos were in {index.root}, which is gone: prepare it again")
    changed = [(video, reason) for video in index.videos if (reason := change(index.path(video), video))]
    if changed:
        video, reason = changed[0]
        raise ValueError(
            f"{path}: {len(changed)} of {len(index.videos)} videos are not what they were; {index.path(video)} "
            f"{reason}: prepare it again"
        )
    return index


def parsed(values: dict, path: Path) -> Index:
    """The list that a JSON object of ours is. ValueError: it is damaged."""
    damaged = ValueError(f"{path} is damaged or was changed by hand: prepare it again")
    kind, root, classes, entries = (values.get(name) for name in ("kind", "root", "classes", "videos"))
    lists = isinstance(classes, list) and isinstance(entries, list)
    if not (lists and isinstance(kind, str) and isinstance(root, str) and all(isinstance(c, str) for c in classes)):
        raise damaged
    for entry in entries:
        known = isinstance(entry, dict) and TYPES.keys() - {"caption"} <= entry.keys() <= TYPES.keys()
        if not known or any(type(value) is not TYPES[name] for name, value in entry.items()):
            raise damaged
        inside = PurePosixPath(entry["path"])
        if inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{path}: {entry['path']!r} leads out of the folder of the videos")
        if not 0 <= entry["class"] < max(len(classes), 1):
            raise damaged
    videos = [Video(label=entry.pop("class"), **entry) for entry in entries]
    index = Index(kind, path.absolute().parent / root, classes, videos)
    if index.fingerprint != values.get("fingerprint"):
        raise damaged
    return index


def change(path: Path, video: Video) -> str:
    """How a video differs from what was written down; empty: it does not."""
    if not path.exists():
        return "is gone"
    size = size_of(path)
    return "" if size == video.bytes else f"has {size} bytes, not {video.bytes}"


def size_of(path: Path) -> int:
    """Bytes of a file, or of the pictures of a folder."""
    return sum(file.stat().st_size for file in (list_pictures(path) if path.is_dir() else [path]))
