"""What a video file holds, and what is wrong with it, without keeping its frames."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from latte.video.damage import Damage
from latte.video.formats import STREAM_SUFFIXES, video_kind
from latte.video.frame_folders import list_pictures
from latte.video.frame_index import index_frames
from latte.video.read import count_frames, decoding, read_blocks, read_frames, read_webp
from latte.video.stream_frames import note_problem, read_stream, read_stream_blocks

BLOCK = 8  # frames decoded at a time: large ones take much memory


@dataclass(frozen=True)
class VideoFacts:
    """What is known about a video.

    Attributes:
        frames: The number of frames that are shown.
        height: Height of the frames as they are read, upright and in square pixels.
        width: Likewise.
        codec: What the frames are stored as: FFmpeg's name of the codec, such as "h264"; for other videos the suffix
            without its dot, such as "npz", or "jpg and png" for a folder of both.
        pixel_aspect: Width of a stored pixel over its height. Unless it is 1, frames are resampled when they are read.
        damage: FFmpeg's reports, counted by kind, and the first one in words; empty if there are none.
    """

    frames: int
    height: int
    width: int
    codec: str
    pixel_aspect: Fraction = Fraction(1)
    damage: str = ""

    @property
    def resampled(self) -> bool:
        """Whether its pixels are not square, so that frames are resampled when they are read."""
        return self.pixel_aspect != 1


def inspect_video(path: str | Path, quick: bool = False) -> VideoFacts:
    """Decode a video, damaged or not, and say what it holds.

    Args:
        path: A video, as for read_video.
        quick: Decode only the first frame. Damage in the others then goes unnoticed.

    Returns:
        What is known about the video. If it is damaged, read_video and read_blocks need `damaged="take"`.

    Raises:
        FileNotFoundError: If nothing exists at the path.
        ValueError: If the video cannot be decoded at all, or if its frames differ in size.
    """
    path = Path(path)
    kind = video_kind(path)
    if kind not in STREAM_SUFFIXES:
        codec = kind.removeprefix(".")
        if kind == "folder":
            codec = " and ".join(sorted({picture.suffix.lower().removeprefix(".") for picture in list_pictures(path)}))
        if quick:
            with decoding(path):
                picture = (read_webp(path, 1)[0] if kind == ".webp" else read_frames(path, kind, [0])[0])[0]
                height, width, _ = picture.shape
                return VideoFacts(count_frames(path), height, width, codec)
        return facts_of([tuple(block.shape) for block in read_blocks(path, BLOCK)], path, codec)
    damage = Damage("take")
    with decoding(path):
        index = index_frames(path)
        if quick:
            note_problem(index, damage)
            frames, _ = read_stream(path, [0], damage)
            if not frames:
                raise ValueError("it holds no frames")
            height, width, _ = frames[0].shape
            return VideoFacts(len(index.times), height, width, index.codec, index.pixel_aspect, str(damage))
        blocks = read_stream_blocks(path, BLOCK, damage)
        shapes = [(1, 3, *frame.shape[:2]) for block in blocks for frame in block]
    return facts_of(shapes, path, index.codec, index.pixel_aspect, str(damage))


def facts_of(
    shapes: list[tuple[int, ...]], path: Path, codec: str, pixel_aspect: Fraction = Fraction(1), damage: str = ""
) -> VideoFacts:
    """The facts about a video that was read in blocks of these shapes (f, 3, h, w)."""
    if len({shape[2:] for shape in shapes}) != 1:
        raise ValueError(
            f"{path} cannot be decoded: " + ("its frames differ in size" if shapes else "it holds no frames")
        )
    height, width = shapes[0][2:]
    return VideoFacts(sum(shape[0] for shape in shapes), height, width, codec, pixel_aspect, damage)
