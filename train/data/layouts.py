"""How published data sets are laid out: where their videos are and which class each one has.

The layouts are those that the original reads (Vchitect/Latte, datasets/). FaceForensics: avi or mp4 files at any depth.
UCF101: Class/video.avi. SkyTimelapse and Taichi-HD: a folder of numbered frames for each video, at any depth. A folder
that does not fit its layout is rejected with an error that says what to give instead.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from latte.arguments import counted
from latte.files import read_lines
from latte.folder_tree import walk_tree
from latte.train.data.captions import without_captions
from latte.train.data.splits import abbreviate, reject_splits, warn_of_hidden_classes
from latte.video.find import list_videos, scan_videos
from latte.video.frame_folders import list_pictures

ORIGINAL_SUFFIXES = (".avi", ".mp4")  # of the video files in the original's data sets


class LeftOut(NamedTuple):
    """A video that is not used."""

    path: Path
    problem: str  # "short", "broken", "damaged", "caption", "misplaced" or "missing"
    reason: str
    frames: int = 0  # of one that is short


@dataclass
class FoundVideos:
    """The videos of a folder.

    Attributes:
        classes: Names of the classes, sorted; empty if there are none.
        videos: Pairs of a video and the index of its class (0 if there are no classes), sorted.
        left_out: Videos that do not fit the layout.
        ignored: Files that are ignored because of their extension, captions excepted.
    """

    classes: list[str]
    videos: list[tuple[Path, int]]
    left_out: list[LeftOut] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)


def find_faceforensics(root: Path) -> FoundVideos:
    """Find every avi and mp4 file, without classes.

    Raises:
        ValueError: There are none, or `root` holds several splits.
    """
    files, others = scan_original_videos(root)
    if not files:
        raise nothing_found(root, "avi or mp4 files")
    reject_splits(root, files, classes=False)
    return FoundVideos([], [(path, 0) for path in files], ignored=without_captions(others, files))


def find_ucf101(root: Path, split: Path | None = None) -> FoundVideos:
    """Find the videos Class/video.

    The index of a class is its position among all class folders, sorted, even if a split uses only some of them.

    Args:
        root: The folder that holds the class folders.
        split: Take only the videos of this list, such as trainlist01.txt with lines "Class/video.avi 1".

    Raises:
        OSError: The list cannot be read.
        ValueError: There are no videos, the class folders are above or below `root`, or the list names none of their
            videos.
    """
    found, others = scan_original_videos(root)
    if not found:
        raise nothing_found(root, "avi or mp4 files")
    reject_splits(root, found, classes=True)
    files = {path.relative_to(root): path for path in found}
    reject_wrong_depth(root, list(files))
    in_class = {relative: path for relative, path in files.items() if len(relative.parts) == 2}
    classes = sorted({relative.parts[0] for relative in in_class})
    left_out = [outside_classes(path) for relative, path in files.items() if relative not in in_class]
    if split:
        listed = [Path(re.sub(r"\s+\d+$", "", line)) for line in read_split(split)]
        left_out += [LeftOut(root / name, "missing", f"named in {split}") for name in listed if name not in in_class]
        in_class = {name: in_class[name] for name in listed if name in in_class}
        if not in_class:
            raise ValueError(
                f"{split} names no video of {root}: its lines must be Class/video.avi, as in trainlist01.txt"
            )
    videos = sorted((path, classes.index(relative.parts[0])) for relative, path in in_class.items())
    return FoundVideos(class_names(classes), videos, left_out, without_captions(others, found))


def find_frame_folders(root: Path) -> FoundVideos:
    """Find every folder of pictures, without classes: SkyTimelapse and Taichi-HD.

    The original sorts frames by the last number in their names. A folder whose pictures we would read in another order
    is left out.

    Raises:
        ValueError: There are none, `root` holds several splits, or `root` is itself a folder of pictures.
    """
    found, others, _ = scan_videos(root)
    folders = [path for path in found if path.is_dir()]
    if root in folders:
        raise ValueError(f"{root} holds pictures, so it is a single clip: give the folder that holds the clips")
    if not folders:
        raise nothing_found(root, "folders of frames")
    reject_splits(root, folders, classes=False)
    problems = {path: problem for path in folders if (problem := frame_order_problem(path))}
    left_out = [LeftOut(path, "broken", problem) for path, problem in problems.items()]
    ignored = without_captions([*others, *(path for path in found if path not in folders)], folders)
    return FoundVideos([], [(path, 0) for path in folders if path not in problems], left_out, ignored)


def find_any_videos(root: Path, classes: bool = True) -> FoundVideos:
    """Find everything that can be read; two or more subfolders of videos are the classes.

    Args:
        root: The folder.
        classes: If False, subfolders are not classes, and the videos have none.

    Raises:
        FileNotFoundError: `root` does not exist.
        ValueError: It holds no videos, or those of several splits.
    """
    videos, others, unreadable = scan_videos(root)
    if not videos:
        raise nothing_found(root, "videos")
    parts = {path: path.relative_to(root).parts for path in videos}
    folders = sorted({names[0] for names in parts.values() if len(names) > 1})
    if classes:
        warn_of_hidden_classes(root, videos)
    classes = classes and len(folders) > 1
    reject_splits(root, videos, classes)
    ignored = without_captions([path for path in others if path not in unreadable], videos)
    left_out = [LeftOut(path, "broken", f"cannot be read: {reason}") for path, reason in unreadable.items()]
    if not classes:
        return FoundVideos([], [(path, 0) for path in videos], left_out, ignored)
    return FoundVideos(
        class_names(folders),
        [(path, folders.index(parts[path][0])) for path in videos if len(parts[path]) > 1],
        [*left_out, *(outside_classes(path) for path in videos if len(parts[path]) < 2)],
        ignored,
    )


@dataclass(frozen=True)
class Layout:
    """How the videos of a kind of data set are found.

    Attributes:
        find: (root) -> its videos; for UCF101 it also takes a split.
        description: For the help of `latte prepare`.
        options: Options of `prepare_data_set` that not every kind of data set has.
        published: Published numbers of "videos" and "classes", as far as known.
        crop_needs_more: With the selection "crop", the original skips videos that are exactly one crop long.
    """

    find: Callable[..., FoundVideos]
    description: str
    options: tuple[str, ...] = ()
    published: dict[str, int] = field(default_factory=dict)
    crop_needs_more: bool = False


LAYOUTS = {
    # the number of videos is that of maxin-cn/FaceForensics
    "ffs": Layout(find_faceforensics, "FaceForensics: avi or mp4 files", ("frame_list",), {"videos": 704}),
    "ucf101": Layout(
        find_ucf101, "UCF101: Class/video.avi", ("split", "frame_list"), {"videos": 13320, "classes": 101}
    ),
    "sky": Layout(find_frame_folders, "SkyTimelapse: folders of frames", crop_needs_more=True),
    "taichi": Layout(find_frame_folders, "Taichi-HD: folders of frames"),
    "folder": Layout(find_any_videos, "any videos; two or more subfolders are classes", ("frame_list",)),
    "shapes": Layout(find_any_videos, "the built-in moving shapes, written as videos", ("clips", "frame_list")),
}


def check_option(kind: str, name: str) -> None:
    """Raise ValueError if a kind of data set does not have an option."""
    if name not in LAYOUTS[kind].options:
        kinds = [other for other, layout in LAYOUTS.items() if name in layout.options]
        raise ValueError(f"{name} is for {abbreviate(kinds)}, not for {kind}: leave it out")


def scan_original_videos(root: Path) -> tuple[list[Path], list[Path]]:
    """Return all visible avi and mp4 files at or below a folder, and all other visible files, both sorted.

    Broken links are included, to be reported later.
    """
    hidden = lambda path: any(part.startswith(".") for part in path.relative_to(root).parts)
    files = sorted(path for path in walk_tree(root) if not path.is_dir() and not hidden(path))
    videos = [path for path in files if path.suffix.lower() in ORIGINAL_SUFFIXES]
    return videos, [path for path in files if path.suffix.lower() not in ORIGINAL_SUFFIXES]


def describe_ignored(files: list[Path]) -> str:
    """Say how many files are ignored because of which extensions; the most frequent ones come first."""
    counts = Counter(path.suffix.lower() or "none" for path in files)
    named = [f"{n:,} {suffix}" if len(counts) > 1 else suffix for suffix, n in counts.most_common(12)]
    which = ", ".join(named) + (f" and {len(counts) - 12} other extensions" if len(counts) > 12 else "")
    them = "its extension" if len(files) == 1 else f"their extension{'s' if len(counts) > 1 else ''}"
    return f"{counted(len(files), 'file is', 'files are')} ignored because of {them} ({which})"


def read_split(split: Path) -> list[str]:
    """Return the non-empty lines of a split's list. Raises ValueError if it is not a text in UTF-8."""
    try:
        return read_lines(split)
    except ValueError as error:
        raise ValueError(f"{error}: give a list such as trainlist01.txt") from error


def class_names(folders: list[str]) -> list[str]:
    """Class names from the names of folders: a byte that is not UTF-8 is written as in "caf\\xe9"."""
    return [os.fsencode(name).decode("utf-8", "backslashreplace") for name in folders]


def outside_classes(path: Path) -> LeftOut:
    return LeftOut(path, "misplaced", "not in a class folder")


def frame_order_problem(folder: Path) -> str:
    """What is wrong with the numbers in the names of a folder's pictures; empty if they ascend."""
    previous_number, previous = -1, ""
    for name in (path.name for path in list_pictures(folder)):
        numbers = re.findall(r"\d+", name.split(".")[0])
        if not numbers:
            return f"{name} has no number in its name"
        if int(numbers[-1]) <= previous_number:
            return f"{name} comes after {previous}, but the last numbers in their names do not ascend"
        previous_number, previous = int(numbers[-1]), name
    return ""


def reject_wrong_depth(root: Path, videos: list[Path]) -> None:
    """Raise ValueError if most videos, relative to `root`, are not in class folders Class/video."""
    depth, _ = Counter(min(len(path.parts), 3) for path in videos).most_common(1)[0]
    if depth == 1:
        raise ValueError(
            f"{root} holds videos directly, but ucf101 needs class folders: give {root.parent}, "
            "or use the kind ffs or folder if there are no classes"
        )
    if depth == 3:
        folders = Counter(root.joinpath(*path.parts[:-2]) for path in videos if len(path.parts) > 2).most_common()
        raise ValueError(
            f"{root} is too high: the class folders are in {abbreviate([folder for folder, _ in folders])}; "
            "give the folder that holds them"
        )


def reject_unprintable_classes(root: Path, classes: list[str]) -> None:
    """Raise ValueError if the name of a class cannot be shown."""
    if odd := [name for name in classes if not name.isprintable()]:
        raise ValueError(f"{root}: the name of the class folder {odd[0]!r} cannot be printed: rename it")


def nothing_found(root: Path, wanted: str) -> ValueError:
    """The error for a folder that lacks what its layout needs: it says what is there, and which kind can read it."""
    videos = list_videos(root)
    files = sum(path.is_file() for path in videos)
    if files:
        content = f"{files} video files, which `latte prepare folder` can read (ffs and ucf101 take only avi and mp4)"
    elif videos:
        content = f"{len(videos)} folders of frames, which `latte prepare` sky, taichi or folder can read"
    else:
        suffixes = Counter(path.suffix.lower() or "nameless" for path in walk_tree(root) if path.is_file())
        content = ", ".join(f"{n} {suffix} files" for suffix, n in suffixes.most_common(3)) or "nothing"
    return ValueError(f"{root} holds no {wanted}; it holds {content}")
