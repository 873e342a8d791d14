"""`latte prepare`: check the videos of a data set by decoding them, and list those that training can use.

It writes OUT/index.json and OUT/report.txt. Videos are neither moved nor changed.
"""

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from latte.arguments import counted
from latte.files import one_line, replacing_folder, writable, write_text
from latte.progress import Progress
from latte.shapes.draw import make_clip
from latte.train.data.captions import Captions, caption_file
from latte.train.data.frame_list import FRAME_LIST, FRAMES, write_frames
from latte.train.data.layouts import (
    LAYOUTS,
    LeftOut,
    check_option,
    describe_ignored,
    reject_unprintable_classes,
)
from latte.train.data.video_list import (
    REPORT,
    VIDEO_LIST,
    VideoEntry,
    VideoList,
    open_video_list,
    size_in_bytes,
    with_contents,
    write_video_list,
)
from latte.train.data.windows import min_video_frames
from latte.video.array_ranges import check_ranges
from latte.video.damage import WhenDamaged
from latte.video.inspect import inspect_video
from latte.video.write import write_video

DRAWN_VIDEOS = "videos"
DRAWN_BY_DEFAULT = 256  # default number of videos to draw


@dataclass(frozen=True)
class ClipRule:
    """How training will take clips from the videos, which decides how long a video must be.

    Attributes:
        selection: A key of latte.train.data.windows.SELECTIONS.
        num_frames: Frames in a clip.
        frame_interval: Distance between them in the video.
    """

    selection: str = "stride"
    num_frames: int = 16
    frame_interval: int = 3

    def min_frames(self, kind: str) -> int:
        """Return how many frames a video of this kind of data set needs. Raises ValueError as `min_video_frames`."""
        needed = min_video_frames(self.selection, self.num_frames, self.frame_interval)
        longer = LAYOUTS[kind].crop_needs_more and self.selection == "crop"
        return self.num_frames * self.frame_interval + 1 if longer else needed


class CheckedVideos(NamedTuple):
    """The result of checking a data set.

    Attributes:
        videos: The usable videos.
        left_out: The others, and why.
        ignored: Files that were ignored because of their extension.
        remarks: Pairs of a usable video and a warning from reading it, such as pixels that are not square.
    """

    videos: VideoList
    left_out: list[LeftOut]
    ignored: list[Path]
    remarks: list[tuple[Path, str]]


def prepare_data_set(
    kind: str,
    source: Path | None,
    out: Path,
    rule: ClipRule,
    quick: bool = False,
    clips: int | None = None,
    split: Path | None = None,
    frame_list: int | None = None,
    damaged: WhenDamaged = "raise",
) -> str:
    """Check the videos of a data set and write a folder that training can read, atomically.

    Warns if the numbers of videos or classes are not the published ones.

    Args:
        kind: A key of latte.train.data.layouts.LAYOUTS.
        source: The folder of the data set; None for the kind "shapes".
        out: The folder to write. It may hold an earlier result, which is replaced.
        rule: How clips will be taken; shorter videos are left out.
        quick: Read only headers and first frames.
        clips: Number of videos to draw, for the kind "shapes"; None: DRAWN_BY_DEFAULT.
        split: Take only the videos of this list, for the kind "ucf101".
        frame_list: Also write every frame, this many pixels square; see `write_frames`. Not every kind has it.
        damaged: "raise" leaves damaged videos out; "take" lists them as such, and training reads them with
            FFmpeg's error concealment.

    Returns:
        The text of the report. Its first paragraph is a summary.

    Raises:
        OSError: The source or the split cannot be read, or `out` cannot be written.
        ValueError: The source does not fit its kind, no video can be used, options contradict each other or do not
            belong to the kind (`Layout.options`), or `out` holds something else.
    """
    if (source is None) != (kind == "shapes"):
        raise ValueError("shapes are drawn, not read: leave out the source" if source else f"{kind} needs a source")
    for name, value in (("clips", clips), ("split", split), ("frame_list", frame_list)):
        if value is not None:
            check_option(kind, name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if frame_list and quick:
        raise ValueError("frame_list decodes every frame: leave out quick")
    if damaged == "take" and quick:
        raise ValueError("damage shows only when every frame is decoded: leave out quick, or damaged")
    min_frames = rule.min_frames(kind)
    check_output_folder(out, source)
    checked = check_videos(kind, source_folder(source), min_frames, quick, split, damaged) if source else None
    with replacing_folder(out) as draft:
        checked = checked or check_videos(
            kind, draw_shapes(draft / DRAWN_VIDEOS, clips or DRAWN_BY_DEFAULT, min_frames), min_frames, quick
        )
        if frame_list:
            write_frames(checked.videos, draft, frame_list)
        videos = replace(checked.videos, frame_interval=rule.frame_interval)
        write_video_list(videos, draft, str(checked.videos.root) if source else DRAWN_VIDEOS)
        report = format_report(checked, rule, min_frames)
        write_text(draft / REPORT, report)
    return report


def source_folder(source: Path) -> Path:
    """The absolute path of a data set's folder. Raises OSError or ValueError if it is not a folder."""
    if not source.exists():
        raise FileNotFoundError(f"no folder at {source}")
    if not source.is_dir():
        raise ValueError(f"{source} is a file: unpack it, and give the folder")
    return source.resolve()


def check_output_folder(out: Path, source: Path | None) -> None:
    """Raise ValueError if `out` overlaps the source, cannot be written, or holds something else than our output."""
    advice = "choose another folder for --out"
    target, root = out.resolve(), source.resolve() if source else None
    if root and (target.is_relative_to(root) or root.is_relative_to(target)):
        raise ValueError(f"{out} and the source {source} overlap: {advice}")
    if not writable(target.parent):
        raise ValueError(f"{out} cannot be written: {advice}")
    # hidden files, such as drafts of killed processes, do not count
    names = {path.name for path in out.iterdir() if path.name[0] != "."} if out.is_dir() else set()
    if not out.exists() or (out.is_dir() and not names):
        return
    ours = out.is_dir() and names <= {VIDEO_LIST, REPORT, FRAMES, FRAME_LIST, DRAWN_VIDEOS}
    try:
        ours = ours and bool(open_video_list(out, verify_files=False))
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"{out} exists and was not written by `latte prepare`: {advice}")


def draw_shapes(root: Path, clips: int, frames: int) -> Path:
    """Write the first clips of the built-in shapes as lossless videos root/MOTION/NUMBER.mkv, with captions.

    Taking every n-th frame of a video gives the built-in clip of fewer frames, if n divides frames - 1.
    """
    for i in Progress(range(clips), desc="drawing", unit="clip", leave=False):
        clip = make_clip(0, i, frames=frames)
        path = write_video(clip.video, root / clip.motion / f"{i:06d}.mkv")
        write_text(caption_file(path), clip.caption + "\n")
    return root


def check_videos(
    kind: str, root: Path, min_frames: int, quick: bool, split: Path | None = None, damaged: WhenDamaged = "raise"
) -> CheckedVideos:
    """Find the videos of a data set and check each one.

    Args:
        kind: A key of LAYOUTS.
        root: The folder of the data set.
        min_frames: Frames that a video needs.
        quick: Read only headers and first frames.
        split: Take only the videos of this list.
        damaged: See prepare_data_set.

    Raises:
        ValueError: No video can be used, or the name of a class cannot be printed.
    """
    layout = LAYOUTS[kind]
    found = layout.find(root, split) if split else layout.find(root)
    reject_unprintable_classes(root, found.classes)
    if not split:
        warn_of_unpublished_counts(kind, len(found.videos), len(found.classes))
    videos, left_out, remarks, captions = [], list(found.left_out), [], Captions(root)
    for path, label in Progress(found.videos, desc="checking", unit="video", leave=False):
        try:
            caption = captions.of(path)
        except (OSError, ValueError) as error:
            left_out.append(LeftOut(path, "caption", str(error)))
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            checked = check_video(path, root, label, caption, min_frames, quick, damaged)
        if isinstance(checked, LeftOut):
            left_out.append(checked)
            continue
        videos.append(checked)
        remarks += [(path, str(warning.message).removeprefix(f"{path}").lstrip(": ")) for warning in caught]
    captions.warn_of_unused()
    if not videos:
        short = sum(video.problem == "short" for video in left_out)
        worn = sum(video.problem == "damaged" for video in left_out)
        hint = f"; {short} are too short: lower --frame-interval or --num-frames" if short else ""
        hint += f"; {worn} are damaged: --damaged take includes them" if worn else ""
        raise ValueError(
            f"{root}: none of {len(left_out)} videos can be used; the first is {left_out[0].path}: "
            f"{left_out[0].reason}{hint}"
        )
    if not quick:
        check_ranges(root, (root / video.path for video in videos))
    listed = VideoList(kind, root, found.classes, sorted(videos, key=lambda video: video.path))
    listed = listed if quick else with_contents(listed, root)
    return CheckedVideos(listed, left_out, found.ignored, remarks)


def warn_of_unpublished_counts(kind: str, videos: int, classes: int) -> None:
    """Warn of each number that differs from the published one."""
    found = {"videos": videos, "classes": classes}
    for what, published in LAYOUTS[kind].published.items():
        forms = {"videos": ("video", "videos"), "classes": ("class", "classes")}[what]
        if found[what] != published:
            said = f"{counted(found[what], *forms)} found; {kind} was published with {published:,}"
            warnings.warn(said, stacklevel=2)


def check_video(
    path: Path, root: Path, label: int, caption: str, min_frames: int, quick: bool, damaged: WhenDamaged
) -> VideoEntry | LeftOut:
    """Decode a video, and return its entry or why it cannot be used. Warns of resampled frames and concealed damage."""
    try:
        facts = inspect_video(path, quick)
        if facts.damage and damaged != "take":
            return LeftOut(path, "damaged", facts.damage)
        if facts.frames < min_frames:
            return LeftOut(path, "short", f"{facts.frames} frames, {min_frames} needed", facts.frames)
        if facts.resampled:
            size = f"{facts.width} x {facts.height}"
            warnings.warn(f"{path}: its pixels are not square; its frames are resampled to {size}", stacklevel=2)
        if facts.damage:
            said = f"{path}: it is damaged, and read with FFmpeg's error concealment"
            warnings.warn(f"{said}: {facts.damage}", stacklevel=2)
        size = facts.height, facts.width, size_in_bytes(path)
        name = path.relative_to(root).as_posix()
        return VideoEntry(name, label, facts.frames, *size, caption, damaged=bool(facts.damage))
    except (OSError, ValueError) as error:
        return LeftOut(path, "broken", str(error).removeprefix(f"{path} "))


def format_report(checked: CheckedVideos, rule: ClipRule, min_frames: int) -> str:
    """Format the counts, sizes and lengths, and every video that was left out, for people to read."""
    video_list, left_out, ignored, remarks = checked
    videos, lengths = video_list.videos, [video.frames for video in video_list.videos]
    captions, size = sum(bool(video.caption) for video in videos), sum(video.bytes for video in videos)
    problems, worn = Counter(video.problem for video in left_out), sum(video.damaged for video in videos)
    classes = counted(len(video_list.classes), "class", "classes") if video_list.classes else "no classes"
    kept_as = "used, with error concealment"
    why = ", ".join(f"{n:,} {problem}" for problem, n in problems.items())
    enough = replace(rule, frame_interval=1).min_frames(video_list.kind)
    closer = sum(video.problem == "short" and video.frames >= enough for video in left_out)
    kept = "long enough with --frame-interval 1"
    remarked = [
        (closer, f"short video is {kept}", f"short videos are {kept}"),
        (worn, f"damaged video is {kept_as}", f"damaged videos are {kept_as}"),
        (len(videos) - captions if captions else 0, "video has no caption", "videos have no caption"),
        (len(remarks), "remark on a video that is used", "remarks on videos that are used"),
    ]
    lines = [
        f"{video_list.kind}: {counted(len(videos), 'video')}, {classes}, {captions:,} with captions",
        f"{counted(sum(lengths), 'frame')}, {min(lengths):,} to {max(lengths):,} per video; {size:,} bytes",
        f"{len(left_out):,} left out" + (f": {why}" if left_out else ""),
        *([describe_ignored(ignored)] if ignored else []),
        *(counted(*words) for words in remarked if words[0]),
        f"a clip has {rule.num_frames} frames, chosen by {rule.selection} at interval {rule.frame_interval}; "
        f"videos need at least {min_frames} frames",
    ]
    sizes, per_class = Counter((v.width, v.height) for v in videos), Counter(v.label for v in videos)
    lines += ["", "width x height", *(f"  {n:7,}  {w} x {h}" for (w, h), n in sizes.most_common())]
    counts = [f"  {per_class[i]:7,}  {name}" for i, name in enumerate(video_list.classes)]
    left = [f"  {problem:9}  {one_line(path)}: {one_line(reason)}" for path, problem, reason, _ in sorted(left_out)]
    lines += ["", "classes", *(counts or ["  none"]), "", "left out", *(left or ["  none"])]
    lines += ["", "remarks", *(f"  {one_line(path)}: {one_line(text)}" for path, text in remarks)] if remarks else []
    return "\n".join(lines) + "\n"
