"""What FFmpeg conceals is rejected, or accepted on request; nothing huge or endless is opened."""

import os
import socket

import av
import pytest
import torch
from encode_video import encode, flip

from latte.shapes.draw import make_clip
from latte.video import (
    DamagedVideoError,
    count_frames,
    inspect_video,
    limits,
    list_videos,
    read_blocks,
    read_video,
    stream_frames,
)

CLIP = make_clip(0, 4, frames=48).video.transpose(0, 2, 3, 1)
GROUPS = {"g": "12", "bf": "2"}
FFV1 = {"level": "3", "slicecrc": "1", "g": "12"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", GROUPS),
        ("a.mkv", "libx264", GROUPS),
        ("a.ts", "libx264", GROUPS),
        ("a.avi", "mpeg4", {"g": "12"}),
        ("a.mkv", "ffv1", FFV1),
        ("a.avi", "ffv1", FFV1),
        ("a.mp4", "libx265", {"x265-params": "hash=1:log-level=none"}),
    ],
)
def test_damage_is_rejected_or_accepted_on_request(name, codec, options, tmp_path):
    path = encode(tmp_path / name, CLIP, codec, options=options)
    whole = read_video(path)[0]
    assert not inspect_video(path).damage
    flip(path, 0.5, 300)
    for read in (read_video, lambda path: list(read_blocks(path)), read_video):  # the last one: as the first time
        with pytest.raises(ValueError, match=f"{name} (is damaged: .*damaged='take'|cannot be decoded)"):
            read(path)
    facts = inspect_video(path)
    taken, _ = read_video(path, damaged="take")
    assert "; the first: " in facts.damage and facts.frames == len(taken) == count_frames(path, damaged="take")
    again, last = torch.cat(list(read_blocks(path, damaged="take"))), read_video(path, [len(taken) - 1], damaged="take")
    assert again.shape == taken.shape and last[0].shape == taken[-1:].shape
    if codec != "ffv1":  # where a slice of FFV1 is lost, FFmpeg leaves whatever is in memory
        assert torch.equal(again, taken) and torch.equal(last[0], taken[-1:])
    assert len(taken) < len(whole) or not torch.equal(taken, whole)
    with pytest.raises(ValueError, match="must be 'raise' or 'take'"):
        read_video(path, damaged="ignore")


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4", "a.flv"])
def test_a_file_that_is_cut_is_shorter_than_its_header_says(name, tmp_path):
    codec = "libx264" if name.endswith("mp4") else "flv" if name.endswith("flv") else "mpeg4"
    options = {"g": "12", **({"x264-params": "scenecut=0"} if codec == "libx264" else {})}
    path = encode(tmp_path / name, CLIP, codec, options=options)
    data = path.read_bytes()
    if name.endswith("mp4"):  # its index is at the end: move it to the front, as in files for the web
        path = moov_first(path)
        data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for read in (read_video, count_frames, lambda path: read_video(path, [0])):
        with pytest.raises(
            ValueError,
            match=r"is damaged: .*(it ends after|CRC|partial|prematurely|corrupt)|cannot",
        ):
            read(path)
    assert inspect_video(path, quick=True).damage and 0 < len(read_video(path, damaged="take")[0]) < 48


def moov_first(path):
    """The same film as an mp4 with its index first."""
    target = path.with_name("web.mp4")
    with av.open(str(path)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


def test_the_same_damage_is_reported_every_time_and_nothing_is_printed(tmp_path, capfd, caplog):
    path = flip(encode(tmp_path / "a.mkv", CLIP, "ffv1", options=FFV1), 0.5, 2)
    said = []
    for _ in range(3):
        with pytest.raises(DamagedVideoError) as raised:
            read_video(path)
        said.append(str(raised.value))
    read_video(encode(tmp_path / "a.avi", CLIP, "mjpeg", "yuvj420p"))
    longer = encode(tmp_path / "b.mkv", CLIP, options={"g": "10", "x264-params": "scenecut=0"})
    longer.write_bytes(longer.read_bytes() + bytes(5000))
    read_video(longer, [len(CLIP) - 1])
    assert len(set(said)) == 1 and capfd.readouterr() == ("", "") and not caplog.records


def test_pipes_devices_and_sockets_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "b.webp")
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames/0.png")
    (tmp_path / "zero.mkv").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "c.npz"))
        for name in ("a.mp4", "b.webp", "zero.mkv", "c.npz"):
            for read in (read_video, count_frames, inspect_video, lambda path: list(read_blocks(path))):
                with pytest.raises(ValueError, match=f"{name} is not a regular file"):
                    read(tmp_path / name)
        assert tmp_path / "frames" not in list_videos(tmp_path)
    with pytest.raises(ValueError, match="no frames"):
        read_video(tmp_path / "frames")


def test_sizes_are_checked_before_memory_is_taken(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", CLIP)
    monkeypatch.setattr(limits, "MAX_READ_BYTES", 40 * 64 * 64 * 3)
    with pytest.raises(ValueError, match="48 frames of 64 x 64 pixels take 589824 bytes, more than the limit"):
        read_video(path)
    assert len(read_video(path, range(40))[0]) == 40 and sum(map(len, read_blocks(path))) == 48


def test_a_small_file_of_huge_frames_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 8192, 4096, "yuv420p"
        container.mux([*stream.encode(av.VideoFrame(8192, 4096, "yuv420p")), *stream.encode()])
    monkeypatch.setattr(stream_frames, "decode", None)
    for read in (read_video, inspect_video, count_frames, lambda path: next(read_blocks(path))):
        with pytest.raises(ValueError, match="4096 x 8192 pixels, more than the limit of 16,777,216 pixels: scale"):
            read(path)
