"""Counting, reading everything and reading by number agree on the frames a player shows, in all kinds of files."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from encode_video import encode, remux

from latte.shapes.draw import make_clip
from latte.video import count_frames, read_blocks, read_video
from latte.video.frame_index import index_frames

CLIP = make_clip(0, 4, frames=30).video.transpose(0, 2, 3, 1)
SIZES = {"h263": (144, 176), "svq1": (144, 176), "cfhd": (144, 176), "dnxhd": (144, 256)}  # required by these encoders
X264 = {"g": "8", "bf": "2", "x264-params": "scenecut=0"}
OPEN = {"g": "8", "bf": "2", "x264-params": "open-gop=1:scenecut=0"}
REFRESH = {"g": "250", "x264-params": "intra-refresh=1:keyint=10"}
X265 = {"x265-params": "keyint=8:min-keyint=8:open-gop=0:bframes=2:log-level=none"}
X265_OPEN = {"x265-params": "keyint=8:min-keyint=8:open-gop=1:bframes=2:log-level=none"}
HIDDEN = {"g": "15", "deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "12"}
B, P = {"g": "8", "bf": "2"}, {"g": "8"}
KINDS = [
    *[(suffix, "libx264", "yuv420p", X264) for suffix in (".mp4", ".mov", ".mkv", ".ts", ".flv", ".avi")],
    *[(suffix, "libx264", "yuv420p", OPEN) for suffix in (".mp4", ".mkv", ".ts")],
    (".mp4", "libx264", "yuv420p", REFRESH),
    *[(suffix, "libx264", "yuv420p", {**B, "x264-params": "interlaced=1"}) for suffix in (".mp4", ".ts")],
    *[(suffix, "libx265", "yuv420p", X265) for suffix in (".mp4", ".ts")],
    *[(suffix, "libx265", "yuv420p", X265_OPEN) for suffix in (".mov", ".mkv")],
    *[(suffix, "mpeg4", "yuv420p", B) for suffix in (".avi", ".mp4", ".3gp", ".mkv", ".ts")],
    *[(suffix, "mpeg4", "yuv420p", P) for suffix in (".avi", ".mov", ".m4v")],
    *[(suffix, "mpeg2video", "yuv420p", B) for suffix in (".mpg", ".ts", ".avi", ".mp4")],
    (".mpg", "mpeg2video", "yuv420p", {**B, "flags": "+ilme+ildct"}),
    (".mpg", "mpeg1video", "yuv420p", B),
    (".webm", "libvpx", "yuv420p", HIDDEN),
    *[(suffix, "libvpx-vp9", "yuv420p", HIDDEN) for suffix in (".webm", ".mp4")],
    *[(suffix, "ffv1", "yuv420p", {**P, "level": "3", "slicecrc": "1"}) for suffix in (".mkv", ".avi")],
    *[(suffix, "mjpeg", "yuvj420p", {}) for suffix in (".avi", ".mov", ".mp4")],
    (".mov", "prores_ks", "yuv422p10le", {}),
    (".mov", "dnxhd", "yuv422p", {"profile": "dnxhr_lb"}),
    (".mov", "qtrle", "rgb24", P),
    (".mov", "png", "rgb24", {}),
    (".mov", "svq1", "yuv410p", P),
    (".mov", "cfhd", "yuv422p10le", {}),
    (".gif", "gif", "rgb8", {}),
    (".flv", "flv", "yuv420p", P),
    *[(suffix, "wmv2", "yuv420p", P) for suffix in (".wmv", ".avi")],
    *[(".avi", codec, pixels, {}) for codec, pixels in (("huffyuv", "yuv422p"), ("utvideo", "yuv420p"))],
    *[(".avi", codec, pixels, P) for codec, pixels in (("rawvideo", "yuv420p"), ("zmbv", "bgr0"))],
    (".3gp", "h263", "yuv420p", P),
    *[(suffix, "mpeg2video", "yuv420p", B) for suffix in (".mxf", ".nut")],
    *[(".nut", codec, "yuv420p", options) for codec, options in (("libx264", OPEN), ("ffv1", P), ("rawvideo", {}))],
    (".ivf", "libvpx-vp9", "yuv420p", HIDDEN),
    (".y4m", "rawvideo", "yuv420p", {}),
]


def check_numbers(path, frames=None):
    """Check that all ways of reading agree. Returns the frames and their rate."""
    full, rate = read_video(path)
    assert count_frames(path) == len(full) == (frames or len(full))
    assert torch.equal(torch.cat(list(read_blocks(path, 7))), full)
    draw = random.Random(0)
    windows = [[0, 1], [len(full) - 1], [*range(len(full) - 3, len(full))]]
    for numbers in [*windows, *(draw.sample(range(len(full)), min(4, len(full))) for _ in range(3))]:
        chosen, same_rate = read_video(path, numbers)
        assert torch.equal(chosen, full[numbers]) and same_rate == rate
    with pytest.raises(ValueError, match="no frame number"):
        read_video(path, [len(full)])
    return full, rate


@pytest.mark.parametrize(("suffix", "codec", "pixels", "options"), KINDS)
def test_all_ways_of_reading_agree(suffix, codec, pixels, options, tmp_path):
    height, width = SIZES.get(codec, (64, 64))
    clip = np.pad(CLIP, ((0, 0), (0, height - 64), (0, width - 64), (0, 0)), mode="edge")
    path = encode(tmp_path / f"a{suffix}", clip, codec, pixels, options=options)
    _, rate = check_numbers(path, 30)
    assert rate == pytest.approx(25, rel=0.02)


def test_av1(tmp_path):
    """Separate from the others, since its encoder prints."""
    for suffix in (".mp4", ".webm"):
        try:
            path = encode(tmp_path / f"a{suffix}", CLIP[:16], "libsvtav1", options={"preset": "12", "g": "8"})
        except av.FFmpegError:
            pytest.skip("no encoder")
        check_numbers(path, 16)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts"])
def test_variable_frame_rates(suffix, tmp_path):
    times = [0]
    for step in ([20] * 8 + [100, 33, 500]) * 3:
        times.append(times[-1] + step)
    codec = "libvpx" if suffix == ".webm" else "libx264"
    options = {} if suffix == ".webm" else {"bf": "2", "g": "10"}
    path = encode(tmp_path / f"a{suffix}", CLIP, codec, times=times[:30], options=options)
    _, rate = check_numbers(path, 30)
    assert rate == pytest.approx(29_000 / times[29], rel=0.1)


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        *[(suffix, "libx264", X264) for suffix in (".mp4", ".mkv", ".ts")],
        *[(suffix, "libx265", X265_OPEN) for suffix in (".mp4", ".ts")],
        *[(suffix, "mpeg2video", B) for suffix in (".mkv", ".ts")],
        (".mp4", "mpeg4", P),
    ],
)
def test_a_cut_need_not_begin_with_a_key_frame(suffix, codec, options, tmp_path):
    """Frames before the first key frame refer to missing ones: no player can show them."""
    whole = encode(tmp_path / "whole.mp4", CLIP, codec, options=options)
    full = read_video(whole)[0]
    for start in (3, 9):
        path = remux(whole, tmp_path / f"{start}{suffix}", lambda number, start=start: number >= start)
        shown, _ = check_numbers(path)
        assert torch.equal(shown, full[len(full) - len(shown) :]) and 8 <= len(shown) < 30 - start + 2


def test_mpeg4_frames_before_the_first_key_frame_are_not_shown(tmp_path):
    whole = encode(tmp_path / "whole.avi", CLIP, "mpeg4", options=P)
    shown, _ = check_numbers(remux(whole, tmp_path / "cut.avi", lambda number: number >= 3), 22)
    assert torch.equal(shown, read_video(whole)[0][8:])


def packed_avi(path, is_marked):
    """Pack B-frames into the preceding packet, as DivX does in AVI: one packet holds two frames, a later one none."""
    plain = encode(
        path.with_suffix(".m4v"), np.repeat(np.repeat(CLIP, 4, 1), 4, 2), "mpeg4", options={"g": "15", "bf": "1"}
    )
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [bytes(packet) for packet in old.demux(video=0) if packet.size]
        is_b = [data[data.index(b"\x00\x00\x01\xb6") + 4] >> 6 == 2 for data in packets]
        data = []
        for i, packet in enumerate(packets):
            if is_b[i]:
                data.append(bytes.fromhex("000001b6514f"))  # nothing is coded
            else:
                mark = b"\0\0\1\xb2DivX503b1393p\0" if is_marked and not i else b""
                start = packet.index(b"\0\0\1\xb6")
                second = packets[i + 1] if i + 1 < len(packets) and is_b[i + 1] else b""
                data.append(packet[:start] + mark + packet[start:] + second)
        for number, content in enumerate(data):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.dts = packet.pts = number
            new.mux(packet)
    return path


@pytest.mark.parametrize(("is_marked", "frames"), [(True, 30), (False, 16)])
def test_packed_b_frames(is_marked, frames, tmp_path):
    """FFmpeg shows the second frame of a packet if the stream is marked as packed."""
    check_numbers(packed_avi(tmp_path / "a.avi", is_marked), frames)


def test_packets_that_repeat_a_frame_do_not_end_the_video(tmp_path):
    """AVI stores dropped frames as empty packets."""
    path = encode(tmp_path / "whole.avi", CLIP, "mpeg4", options=P)
    full, data = read_video(path)[0], bytearray(path.read_bytes())
    table = data.rindex(b"idx1")
    entry = table + 8 + 16 * 10  # of frame 10
    place = int.from_bytes(data[entry + 8 : entry + 12], "little") + data.index(b"movi")
    assert data[place : place + 4] == b"00dc"
    data[entry + 12 : entry + 16] = data[place + 4 : place + 8] = bytes(4)
    path.write_bytes(data)
    shown, _ = check_numbers(path, 29)
    assert torch.equal(shown[:10], full[:10]) and torch.equal(shown[15:], full[16:])


def test_the_film_need_not_be_the_first_stream(tmp_path):
    for name, disposition in (("cover.mp4", "attached_pic"), ("still.mkv", None)):
        with av.open(str(tmp_path / name), "w") as container:
            cover = container.add_stream("mjpeg", rate=25)
            film = container.add_stream("libx264", rate=25, options=X264)
            for stream, pixels in ((cover, "yuvj420p"), (film, "yuv420p")):
                stream.height = stream.width = 64
                stream.pix_fmt = pixels
            if disposition:
                cover.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(255 - CLIP[0], format="rgb24").reformat(format="yuvj420p")
            container.mux([*cover.encode(picture), *cover.encode()])
            for image in CLIP:
                container.mux(film.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            container.mux(film.encode())
        shown, _ = check_numbers(tmp_path / name, 30)
        assert (shown[0].int() - torch.from_numpy(CLIP[0]).permute(2, 0, 1).int()).abs().float().mean() < 10


def test_the_suffix_need_not_match_the_container(tmp_path):
    for container in (".ts", ".mkv", ".mpg", ".avi", ".flv"):
        codec = "mpeg2video" if container == ".mpg" else "libx264"
        path = encode(tmp_path / f"a{container}", CLIP, codec, options=P)
        check_numbers(path.rename(tmp_path / f"a{container[1:]}.mp4"), 30)


def test_the_headers_frame_rate_may_be_wrong(tmp_path):
    path = encode(tmp_path / "a.mkv", CLIP, "mpeg4", options=P)
    data = bytearray(path.read_bytes())
    place = data.index(bytes.fromhex("23e383")) + 4  # DefaultDuration
    data[place : place + 4] = (10_000_000).to_bytes(4)  # nanoseconds: 100 frames per second
    path.write_bytes(data)
    index = index_frames(path)
    assert index.fps == pytest.approx(25, rel=0.05) and len(index.times) == 30
