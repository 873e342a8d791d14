"""Frames from the middle of a stream equal those of a full decode, and few others are decoded."""

import av
import pytest
import torch

from latte.shapes.draw import make_clip
from latte.video import frame_index
from latte.video.frame_index import KeyFrame, index_frames
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
        # the next key frame, 23, is stored before frames that are shown earlier
        ("a.mp4", "libx264", OPEN, [0, 0, 12, 12]),
        ("a.avi", "mpeg4", {"g": "12"}, [0, 0, 12, 24]),
        ("b.avi", "mpeg4", {"g": "12", "bf": "2"}, [0, 0, 0, 0]),
        ("a.mov", "mpeg4", {"g": "12"}, [0, 0, 12, 24]),
        ("a.webm", "libvpx", {"g": "12"}, [0, 0, 12, 24]),
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
    index = index_frames(path)
    assert [key.number if (key := index.key_before(i)) else 0 for i in (0, 11, 12, 30)] == keys


def test_only_frames_from_the_key_frame_to_the_last_wanted_are_decoded(tmp_path):
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


def test_a_missing_or_wrong_key_frame_does_not_matter(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", "libx264", CLOSED)
    full, index = read_video(path)[0], index_frames(path)
    for key in (KeyFrame(24, -1), KeyFrame(24, index.times[25]), KeyFrame(25, index.times[25])):
        monkeypatch.setattr(frame_index.FrameIndex, "key_before", lambda *_, key=key: key)
        assert torch.equal(read_video(path, [25, 30])[0], full[[25, 30]])


def test_a_file_that_changes_is_indexed_anew(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", CLOSED)
    assert len(read_video(path)[0]) == 60
    other = encode(tmp_path / "b.mp4", "mpeg4", {"g": "5"})
    path.write_bytes(other.read_bytes())
    assert torch.equal(read_video(path, [41])[0], read_video(other)[0][[41]])
