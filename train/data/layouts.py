"""Layouts that data sets are published in: where their videos lie, which class each has, and what is often mistaken.

FaceForensics: avi or mp4 files at any depth. UCF101: Class/video. SkyTimelapse, Taichi-HD: a folder of numbered frames
for each clip, at any depth. As read by the original (Vchitect/Latte, datasets/).
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from latte.files import walk_tree
from latte.video.read import list_pictures, list_videos

ORIGINAL = (".avi", ".mp4")  # the video files that the original's data sets consist of
SPLIT = re.compile(r"(^|[_-])(train|test|val|valid|validation)$")  # how folders of a part of a data set are called


class LeftOut(NamedTuple):
    """A video that is not taken."""

    path: Path
    what: str  # "short", "broken", "misplaced" or "missing"
    reason: str


@dataclass
class Found:
    """What a folder holds; classes are sorted, and empty where there are none."""

    classes: list[str]
    videos: list[tuple[Path, int]]  # and each one's class
    left_out: list[LeftOut] = field(default_factory=list)


def find_files(root: Path) -> Found:
    """FaceForensics: every avi and mp4, without classes. ValueError: none, or several splits at once."""
    files = video_files(root)
    if not files:
        raise nothing(root, "avi or mp4 files")
    check_one_split(root)
    return Found([], [(path, 0) for path in files])


def find_classes(root: Path, split: Path | None = None) -> Found:
    """UCF101: Class/video, or only those that a split's list names, as in trainlist01.txt: "Class/video.avi 1".

    A class's number is its place among the sorted class folders, whatever the split takes of it.
    ValueError: class folders are elsewhere, above or below, or the list names none of their videos.
    """
    files = {path.relative_to(root): path for path in video_files(root)}
    if not files:
        raise nothing(root, "avi or mp4 files")
    depth, _ = Counter(min(len(inside.parts), 3) for inside in files).most_common(1)[0]
    if depth == 1:
        raise ValueError(
            f"{root} holds videos itself, where ucf101 has class folders: give {root.parent}, "
            "or use the kind ffs or folder if there are no classes"
        )
    if depth == 3:
        above = Counter(root.joinpath(*inside.parts[:-2]) for inside in files if len(inside.parts) > 2).most_common()
        deeper = some([folder for folder, _ in above])
        raise ValueError(
            f"{root} is too high: class folders of videos are in {deeper}; give the folder that holds them"
        )
    placed = {inside: path for inside, path in files.items() if len(inside.parts) == 2}
    classes = sorted({inside.parts[0] for inside in placed})
    aside = [LeftOut(path, "misplaced", "not in a class folder") for name, path in files.items() if name not in placed]
    if split:
        named = [Path(re.sub(r"\s+\d+$", "", line.strip())) for line in read_lines(split)]
        aside += [LeftOut(root / name, "missing", f"named in {split}") for name in named if name not in placed]
        placed = {name: placed[name] for name in named if name in placed}
        if not placed:
            raise ValueError(f"{split} names no video of {root}: its lines are Class/video.avi, as in trainlist01.txt")
    return Found(classes, sorted((path, classes.index(name.parts[0])) for name, path in placed.items()), aside)


def find_frames(root: Path) -> Found:
    """SkyTimelapse, Taichi-HD: every folder of pictures, without classes.

    The original puts frames in the order of the last number in their names; a folder whose pictures are read in
    another order is left out. ValueError: none, several splits at once, or `root` is one clip.
    """
    folders = [path for path in list_videos(root) if path.is_dir()]
    if root in folders:
        raise ValueError(f"{root} holds pictures itself, as one clip does: give the folder above the clips")
    if not folders:
        raise nothing(root, "folders of frames")
    check_one_split(root)
    wrong = {path: reason for path in folders if (reason := disorder(path))}
    aside = [LeftOut(path, "broken", reason) for path, reason in wrong.items()]
    return Found([], [(path, 0) for path in folders if path not in wrong], aside)


def find_any(root: Path) -> Found:
    """What `latte train data=FOLDER` takes: all that can be read; two sub-folders or more are classes."""
    videos = list_videos(root)
    if not videos:
        raise nothing(root, "videos")
    parts = {path: path.relative_to(root).parts for path in videos}
    classes = sorted({inside[0] for inside in parts.values() if len(inside) > 1})
    if len(classes) < 2:
        return Found([], [(path, 0) for path in videos])
    return Found(
        classes,
        [(path, classes.index(parts[path][0])) for path in videos if len(parts[path]) > 1],
        [LeftOut(path, "misplaced", "not in a class folder") for path in videos if len(parts[path]) < 2],
    )


@dataclass(frozen=True)
class Layout:
    """How videos are found, and how many were published."""

    find: Callable[..., Found]
    about: str
    published: dict[str, int] = field(default_factory=dict)  # "videos" and "classes"
    longer_than_crop: bool = False  # with the selection "crop" the original passes over videos of one crop or less


LAYOUTS = {
    "ffs": Layout(find_files, "FaceForensics: avi or mp4 files", {"videos": 704}),  # maxin-cn/FaceForensics, training
    "ucf101": Layout(find_classes, "UCF101: Class/video.avi", {"videos": 13320, "classes": 101}),
    "sky": Layout(find_frames, "SkyTimelapse: folders of frames", longer_than_crop=True),
    "taichi": Layout(find_frames, "Taichi-HD: folders of frames"),
    "folder": Layout(find_any, "any videos; sub-folders are classes"),
    "shapes": Layout(find_any, "the built-in moving shapes, written"),
}


def video_files(root: Path) -> list[Path]:
    """Files of the original's kinds at or below a folder, links that lead nowhere too, sorted."""
    return sorted(path for path in walk_tree(root) if path.suffix.lower() in ORIGINAL and not path.is_dir())


def read_lines(split: Path) -> list[str]:
    """The lines of a list that say something. OSError, ValueError: it cannot be read, or is no text."""
    try:
        return [line for line in split.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{split} is not a text file: give a list such as trainlist01.txt") from error


def disorder(folder: Path) -> str:
    """What is wrong with the numbers of a folder's pictures; empty: nothing."""
    last, before = -1, ""
    for name in (path.name for path in list_pictures(folder)):
        numbers = re.findall(r"\d+", name.split(".")[0])
        if not numbers:
            return f"{name} has no number in its name"
        if int(numbers[-1]) <= last:
            return f"{name} comes after {before}, against the last numbers of their names"
        last, before = int(numbers[-1]), name
    return ""


def check_one_split(root: Path) -> None:
    """ValueError: sub-folders are called like several splits, which training must not mix."""
    splits = sorted(path for path in root.iterdir() if path.is_dir() and SPLIT.search(path.name.lower()))
    if len(splits) > 1:
        raise ValueError(f"{root} holds several splits, {some(splits)}: give one of them")


def nothing(root: Path, wanted: str) -> ValueError:
    """The error for a folder without what a layout has: it says what there is, and which kind takes that."""
    videos = list_videos(root)
    files = sum(path.is_file() for path in videos)
    if files:
        there = f"{files} video files: `latte prepare folder` takes these (ffs and ucf101, only avi and mp4)"
    elif videos:
        there = f"{len(videos)} folders of frames: `latte prepare` sky, taichi or folder takes these"
    else:
        suffixes = Counter(path.suffix.lower() or "nameless" for path in walk_tree(root) if path.is_file())
        there = ", ".join(f"{n} {suffix} files" for suffix, n in suffixes.most_common(3)) or "nothing"
    return ValueError(f"{root} holds no {wanted}; it holds {there}")


def some(paths: list[Path]) -> str:
    """A few paths, for a message."""
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
