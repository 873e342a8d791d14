"""MP4 edit lists: a player shows their segments, in order, and nothing else."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from encode_video import encode

from latte.video.frame_index import index_frames
from latte.video.read import count_frames, read_blocks, read_video

LEVEL, FRAMES, RATE = 6, 30, 25
CLIP = np.repeat(np.arange(FRAMES, dtype=np.uint8) * LEVEL + 20, 64 * 64 * 3).reshape(FRAMES, 64, 64, 3)
PLACE = ("moov", "trak")  # of the boxes that hold an edit list


def numbers(frames):
    """The numbers of these frames in CLIP."""
    return [round((float(frame.float().mean()) - 20) / LEVEL) for frame in frames]


def box_at(data, path, start=0):
    """The position and size of a box; (-1, 0) if it is missing."""
    end = len(data) if not start else start - 8 + struct.unpack_from(">I", data, start - 8)[0]
    while start < end:
        size = struct.unpack_from(">I", data, start)[0]
        if data[start + 4 : start + 8] == path[0].encode():
            return box_at(data, path[1:], start + 8) if path[1:] else (start, size)
        start += size
    return -1, 0


def box(name, content):
    return struct.pack(">I", 8 + len(content)) + name.encode() + content


def with_edits(path, segments):
    """Give a file an edit list of segments (first frame, frames); None as the first frame is a pause."""
    data = bytearray(path.read_bytes())
    header, _ = box_at(data, (*PLACE, "mdia", "mdhd"))
    period = struct.unpack_from(">I", data, header + 20)[0] // RATE
    place, old = box_at(data, (*PLACE, "edts"))
    delay = struct.unpack_from(">i", data, place + 28)[0] if old else 0
    place = place if old else sum(box_at(data, (*PLACE, "tkhd")))
    entries = [(n * 1000 // RATE, -1 if first is None else delay + first * period) for first, n in segments]
    table = b"".join(struct.pack(">IiI", *entry, 1 << 16) for entry in entries)
    new = box("edts", box("elst", struct.pack(">II", 0, len(entries)) + table))
    for depth in (1, 2):
        at, size = box_at(data, PLACE[:depth])
        struct.pack_into(">I", data, at, size + len(new) - old)
    data[place : place + old] = new
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(
    "segments",
    [
        [(13, 10)],
        [(None, 5), (5, 10)],
        [(10, 10), (0, 5)],
        [(0, 10), (15, 10)],
        [(10, 10), (10, 10)],
        [(3, 5), (8, 2), (22, 8)],
    ],
)
def test_segments_are_shown_in_order(segments, b_frames, tmp_path):
    options = {"g": "10", "bf": str(b_frames), "sc_threshold": "0", "crf": "10"}
    path = with_edits(encode(tmp_path / "a.mp4", CLIP, options=options), segments)
    shown = [first + i for first, count in segments if first is not None for i in range(count)]
    frames, fps = read_video(path)
    assert numbers(frames) == shown and count_frames(path) == len(shown) and fps == RATE
    assert numbers(frame for block in read_blocks(path, 7) for frame in block) == shown
    assert [numbers(read_video(path, [i])[0])[0] for i in range(len(shown))] == shown
    assert Fraction(index_frames(path).fps) == RATE
