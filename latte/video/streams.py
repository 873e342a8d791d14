"""Open the video stream of a file with PyAV, and decode it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from latte.video.damage import Damage, errors_in, listening
from latte.video.geometry import display_size, pixel_aspect
from latte.video.limits import MAX_FRAME_PIXELS, check_frame_size

# FFmpeg chooses a demuxer by content, not by suffix. Only these are tried: none of them opens a second file.
DEMUXERS = "mov,mp4,avi,matroska,webm,gif,mpegts,mpeg,mpegvideo,flv,ogg,asf,mxf,nut,ivf,yuv4mpegpipe"
# Errors are looked for where the stream carries checksums; frames that are too large are not allocated.
OPTIONS = {"format_whitelist": DEMUXERS, "err_detect": "crccheck", "max_pixels": str(MAX_FRAME_PIXELS)}
STILL_CODECS = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")  # of cover pictures
STILL_DISPOSITIONS = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
# These decoders output the frames before the first key frame without their references; all others drop them.
SHOWS_FRAMES_WITHOUT_REFERENCE = ("mpeg4", "h263", "flv", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2")


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a video file for decoding on a single thread.

    Yields:
        The container, and its film: a video stream that is not a cover picture.

    Raises:
        ValueError: If the file holds no film, or if its frames are too large.
    """
    with listening(), open_quietly(path) as container:
        stream = find_film(container)
        context = stream.codec_context
        check_frame_size(*display_size(context.height, context.width, pixel_aspect(stream)))
        context.options = {name: OPTIONS[name] for name in ("err_detect", "max_pixels")}
        # data loaders already run one process per core
        stream.thread_type, stream.thread_count = "NONE", 1
        if context.name == "vp8":  # only its slice decoder notices truncated data
            stream.thread_type, stream.thread_count = "SLICE", 2
        yield container, stream


def open_quietly(path: Path) -> av.container.InputContainer:
    """Open a file. FFmpeg repeats what it logs here when the packets are read and decoded."""
    with av.logging.Capture() as logs:
        try:
            return av.open(f"file:{path}", options=OPTIONS)  # "file:" allows for names such as 10:30.mp4
        except av.FFmpegError as error:
            if refused := [by for _, by, text in logs if "not on whitelist" in text]:
                raise ValueError(f"Invalid format {refused[0]}: convert it to mp4, mkv or avi") from error
            raise


def find_film(container: av.container.InputContainer) -> av.VideoStream:
    """Choose the video stream that a player shows. Raises ValueError if there is none."""
    decodable = [stream for stream in container.streams.video if stream.codec_context]
    films = [stream for stream in decodable if not stream.disposition & STILL_DISPOSITIONS]
    if not films:
        known = "only a cover picture" if decodable else "no video stream"
        raise ValueError(
            f"it holds {known}" + ("" if decodable or not container.streams.video else " of a known codec")
        )
    moving = [stream for stream in films if stream.codec_context.name not in STILL_CODECS and stream.frames != 1]
    best = container.streams.best("video")
    return best if best in (moving or films) else (moving or films)[0]


def decode(
    container: av.container.InputContainer, stream: av.VideoStream, damage: Damage, head_is_cut: bool = False
) -> Iterator[av.VideoFrame]:
    """Decode from the container's current position, and note what FFmpeg reports.

    Args:
        container: The open file.
        stream: Its film.
        damage: Where reports are noted.
        head_is_cut: The first frames refer to others that were cut off. They are not shown, and what FFmpeg reports
            about them does not count as damage.

    Yields:
        The frames that are shown, in their order.

    Raises:
        DamagedVideoError: At the first report, unless `damage` takes them.
        av.FFmpegError: If a packet cannot be read or decoded at all, unless `damage` takes that.
    """
    packets = container.demux(stream)
    skips_to_key = head_is_cut and stream.codec_context.name in SHOWS_FRAMES_WITHOUT_REFERENCE
    packet: av.Packet | None
    while True:
        frames: list[av.VideoFrame] = []
        failure = None
        with av.logging.Capture() as logs:
            try:
                packet = None
                packet = next(packets, None)
                skips_to_key = skips_to_key and packet is not None and not packet.is_keyframe
                # an empty packet repeats a frame, but it would tell the decoder to stop
                if packet is None or (packet.size and not skips_to_key):
                    frames = stream.decode(packet)
            except av.FFmpegError as error:
                failure = error
        if not head_is_cut and (failure or logs or (packet and packet.is_corrupt) or any(f.is_corrupt for f in frames)):
            note_reports(damage, packet, frames, errors_in(logs), failure)
        head_is_cut = head_is_cut and not frames
        yield from frames
        if packet is None:
            return


def note_reports(
    damage: Damage,
    packet: av.Packet | None,
    frames: list[av.VideoFrame],
    messages: list[tuple[str, str]],
    failure: av.FFmpegError | None,
) -> None:
    """Note what FFmpeg reported while a packet was read and decoded. Raises as `decode`."""
    if failure and not damage.takes:
        raise failure
    if failure:
        damage.note("packets that cannot be decoded", str(failure.strerror))
    for _, message in messages:
        checksum = message.startswith("Verifying checksum")  # this message comes in pieces
        damage.note("errors", "a frame does not match its checksum" if checksum else message)
    if packet and packet.is_corrupt:
        damage.note("corrupt packets", "a packet is marked as corrupt")
    for frame in frames:
        if frame.is_corrupt:
            damage.note("corrupt frames", "a frame is marked as corrupt")
