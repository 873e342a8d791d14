"""Encodes test videos in any codec and container that PyAV can write."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FORMATS = {  # where the suffix is not the name of the format
    **{".m4v": "mp4", ".mp4v": "mp4", ".f4v": "mp4", ".3gpp": "3gp", ".qt": "mov", ".divx": "avi", ".ogm": "ogg"},
    **{".ts": "mpegts", ".m2t": "mpegts", ".wmv": "asf", ".mpg": "vob", ".m2p": "vob", ".mpe": "mpeg"},
    **{".m1v": "mpeg1video", ".m2v": "mpeg2video", ".evo": "vob", ".mod": "vob", ".tod": "vob", ".tp": "mpegts"},
    **{".trp": "mpegts", ".mk3d": "matroska"},
}


def encode(path, clip, codec="libx264", pixels="yuv420p", rate=25, times=None, options=None, **attributes):
    """Encode frames (f, h, w, 3).

    Args:
        path: The file to write.
        clip: The frames, bytes.
        codec: An encoder of FFmpeg.
        pixels: Its pixel format.
        rate: Frames per second.
        times: The time of each frame in milliseconds, instead of a rate.
        options: Options of the encoder.
        attributes: Of the stream: `aspect`, its sample aspect ratio, and `matrix`, its display matrix.
    """
    path = Path(path)
    with av.open(f"file:{path}", "w", format=FORMATS.get(path.suffix.lower())) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt, stream.bit_rate = pixels, 600_000
        if "matrix" in attributes:
            stream.set_display_matrix(attributes["matrix"])
        if "aspect" in attributes:
            stream.codec_context.sample_aspect_ratio = attributes["aspect"]
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if pixels not in ("yuv420p", "rgb24"):
                frame = frame.reformat(format=pixels)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(source, path, keep=lambda number: True):
    """Copy the packets whose number `keep` accepts, without encoding again."""
    path = Path(path)
    with av.open(str(source)) as old, av.open(str(path), "w", format=FORMATS.get(path.suffix)) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size and keep(number):
                packet.stream = stream
                new.mux(packet)
    return path


def flip(path, place=0.5, count=1):
    """Invert bytes of a file, starting at a place given as a share of its length."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * place)
    data[start : start + count] = bytes(255 - byte for byte in data[start : start + count])
    path.write_bytes(data)
    return path
