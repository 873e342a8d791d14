"""400 videos of several codecs and containers are damaged at random. The test prints what reading them gives."""

import random
from collections import Counter

import av
import torch
from encode_video import encode
from soak_length import count

from latte.shapes.draw import make_clip
from latte.video import read_video

CLIP = make_clip(0, 4, frames=48).video.transpose(0, 2, 3, 1)
GROUPS = {"g": "12", "bf": "2"}
X265 = {"x265-params": "keyint=12:log-level=none"}
FFV1 = {"level": "3", "slicecrc": "1"}
KINDS = [
    *[(suffix, "libx264", "yuv420p", GROUPS) for suffix in (".mp4", ".mkv", ".ts", ".flv", ".avi")],
    *[(suffix, "libx265", "yuv420p", X265) for suffix in (".mp4", ".mkv")],
    *[(suffix, "mpeg4", "yuv420p", {"g": "12"}) for suffix in (".avi", ".mp4", ".mkv")],
    (".mpg", "mpeg2video", "yuv420p", GROUPS),
    *[(suffix, "libvpx", "yuv420p", {"g": "12"}) for suffix in (".webm", ".mkv")],
    (".webm", "libvpx-vp9", "yuv420p", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    *[(suffix, "ffv1", "yuv420p", FFV1) for suffix in (".mkv", ".avi")],
    *[(suffix, "mjpeg", "yuvj420p", {}) for suffix in (".avi", ".mkv")],
    (".gif", "gif", "rgb8", {}),
    (".mov", "prores_ks", "yuv422p10le", {}),
]


def damage(data, draw):
    """Change, remove or insert some bytes, or cut off the end."""
    data, start = bytearray(data), draw.randrange(len(data))
    kind = draw.choice(("bit", "bits", "zeros", "noise", "cut", "removed", "inserted"))
    if kind == "bit":
        data[start] ^= 1 << draw.randrange(8)
    elif kind == "bits":
        for _ in range(8):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind in ("zeros", "noise"):
        size = min(draw.randrange(1, 200), len(data) - start)
        data[start : start + size] = bytes(size) if kind == "zeros" else draw.randbytes(size)
    elif kind == "inserted":
        data[start:start] = draw.randbytes(draw.randrange(1, 100))
    else:
        del data[start : None if kind == "cut" else start + draw.randrange(1, 400)]
    return bytes(data)


def ffmpeg_reports(path):
    """Whether FFmpeg itself, called in the simplest way, reports anything while it decodes a file."""
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs, av.open(str(path)) as container:
            corrupt = any(frame.is_corrupt for frame in container.decode(video=0))
        return corrupt or bool(logs)
    except av.FFmpegError:
        return True
    finally:
        av.logging.set_level(None)


def test_damaged_videos_are_rejected_or_read_unchanged(tmp_path):
    """Most codecs have no checksums: damage can be noticed only where FFmpeg, a checksum or the header reveals it."""
    total = Counter()
    for number, (suffix, codec, pixels, options) in enumerate(KINDS):
        path = encode(tmp_path / f"{number}{suffix}", CLIP, codec, pixels, options=options)
        sound, data, draw, counts = read_video(path)[0], path.read_bytes(), random.Random(number), Counter()
        for _ in range(count(400) // len(KINDS)):
            path.write_bytes(damage(data, draw))
            try:
                same = torch.equal(read_video(path)[0], sound)
                known = not same and ffmpeg_reports(path)
                counts["as it was" if same else "altered silently" if known else "altered, and nothing reports it"] += 1
            except ValueError:
                counts["refused"] += 1
        print(codec, suffix, dict(counts))
        total += counts
        if suffix == ".mkv" or codec == "ffv1":  # with checksums
            assert set(counts) <= {"refused", "as it was"}
    print(dict(total))
    assert not total["altered silently"]
