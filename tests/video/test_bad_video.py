"""Files that are not videos, or are damaged, are reported by name."""

import io
import re
import zipfile

import av
import numpy as np
import pytest
import torch
from PIL import Image

from latte.shapes.draw import make_clip
from latte.video.read import count_frames, read_video
from latte.video.write import write_video

CLIP = torch.from_numpy(make_clip(0, 3).video)
IMAGES = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in CLIP]


def save_npz(path, header, content=b""):
    """Write an npz by hand, with any header and any content."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"fortran_order": False, "descr": "|u1", **header})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("video.npy", file.getvalue() + content)
    return path


@pytest.mark.parametrize(
    ("name", "change", "say"),
    [
        *[("a.mp4", {"fps": fps}, "0.1 to 1000") for fps in (0, -8, 1e-9, 1e20, float("inf"), float("nan"))],
        ("a.gif", {"fps": 60}, "0.1 to 50"),
        ("a.npz", {"fps": 0}, "0.1 to 1000"),
        ("a.gif", {"lossless": True}, "cannot be lossless"),
        ("a.mp4", {"frames": np.zeros((1, 2, 20000, 3), np.uint8)}, "2 x 20000"),
        ("a.mp4", {"frames": CLIP[:0]}, "no frames"),
        ("a.mp4", {"frames": []}, "no frames"),
        ("a.mp4", {"frames": CLIP[..., :0]}, "no pixels"),
        ("a.mp4", {"frames": [IMAGES[0], IMAGES[0].resize((8, 8))]}, "differ in size"),
        ("a.mp4", {"frames": CLIP[0]}, "expected"),
        ("a.mp4", {"frames": CLIP.long()}, "int64"),
        ("a.mp4", {"frames": CLIP > 9}, "bool"),
        ("a.mp4", {"frames": np.full((2, 8, 8, 3), np.nan)}, "not finite"),
        ("a.doc", {}, "cannot write .doc"),
        ("a", {}, "without suffix"),
    ],
)
def test_unsuitable_videos_are_rejected_before_anything_is_written(name, change, say, tmp_path):
    with pytest.raises(ValueError, match=say):
        write_video(**{"frames": CLIP, "path": tmp_path / "new" / name, **change})
    assert not (tmp_path / "new").exists()


def test_an_encoder_that_fails_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("latte.video.write.MAX_SIDE", 1 << 20)
    with pytest.raises(ValueError, match=r"a\.webp cannot be encoded: ") as raised:
        write_video(np.zeros((1, 2, 20000, 3), np.uint8), tmp_path / "a.webp")
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def damaged(folder):
    """Write files that are not videos; return the expected error message for each, by name."""
    good = {suffix: write_video(CLIP, folder / f"good{suffix}").read_bytes() for suffix in (".mp4", ".npz", ".webp")}
    bits = bytearray(good[".npz"])
    bits[len(bits) // 2] ^= 255
    (folder / "text.mp4").write_text("not a video")
    (folder / "other.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    (folder / "cut.mp4").write_bytes(good[".mp4"][: len(good[".mp4"]) // 3])
    (folder / "cut.npz").write_bytes(good[".npz"][: len(good[".npz"]) // 2])
    (folder / "cut.webp").write_bytes(good[".webp"][: len(good[".webp"]) // 2])
    (folder / "flipped.npz").write_bytes(bits)
    (folder / "empty.gif").write_bytes(b"")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux([*stream.encode(silence), *stream.encode()])
    np.savez(folder / "wrong.npz", video=np.zeros((2, 3)))
    np.savez(folder / "words.npz", video=np.array(["words"]))
    np.savez(folder / "objects.npz", video=np.array([{}], object))
    np.savez(folder / "none.npz")
    np.save(folder / "bare.npy", CLIP.numpy())
    (folder / "bare.npy").rename(folder / "bare.npz")
    save_npz(folder / "short.npz", {"shape": (2, 8, 8, 3)}, bytes(10))
    save_npz(folder / "absurd.npz", {"shape": (1 << 20, 64, 64, 3)})
    save_npz(folder / "header.npz", {"shape": (2, 8, 8, 3), "more": "x" * 20000})
    for name in ("folder", "sizes", "program", "bomb"):
        (folder / name).mkdir()
    (folder / "program/0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    for size in (8, 9):
        IMAGES[0].resize((size, size)).save(folder / f"sizes/{size}.png")
    Image.new("1", (20000, 20000)).save(folder / "bomb/0.png")
    return {
        "text.mp4": "Invalid data",
        "other.mp4": "Invalid",
        "cut.mp4": "Invalid data",
        "cut.npz": "not a zip file",
        "cut.webp": "could not create decoder",
        "flipped.npz": "CRC|decompressing",
        "empty.gif": "End of file",
        "sound.mp4": "no video stream",
        "wrong.npz": "expected uint8 .* found float64",
        "words.npz": "expected uint8 .* found <U5",
        "objects.npz": "expected uint8 .* found object",
        "none.npz": "holds no array",
        "bare.npz": "not a zip file",
        "short.npz": "384 bytes that its header claims",
        "absurd.npz": "more than the limit of 4294967296",
        "header.npz": "no array with a readable header",
        "folder": "no frames",
        "sizes": "differ in size",
        "program": "0.png.*cannot identify image",
        "bomb": "0.png.*exceeds limit",
    }


def test_bad_files_are_reported_by_name(tmp_path):
    for name, say in damaged(tmp_path).items():
        with pytest.raises(
            ValueError, match=f"{re.escape(str(tmp_path / name))} cannot be decoded: .*({say})"
        ) as raised:
            read_video(tmp_path / name)
        assert "\n" not in str(raised.value) and "pickle" not in str(raised.value)
        assert raised.type is ValueError
    with pytest.raises(FileNotFoundError, match="no video at"):
        read_video(tmp_path / "nowhere.mp4")
    (tmp_path / "a.doc").touch()
    with pytest.raises(ValueError, match=r"a\.doc: unsupported video suffix"):
        read_video(tmp_path / "a.doc")


def test_an_npz_is_counted_by_its_header(tmp_path):
    """It is read only as far as its header claims, since zip compresses up to a thousandfold."""
    path = save_npz(tmp_path / "a.npz", {"shape": (1000, 64, 64, 3)}, b"less")
    assert count_frames(path) == 1000
    with pytest.raises(ValueError, match="more than the limit of 4294967296"):
        count_frames(save_npz(tmp_path / "absurd.npz", {"shape": (1 << 20, 64, 64, 3)}))
    path = save_npz(tmp_path / "b.npz", {"shape": (1, 8, 8, 3)}, bytes(1 << 24))
    with pytest.raises(ValueError, match="192 bytes"):
        read_video(path)


def test_npz_of_channels_first_or_of_another_name(tmp_path):
    np.savez(tmp_path / "a.npz", clip=CLIP.numpy(), other=np.zeros(3))
    assert torch.equal(read_video(tmp_path / "a.npz")[0], CLIP)
    np.savez(tmp_path / "b.npz", other=np.zeros(3), video=np.asfortranarray(CLIP.permute(0, 2, 3, 1).numpy()))
    assert torch.equal(read_video(tmp_path / "b.npz")[0], CLIP)
