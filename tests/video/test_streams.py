"""Frames from the middle of a stream equal those of a full decode, and few others are decoded."""

import av
import pytest
import torch

from latte.shapes.draw import make_clip
from latte.video import streams
from latte.video.read import read_video

CLIP = torch.from_numpy(make_clip(0, 4, frames=60).video)
CLOSED = {"g": "12", "bf": "2", "x264-params": "open-gop=0:scenecut=0"}
OPEN = {"g": "12", "bf": "2", "x264-params": "open-gop=1:scenecut=0"}


def encode(path, codec, options, pixels="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixels
        for frame in CLIP:
            image = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options", "keys"),
    [
        ("a.mp4", "libx264", CLOSED, [0, 0, 12, 24]),
        ("a.mkv", "libx264", CLOSED, [0, 0, 12, 24]),
        (
            "a.mp4",
            "libx264",
            OPEN,
            [0, 0, 12, 12],
        ),  # the next one, 23, is stored before frames that are displayed earlier
        ("a.avi", "mpeg4", {"g": "12"}, [0, 0, 12, 24]),
        ("b.avi", "mpeg4", {"g": "12", "bf": "2"}, [0, 0, 0, 0]),
        ("a.mov", "mpeg4", {"g": "12"}, [0, 0, 12, 24]),
        ("a.webm", "libvpx", {"g": "12"}, [0, 0, 0, 0]),
        ("a.gif", "gif", {}, [0, 0, 0, 0]),
    ],
)
def test_chosen_frames_equal_those_of_a_full_decode(name, codec, options, keys, tmp_path):
    path = encode(tmp_path / name, codec, options, "rgb8" if codec == "gif" else "yuv420p")
    full, fps = read_video(path)
    assert len(full) == 60
    for start in range(0, 60, 7):
        numbers = [*range(start, 60, 5), start]
        frames, rate = read_video(path, numbers)
        assert torch.equal(frames, full[numbers]) and rate == fps
    assert [k.number if (k := streams.key_frame_before(path, i)) else 0 for i in (0, 11, 12, 30)] == keys


def test_nothing_before_the_key_frame_or_after_the_last_wanted_is_decoded(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", CLOSED)
    full = read_video(path)[0]
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for pos, size in [*places[1:23], *places[40:]]:  # the first packet holds the encoder's settings
        content[pos : pos + size] = bytes(size)
    path.write_bytes(content)
    assert torch.equal(read_video(path, range(25, 33, 3))[0], full[25:33:3])
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_video(path)


def test_a_container_that_cannot_seek_is_decoded_from_the_start(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", "libx264", CLOSED)
    full = read_video(path)[0]
    monkeypatch.setattr(streams, "key_frame_before", lambda *_: streams.KeyFrame(24, -1))
    assert torch.equal(read_video(path, [25, 30])[0], full[[25, 30]])
