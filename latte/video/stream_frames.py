"""Read the frames of a video stream: all, chosen ones without decoding much else, or block by block."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import dropwhile, islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from latte.video.damage import Damage
from latte.video.formats import DamagedVideoError
from latte.video.frame_index import FrameIndex, KeyFrame, index_frames
from latte.video.geometry import display_size, to_shown_rgb
from latte.video.limits import BLOCK_BYTES, check_read_size
from latte.video.streams import decode, open_stream


def read_stream(
    path: Path, numbers: Sequence[int] | None, damage: Damage, square_pixels: bool = True
) -> tuple[dict[int, np.ndarray], float]:
    """Decode a stream, or only the part of it between a key frame and the last requested frame.

    Args:
        path: A file that FFmpeg decodes.
        numbers: The requested frames, in display order from 0. None decodes all frames.
        damage: Where FFmpeg's reports are noted.
        square_pixels: Whether to resample pixels that are not square.

    Returns:
        RGB frames (h, w, 3) by number, without those that do not exist; and the mean frame rate.

    Raises:
        DamagedVideoError: If FFmpeg reports damage, unless `damage` takes it.
        ValueError: If the frames are too large.
    """
    index = index_frames(path)
    if not square_pixels:
        index = index._replace(pixel_aspect=Fraction(1))
    note_problem(index, damage)
    if numbers and not damage.takes:  # frames of a damaged video are numbered as they come, from the start
        if max(numbers) >= len(index.times):
            return {}, index.fps
        key = index.key_before(min(numbers))
        if key and (frames := read_from(key, path, index, numbers)):
            return frames, index.fps
    wanted = set(numbers) if numbers else range(len(index.times))
    last = max(wanted, default=0) if numbers else None
    frames, converter = {}, VideoReformatter()
    with open_stream(path) as (container, stream):
        check_size(stream, len(wanted), index.pixel_aspect)
        for number, frame in enumerate(decode(container, stream, damage, index.head_is_cut)):
            if not numbers or number in wanted:
                frames[number] = to_shown_rgb(frame, index.pixel_aspect, converter)
            if number == last:
                break
    if not numbers:
        note_lost_frames(index, len(frames), damage)
    return frames, index.fps


def read_from(key: KeyFrame, path: Path, index: FrameIndex, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Decode requested frames from a key frame. Returns none if they do not match the index."""
    wanted, frames = set(numbers), {}
    last, converter = max(wanted), VideoReformatter()
    with open_stream(path) as (container, stream):
        check_size(stream, len(wanted), index.pixel_aspect)
        with av.logging.Capture():  # its reports about other places do not concern these frames
            container.seek(key.pts, stream=stream)
        try:
            decoded = decode(container, stream, Damage(), head_is_cut=False)
            shown = dropwhile(lambda frame: frame.pts != key.pts, decoded)
            for number, frame in enumerate(islice(shown, last + 1 - key.number), key.number):
                if frame.pts != index.times[number] or (number == key.number and not frame.key_frame):
                    return {}
                if number in wanted:
                    frames[number] = to_shown_rgb(frame, index.pixel_aspect, converter)
        except (DamagedVideoError, av.FFmpegError):
            return {}  # the damage may come from starting here: decoding from the first frame will tell
    return frames if last in frames else {}


def read_stream_blocks(path: Path, size: int, damage: Damage) -> Iterator[list[np.ndarray]]:
    """Decode a stream in blocks of at most `size` frames (h, w, 3), and fewer if they are large."""
    index = index_frames(path)
    note_problem(index, damage)
    shown, block, converter = 0, [], VideoReformatter()
    with open_stream(path) as (container, stream):
        for frame in decode(container, stream, damage, index.head_is_cut):
            shown += 1
            block.append(to_shown_rgb(frame, index.pixel_aspect, converter))
            if len(block) == size or len(block) * block[0].nbytes >= BLOCK_BYTES:
                yield block
                block = []
    note_lost_frames(index, shown, damage)
    if block or not shown:
        yield block


def check_size(stream: av.VideoStream, frames: int, aspect: Fraction) -> None:
    """Raise ValueError if so many frames of a stream are more than a call may return."""
    context = stream.codec_context
    check_read_size(frames, *display_size(context.height, context.width, aspect))


def note_problem(index: FrameIndex, damage: Damage) -> None:
    """Note what is wrong with the file as a whole."""
    if index.problem:
        damage.note("errors in the file's structure", index.problem)


def note_lost_frames(index: FrameIndex, shown: int, damage: Damage) -> None:
    """Note that a file decodes to another number of frames than it has."""
    if shown != len(index.times):
        damage.note("lost frames", f"{shown} of its {len(index.times)} frames can be decoded")
