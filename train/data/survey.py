"""`latte prepare`: a data set as it was published, each video checked by decoding it, as a list for training.

Writes OUT/index.json and OUT/report.txt; nothing is copied, and nothing in SRC is touched.
"""

import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from latte.files import one_line, replacing_folder, writable, write_text
from latte.shapes.draw import make_clip
from latte.train.data.folders import caption_of
from latte.train.data.layouts import LAYOUTS, LeftOut
from latte.train.data.video_list import VIDEO_LIST, Index, Video, open_index, size_of, write_index
from latte.train.data.windows import least_frames
from latte.video.pixels import resize_and_crop
from latte.video.read import count_frames, read_blocks, read_video
from latte.video.write import write_video

REPORT, FRAMES, FRAME_LIST, SHAPES = "report.txt", "frames", "train_list.txt", "videos"
FEW = 8  # frames that are decoded at a time: large ones take much memory
ORIGINAL_SIZE = 256  # of the frames that the original's joint training reads


@dataclass(frozen=True)
class Rule:
    """The clips that are to be found in a video, and with that what is too short."""

    selection: str = "stride"  # of latte.train.data.windows.SELECTIONS
    num_frames: int = 16
    frame_interval: int = 3

    def least(self, kind: str) -> int:
        """Frames that a video needs. ValueError: no such selection, or a number below 1."""
        least = least_frames(self.selection, self.num_frames, self.frame_interval)
        longer = LAYOUTS[kind].longer_than_crop and self.selection == "crop"
        return self.num_frames * self.frame_interval + 1 if longer else least


def prepare(
    kind: str,
    source: Path | None,
    out: Path,
    rule: Rule,
    quick: bool = False,
    clips: int = 256,
    split: Path | None = None,
    frame_list: int | None = None,
) -> str:
    """Check the videos of `source` and write `out`, whole or not at all; the report of what was found.

    quick: only headers and first frames are read. clips: of the kind "shapes", which has no source. split: a list of
    UCF101's videos. frame_list: also write every frame, as a square of so many pixels, and the list of them.
    Warnings: the numbers of videos or of classes are not the published ones. OSError, ValueError: the source is not of
    that kind (latte.train.data.layouts), no video can be used, or `out` holds what is not to be lost.
    """
    if (source is None) != (kind == "shapes"):
        raise ValueError("shapes are drawn, not read: leave out the source" if source else f"{kind} needs a source")
    for name, number in (("clips", clips), ("frame_list", frame_list)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}; it must be 1 or more")
    if frame_list and quick:
        raise ValueError("frame_list decodes every frame: leave out quick")
    least = rule.least(kind)
    check_target(out, source)
    surveyed = survey(kind, existing(source).resolve(), least, quick, split) if source else None
    with replacing_folder(out) as draft:
        index, left_out = surveyed or survey(kind, write_shapes(draft / SHAPES, clips, least), least, quick)
        if frame_list:
            write_frames(index, draft, frame_list)
        write_index(index, draft, str(index.root) if source else SHAPES)
        text = report(index, left_out, rule, least)
        write_text(draft / REPORT, text)
    return text


def survey(kind: str, root: Path, least: int, quick: bool, split: Path | None = None) -> tuple[Index, list[LeftOut]]:
    """The videos of a folder, checked, and those that are left out.

    ValueError: none can be used, or a class has no name to show.
    """
    layout = LAYOUTS[kind]
    found = layout.find(root, split) if split else layout.find(root)
    if odd := [name for name in found.classes if not name.isprintable()]:
        raise ValueError(f"{root}: the class folder {odd[0]!r} has letters that cannot be printed: rename it")
    if not split:
        warn_of_counts(kind, len(found.videos), len(found.classes))
    videos, left_out = [], list(found.left_out)
    for path, label in tqdm(found.videos, desc="checking", unit="video", leave=False, disable=None):
        checked = check_video(path, root, label, least, quick)
        (left_out if isinstance(checked, LeftOut) else videos).append(checked)
    if not videos:
        first = f"{left_out[0].path}: {left_out[0].reason}"
        short = [video for video in left_out if video.what == "short"]
        hint = f"; {len(short)} are too short: lower --frame-interval or --num-frames" if short else ""
        raise ValueError(f"{root}: none of {len(left_out)} videos can be used; the first is {first}{hint}")
    return Index(kind, root, found.classes, sorted(videos, key=lambda video: video.path)), left_out


def existing(source: Path) -> Path:
    """A folder that is there. FileNotFoundError, ValueError: it is not, or is a file."""
    if not source.exists():
        raise FileNotFoundError(f"no folder at {source}")
    if not source.is_dir():
        raise ValueError(f"{source} is a file: unpack it, and give the folder")
    return source


def check_target(out: Path, source: Path | None) -> None:
    """ValueError: `out` is, holds or lies in the source, cannot be written, or holds what was not prepared there."""
    target, root = out.resolve(), source.resolve() if source else None
    if root and (target.is_relative_to(root) or root.is_relative_to(target)):
        raise ValueError(f"{out} and the source {source} lie in one another: choose another folder for --out")
    if not writable(target.parent):
        raise ValueError(f"{out} cannot be written: choose another folder for --out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = out.is_dir() and {path.name for path in out.iterdir()} <= {VIDEO_LIST, REPORT, FRAMES, FRAME_LIST, SHAPES}
    try:
        ours = ours and bool(open_index(out, check=False))
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"{out} exists and is not what `latte prepare` wrote: choose another folder for --out")


def warn_of_counts(kind: str, videos: int, classes: int) -> None:
    """A warning for each number that is not the published one."""
    for what, count in LAYOUTS[kind].published.items():
        here = {"videos": videos, "classes": classes}[what]
        if here != count:
            warnings.warn(f"{here:,} {what} found; {kind} was published with {count:,}", stacklevel=2)


def check_video(path: Path, root: Path, label: int, least: int, quick: bool) -> Video | LeftOut:
    """What is known of a video once it was decoded, or why it is left out."""
    try:
        frames, height, width = measure(path, quick)
        if frames < least:
            return LeftOut(path, "short", f"{frames} frames, {least} needed")
        place = path.relative_to(root).as_posix()
        return Video(place, label, frames, height, width, size_of(path), caption(path))
    except (OSError, ValueError) as error:
        return LeftOut(path, "broken", str(error).removeprefix(f"{path} "))


def caption(path: Path) -> str:
    """The text beside a video; empty: there is none."""
    try:
        return caption_of(path)
    except ValueError:
        return ""


def measure(path: Path, quick: bool) -> tuple[int, int, int]:
    """Frames, height and width of a video; quick: by its header and first frame. ValueError: as read_video."""
    if quick:
        return count_frames(path), *read_video(path, [0])[0].shape[-2:]
    shapes = [block.shape for block in read_blocks(path, FEW)]
    if len({shape[1:] for shape in shapes}) > 1:
        raise ValueError(f"{path} cannot be decoded: its frames differ in size")
    return sum(shape[0] for shape in shapes), *shapes[0][-2:]


def write_shapes(root: Path, clips: int, frames: int) -> Path:
    """The built-in data set's first clips, motions of so many frames: root/motion/number.mkv, lossless, and captions.

    Their windows at an interval that divides frames - 1 are the motions that the data set has at fewer frames.
    """
    for i in tqdm(range(clips), desc="drawing", unit="clip", leave=False, disable=None):
        clip = make_clip(0, i, frames=frames)
        path = write_video(clip.video, root / clip.motion / f"{i:06d}.mkv")
        write_text(path.with_suffix(".txt"), clip.caption + "\n")
    return root


def write_frames(index: Index, out: Path, size: int) -> None:
    """Every frame of the videos as the original's joint training reads them: frames/VIDEO/NUMBER.jpg, and their list.

    Squares of size x size pixels, which the original does not resize. It takes a frame's class in UCF101 from between
    the first two "_" of its line, so that VIDEO there is v_Class_... ValueError: two videos would have one name, or
    one has a name, or a class, that cannot stand in the list.
    """
    folders: dict[str, Video] = {}
    for video in index.videos:
        name = frames_name(index, video)
        if not name.isprintable():
            raise ValueError(f"{video.path!r} has letters that cannot be printed in a list: rename it")
        if name in folders:
            raise ValueError(f"frames of {video.path} and {folders[name].path} would both be in {FRAMES}/{name}")
        folders[name] = video
    lines = []
    for name, video in tqdm(folders.items(), desc="frames", unit="video", leave=False, disable=None):
        (out / FRAMES / name).mkdir(parents=True)
        blocks = (resize_and_crop(block, size) for block in read_blocks(index.path(video), FEW))
        for number, frame in enumerate(chain.from_iterable(blocks)):
            lines.append(f"{name}/{number:06d}.jpg")
            save_jpeg(frame, out / FRAMES / lines[-1])
    write_text(out / FRAME_LIST, "\n".join(lines) + "\n")


def frames_name(index: Index, video: Video) -> str:
    """The folder of a video's frames."""
    path = Path(video.path)
    if index.kind != "ucf101":
        return path.with_suffix("").as_posix()
    name = index.classes[video.label]
    if "_" in name:
        raise ValueError(f"class {name!r} has a '_', at which the original cuts its name off: rename its folder")
    return "_".join(["v", name, *path.stem.split("_")[2:]])


def save_jpeg(frame: Tensor, path: Path) -> None:
    """One frame (3, h, w), at a quality that is next to lossless."""
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path, quality=95, subsampling=0)


def report(index: Index, left_out: list[LeftOut], rule: Rule, least: int) -> str:
    """Counts, sizes, lengths, and every video that was left out, for people; the first part, up to a gap, sums up."""
    videos, lengths = index.videos, [video.frames for video in index.videos]
    captions, size = sum(bool(video.caption) for video in videos), sum(video.bytes for video in videos)
    why = Counter(left.what for left in left_out)
    clips = f"{rule.num_frames} frames by {rule.selection} at interval {rule.frame_interval}"
    lines = [
        f"{index.kind}: {len(videos):,} videos, {len(index.classes) or 'no'} classes, {captions:,} captions",
        f"{sum(lengths):,} frames, {min(lengths):,} to {max(lengths):,} a video; {size:,} bytes",
        f"{len(left_out):,} left out" + "".join(f", {n:,} {what}" for what, n in why.items()),
        f"a clip is {clips}: from {least} frames on",
    ]
    sizes, per_class = Counter((v.height, v.width) for v in videos), Counter(v.label for v in videos)
    lines += ["", "height x width", *(f"  {n:7,}  {h} x {w}" for (h, w), n in sizes.most_common())]
    classes = [f"  {per_class[i]:7,}  {name}" for i, name in enumerate(index.classes)]
    left = [f"  {what:9}  {one_line(path)}: {one_line(reason)}" for path, what, reason in sorted(left_out)]
    lines += ["", "classes", *(classes or ["  none"]), "", "left out", *(left or ["  none"])]
    return "\n".join(lines) + "\n"
