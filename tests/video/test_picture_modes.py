"""Frames in pictures of every mode are read correctly, or rejected with a reason: never turned white."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from latte.video import read_video, write_video
from latte.video.picture_modes import picture_to_rgb

DEEP = (np.arange(24 * 32).reshape(24, 32) * 85 + 100).astype(np.uint16)  # 100 to 65295
LEVELS = np.round(DEEP / 257).astype(np.uint8)
COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))


def png(colour_type: int, channels: int) -> bytes:
    """A PNG with 16 bits per channel, which Pillow cannot write for all colour types."""
    rows = b"".join(b"\0" + np.stack([row] * channels, -1).astype(">u2").tobytes() for row in DEEP)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", 32, 24, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_pictures_of_16_bits(colour_type, channels, tmp_path):
    """Pillow by itself keeps the upper byte of colours, and turns grey white."""
    (tmp_path / "0.png").write_bytes(png(colour_type, channels))
    frame = read_video(tmp_path)[0][0]
    wanted = LEVELS if colour_type == 0 else DEEP >> 8
    assert all(np.array_equal(channel, wanted) for channel in frame.numpy())


def test_sixteen_bit_grey_rotated_by_exif(tmp_path):
    lying = Image.Exif()
    lying[0x0112] = 8  # EXIF orientation: rotate by 90 degrees anticlockwise
    Image.fromarray(DEEP).save(tmp_path / "0.png", exif=lying)
    assert torch.equal(read_video(tmp_path)[0][0, 0], torch.from_numpy(LEVELS).rot90())


@pytest.mark.parametrize(
    "picture",
    [
        COLOURS.convert("1"),
        COLOURS.convert("L"),
        COLOURS.convert("LA"),
        COLOURS.quantize(16),
        COLOURS.convert("P"),
        COLOURS.convert("RGBA"),
        COLOURS.convert("CMYK"),
        COLOURS.convert("YCbCr"),
        COLOURS.convert("HSV"),
        COLOURS.convert("1").convert("I;16"),
    ],
    ids=lambda picture: picture.mode,
)
def test_pictures_of_every_mode_are_written(picture, tmp_path):
    read = read_video(write_video([picture], tmp_path / "a.npz"))[0][0].permute(1, 2, 0).numpy()
    if picture.mode == "I;16":
        assert np.array_equal(read[..., 0], np.round(np.asarray(picture) / 257))
    else:
        assert np.array_equal(read, np.asarray(picture.convert("RGB")))


def test_a_palette_with_transparency_and_inverted_cmyk(tmp_path):
    COLOURS.quantize(16).save(tmp_path / "0.png", transparency=3)
    assert torch.equal(
        read_video(tmp_path)[0][0].permute(1, 2, 0), torch.from_numpy(np.array(COLOURS.quantize(16).convert("RGB")))
    )
    (tmp_path / "0.png").unlink()
    COLOURS.resize((64, 48)).convert("CMYK").save(tmp_path / "0.jpg", quality=95)
    difference = read_video(tmp_path)[0][0].permute(1, 2, 0).int().numpy() - np.asarray(COLOURS.resize((64, 48)), int)
    assert np.abs(difference).mean() < 12


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_white_are_refused(mode, tmp_path):
    picture = Image.fromarray(DEEP.astype("i4" if mode == "I" else "f4"))
    with pytest.raises(ValueError, match=f"mode {mode} holds 32-bit values, here from 100 to 65295"):
        picture_to_rgb(picture)
    with pytest.raises(ValueError, match="convert it to 8 bits"):
        write_video([picture], tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
    assert np.array_equal(picture_to_rgb(Image.open(io.BytesIO(png(0, 1))))[..., 0], LEVELS)
