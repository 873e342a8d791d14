"""Pairs of a video and its reference: matched by name in folders, by position in lists and arrays."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from latte.eval.video_folders import videos_of
from latte.video.array_files import is_array_file, split_number
from latte.video.array_layout import frame_axes
from latte.video.array_ranges import check_ranges
from latte.video.pixels import as_tensor, channels_first, expect_videos
from latte.video.read import read_video

# A folder of videos, a list of video files, or uint8 videos (b, f, 3, h, w) or (b, f, h, w, 3)
PairedVideos = str | Path | Sequence[str | Path] | Tensor | np.ndarray


def match_pairs(videos: str | Path, reference: str | Path) -> list[tuple[Path, Path]]:
    """Pairs of videos with the same name below two folders; file suffixes are ignored.

    Raises:
        ValueError: One folder has a video that the other lacks, or two of one name, or arrays in more than one range.
            FileNotFoundError: no such folder.
    """
    ours, theirs = videos_by_name(Path(videos)), videos_by_name(Path(reference))
    lone = sorted(ours.keys() ^ theirs.keys())
    if lone or not ours:
        what = f"only {videos if lone[0] in ours else reference} has {lone[0]}" if lone else "they hold no videos"
        raise ValueError(f"{videos} and {reference} are not pairs: {what}")
    check_ranges(videos, ours.values())
    check_ranges(reference, theirs.values())
    return [(ours[name], theirs[name]) for name in sorted(ours)]


def videos_by_name(root: Path) -> dict[Path, Path]:
    """The videos of a folder, or of a file of arrays, by their names without the suffixes of files.

    Video 7 of the set samples.npz in a folder is called samples/000007.

    Raises:
        ValueError: If two have the same name. FileNotFoundError: There is no such folder or file of arrays.
    """
    if root.is_file() and not is_array_file(root):
        raise ValueError(f"{root} is a file: name a folder of videos, or a file of arrays (.npz or .npy)")
    found = {}
    for video in videos_of(root):
        file, number = split_number(video)
        name = file.relative_to(root)
        name = name if file.is_dir() or not name.suffix else name.with_suffix("")
        name = name if number is None else name / video.name
        if name in found:
            raise ValueError(f"{found[name]} and {video} have the same name: rename one, so that it has one reference")
        found[name] = video
    return found


def read_pair(video: str | Path, reference: str | Path) -> tuple[Tensor, Tensor]:
    """Two videos, uint8 (1, f, 3, h, w). Raises ValueError if they differ in size or length."""
    stored = [read_video(path, square_pixels=False)[0] for path in (video, reference)]
    return as_pair(*stored, f"{video} and {reference}")


def as_pair(video: Tensor, reference: Tensor, names: str) -> tuple[Tensor, Tensor]:
    """Two videos (f, 3, h, w) as (1, f, 3, h, w). Raises ValueError, with their names, if they differ in shape."""
    if video.shape != reference.shape:
        shapes = f"{tuple(video.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"{names} differ in shape (f, 3, h, w): {shapes}")
    return video[None], reference[None]


def open_pairs(videos: PairedVideos, reference: PairedVideos) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield videos and references (b, f, 3, h, w): folders and lists pair by pair, arrays as they are."""
    if isinstance(videos, str | Path) and isinstance(reference, str | Path):
        yield from (read_pair(*paths) for paths in match_pairs(videos, reference))
    elif isinstance(videos, list | tuple) and isinstance(reference, list | tuple):
        if len(videos) != len(reference) or not videos:
            raise ValueError(f"{len(videos)} videos and {len(reference)} references are not pairs: list one for each")
        for side, paths in (("videos", check_paths(videos)), ("references", check_paths(reference))):
            check_ranges(f"the list of {side}", map(Path, paths))
        yield from (read_pair(*paths) for paths in zip(videos, reference))
    elif isinstance(videos, Tensor | np.ndarray) and isinstance(reference, Tensor | np.ndarray):
        yield batch_of(videos), batch_of(reference)
    else:
        kinds = f"{type(videos).__name__} and {type(reference).__name__}"
        raise ValueError(f"expected two folders, two lists of video files, or two arrays of videos, not {kinds}")


def open_videos(videos: PairedVideos) -> Iterator[Tensor]:
    """Yield videos (b, f, 3, h, w): those of a folder or a list one by one, an array as it is."""
    if isinstance(videos, Tensor | np.ndarray):
        yield batch_of(videos)
        return
    if not isinstance(videos, str | Path | list | tuple):
        kind = type(videos).__name__
        raise ValueError(f"expected a folder, a list of video files, or an array of videos, not {kind}")
    paths = videos_of(Path(videos)) if isinstance(videos, str | Path) else check_paths(videos)
    if not paths:
        raise ValueError(
            f"{videos} holds no videos" if isinstance(videos, str | Path) else "the list of videos is empty"
        )
    check_ranges(videos if isinstance(videos, str | Path) else "the list of videos", map(Path, paths))
    for path in paths:
        yield read_video(path)[0][None]


def check_paths(videos: Sequence[str | Path]) -> Sequence[str | Path]:
    """A list of video files. Raises ValueError if it lists something else."""
    for i, video in enumerate(videos):
        if not isinstance(video, str | Path):
            kind = type(video).__name__
            raise ValueError(f"video {i} of the list: expected the path of a file, not {kind}; stack arrays into one")
    return videos


def batch_of(videos: Tensor | np.ndarray) -> Tensor:
    """uint8 videos (b, f, 3, h, w) or (b, f, h, w, 3) as (b, f, 3, h, w). Raises ValueError if they are not that."""
    tensor = as_tensor(videos)
    if tensor.ndim == 5 and frame_axes(tuple(tensor.shape)):
        tensor = channels_first(tensor)
    expect_videos(tensor)
    return tensor


def mean_over_pairs(measure: Callable[[Tensor, Tensor], float], videos: PairedVideos, reference: PairedVideos) -> float:
    """The mean of a metric over pairs."""
    values = [measure(*pair) for pair in open_pairs(videos, reference)]
    return sum(values) / len(values)
