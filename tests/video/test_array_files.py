"""Common ways to store videos in arrays: each is read correctly, or rejected with a note of what was found."""

import io
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch

from latte.eval.statistics import is_statistics
from latte.video import (
    array_files,
    count_frames,
    export_to_video,
    inspect_video,
    list_videos,
    read_video,
    to_uint8,
    write_video,
)
from latte.video.array_files import find_videos, set_paths

CLIP = np.random.default_rng(0).integers(0, 256, (6, 3, 24, 24), np.uint8)  # (f, 3, h, w)
CLIP[0, 0, 0, :2] = 0, 255  # in every part of it that is used here
LAST = CLIP.transpose(0, 2, 3, 1)
GREY = CLIP[:, 0]
SET = np.stack([LAST, LAST[::-1], LAST // 2])
TENSOR = torch.from_numpy(CLIP)
REPEATED = torch.from_numpy(GREY)[:, None].repeat(1, 3, 1, 1)
AS_FLOATS = LAST / 255


def saved(folder, suffix=".npz", *arrays, **named):
    """A file of arrays."""
    path = folder / f"a{suffix}"
    np.save(path, arrays[0]) if suffix == ".npy" else np.savez(path, *arrays, **named)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (LAST, TENSOR),
        (CLIP, TENSOR),
        (LAST[None], TENSOR),
        (CLIP[None], TENSOR),
        (CLIP.transpose(1, 0, 2, 3)[None], TENSOR),  # (n, 3, f, h, w)
        (np.asfortranarray(LAST), TENSOR),
        (np.concatenate([LAST, LAST[..., :1]], -1), TENSOR),  # alpha is dropped
        (GREY, REPEATED),
        (GREY[..., None], REPEATED),
        (GREY[:, None], REPEATED),
        *[(AS_FLOATS.astype(kind), TENSOR) for kind in ("f2", "f4", "f8")],
        *[((AS_FLOATS * 2 - 1).astype(kind), TENSOR) for kind in ("f2", "f4", "f8")],
        (LAST.astype("f4"), TENSOR),  # from 0 to 255
        (LAST.astype("i8"), TENSOR),
        (LAST.astype("u2"), TENSOR),
        (GREY / 255, REPEATED),
    ],
)
def test_formats_of_one_video(suffix, array, wanted, tmp_path):
    path = saved(tmp_path, suffix, array)
    assert torch.equal(read_video(path)[0], wanted) and count_frames(path) == len(CLIP)
    assert torch.equal(read_video(path, [4, 1])[0], wanted[[4, 1]])
    assert list_videos(tmp_path) == [path]


@pytest.mark.parametrize(
    ("array", "say"),
    [
        (
            AS_FLOATS * 1.1,
            "float64 from 0 to 1.1; expected 0 to 255 with some above 127, 0 to 1, or -1 to 1 with some below",
        ),
        (AS_FLOATS * 1.2 - 0.2, "from -0.2 to 1"),  # either [0, 1] with overshoot, or [-1, 1]
        (AS_FLOATS * 2000, "from 0 to 2000"),
        (AS_FLOATS * 4 - 2, "from -2 to 2"),
        (LAST.astype("u2") * 16, "uint16 from 0 to 4080"),
        (LAST.astype("i8") - 1, "int64 from -1 to 254"),
        ((LAST > 9).astype("i8"), "int64 from 0 to 1"),
        (LAST > 9, "found bool"),
        (LAST * 0.0, "all values are 0 in float64, which is black in some ranges and grey in others"),
        (np.where(AS_FLOATS > 0.9, np.nan, AS_FLOATS), "NaN or infinite"),
        (np.where(AS_FLOATS > 0.9, np.inf, AS_FLOATS), "NaN or infinite"),
        (np.zeros((6, 4, 24, 24), np.float32), r"expected uint8 frames .* found float32 \(6, 4, 24, 24\)"),  # latents
        (CLIP.transpose(1, 0, 2, 3), r"found uint8 \(3, 6, 24, 24\)"),  # or three grey videos
        (LAST[0], "may be that of one picture"),
        (CLIP[0], "may be that of one picture"),
        (np.zeros((9, 5)), "found float64"),
        (LAST.astype("c8"), "found complex64"),
    ],
)
def test_ambiguous_arrays_are_rejected_with_a_description(array, say, tmp_path):
    path = saved(tmp_path, ".npz", array)
    with pytest.raises(ValueError, match=rf"a\.npz cannot be decoded: .*{say}"):
        read_video(path)


def test_the_video_is_selected_among_several_arrays(tmp_path):
    path = saved(tmp_path, actions=np.zeros((6, 2)), depth=GREY, frames=LAST, label=np.int64(3))
    assert torch.equal(read_video(path)[0], TENSOR)
    path = saved(tmp_path, left=LAST, right=LAST, video=CLIP[::-1])
    assert torch.equal(read_video(path)[0], TENSOR.flip(0))
    path = saved(tmp_path, target=LAST, prediction=LAST)
    with pytest.raises(ValueError, match=r"several arrays that may be the video: target uint8 .*, prediction"):
        read_video(path)


@pytest.mark.parametrize("form", ["one", "several", "npy", "compressed", "channels first", "floats", "grey"])
def test_videos_of_a_set_are_numbered(form, tmp_path):
    path, wanted = tmp_path / "set.npz", torch.from_numpy(SET).permute(0, 1, 4, 2, 3)
    if form == "one":
        np.savez(path, SET)
    elif form == "several":
        np.savez(path, *SET)
    elif form == "npy":
        path = path.with_suffix(".npy")
        np.save(path, SET)
    elif form == "compressed":
        np.savez_compressed(path, samples=SET)
    elif form == "channels first":
        np.savez(path, SET.transpose(0, 4, 1, 2, 3))
    elif form == "floats":  # the darkest one shows the range, also for those without a negative value
        np.savez(path, np.stack([SET[0] / 127.5 - 1, SET[1] / 127.5 - 1, SET[2] / 255 + 0.2]).astype("f4"))
        wanted[2] = (torch.from_numpy(SET[2] / 255 + 1.2) * 127.5).round().byte().permute(0, 3, 1, 2)
    elif form == "grey":
        np.savez(path, SET[..., :1])
        wanted = wanted[:, :, :1].repeat(1, 1, 3, 1, 1)
    paths = set_paths(path)
    assert paths == [path / f"{i:06d}" for i in range(3)]
    for video, one in zip(wanted, paths):
        difference = (read_video(one)[0].int() - video.int()).abs().max()
        assert difference <= (form == "floats") and count_frames(one) == 6  # float32 rounds some halves the other way
    with pytest.raises(ValueError, match=r"set\.np. cannot be decoded: it holds a set of 3 videos"):
        read_video(path)
    with pytest.raises(ValueError, match="holds 3 videos, but none with number 3"):
        read_video(path / "000003")


def test_large_arrays_are_mapped_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_READ_BYTES", SET[0].nbytes)
    for i, save in enumerate((np.savez, np.save)):
        path = tmp_path / f"{i}.{['npz', 'npy'][i]}"
        save(path, SET)
        assert torch.equal(read_video(path / "000001")[0], torch.from_numpy(SET[1]).permute(0, 3, 1, 2))
    np.savez_compressed(tmp_path / "small.npz", SET)
    with pytest.raises(ValueError, match=r"unpacks to .* bytes; write sets of more than"):
        read_video(tmp_path / "small.npz/000001")
    damaged = bytearray((tmp_path / "0.npz").read_bytes())
    damaged[5000] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read_video(tmp_path / "damaged.npz/000001")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "1.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="does not have the 31104 bytes"):
        read_video(tmp_path / "cut.npy/000001")


def test_a_set_of_several_large_arrays_is_mapped_too(tmp_path, monkeypatch):
    """Their total size counts, since all are opened together."""
    monkeypatch.setattr(array_files, "MAX_READ_BYTES", 2 * SET[0].nbytes)
    np.savez(tmp_path / "set.npz", *SET)
    assert torch.equal(read_video(tmp_path / "set.npz/000001")[0], torch.from_numpy(SET[1]).permute(0, 3, 1, 2))
    assert isinstance(
        array_files.load_all(tmp_path / "set.npz", find_videos(tmp_path / "set.npz")).arrays[0], np.memmap
    )
    np.savez_compressed(tmp_path / "small.npz", *SET)
    with pytest.raises(ValueError, match=r"unpacks to .* bytes; write sets of more than"):
        read_video(tmp_path / "small.npz/000001")


@pytest.mark.parametrize(
    ("shape", "dtype", "say"),
    [
        ((2, 4097, 4096), "u1", r"frames have 4097 x 4096 pixels, more than the limit of 16,777,216 pixels"),
        ((2, 3, 4097, 4096), "u1", "frames have 4097 x 4096 pixels"),
        (
            (600, 2048, 2048, 1),
            "u1",
            "600 frames of 2048 x 2048 pixels take 7549747200 bytes, .*: convert it to a video",
        ),
        ((100, 2048, 2048, 3), "f8", "100 frames of 2048 x 2048 pixels take 10066329600 bytes"),
        ((3, 1 << 62, 1 << 62, 3), "u1", "pixels, more than the limit"),
        ((-8, -8, 8, 3), "u1", "no array with a readable header"),
        (f"({'-' * 3000}1,)", "u1", "no array with a readable header"),
    ],
)
def test_array_sizes_are_checked_before_reading(shape, dtype, say, tmp_path):
    """Also for grey arrays, which take three times their size as RGB."""
    text = f"{{'descr': '{np.dtype(dtype).str}', 'fortran_order': False, 'shape': {shape}}}"
    head = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    (tmp_path / "a.npy").write_bytes(head)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("video.npy", head)
    for name in ("a.npy", "a.npz"):
        for read in (read_video, count_frames, inspect_video):
            with pytest.raises(ValueError, match=say):
                read(tmp_path / name)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format(version, tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, LAST, version)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "video.npy")
    for name in ("a.npy", "a.npz"):
        assert torch.equal(read_video(tmp_path / name)[0], TENSOR) and count_frames(tmp_path / name) == 6


@pytest.mark.parametrize("end", [b"\x02\x00\xff\xff\xff\x7f" + b" " * 100, b"\x02\x00\xff", b"\x04\x00v\x00{}"])
def test_headers_of_invalid_lengths_and_versions_are_rejected(end, tmp_path):
    """A compressed header of gigabytes is not unpacked."""
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY" + end)
    with pytest.raises(ValueError, match="no array with a readable header"):
        read_video(tmp_path / "a.npy")


def test_arrays_with_other_content_are_not_videos(tmp_path):
    np.save(tmp_path / "features.npy", np.zeros((9, 400), np.float32))
    np.save(tmp_path / "tokens.npy", np.zeros((9, 77, 4), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    assert list_videos(tmp_path) == []
    (tmp_path / "text.npy").write_text("none")
    (tmp_path / "empty.NPY").touch()
    (tmp_path / "gone.npy").symlink_to("nowhere")
    with pytest.warns(UserWarning) as caught:
        assert list_videos(tmp_path) == []
    said = sorted(str(warning.message).removeprefix(f"left out: {tmp_path}/") for warning in caught)
    assert said == [
        "empty.NPY cannot be read: it holds no array with a readable header",
        "gone.npy cannot be read: No such file or directory",
        "text.npy cannot be read: it holds no array with a readable header",
    ]
    with pytest.raises(ValueError, match="found object"):
        read_video(tmp_path / "objects.npy")
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"fortran_order": False, "descr": "<f8", "shape": (9, 1 << 20, 64, 64, 3)}
    )
    with zipfile.ZipFile(tmp_path / "absurd.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", file.getvalue())
    with pytest.raises(ValueError, match="more than the limit"):
        read_video(tmp_path / "absurd.npz/000000")


def test_one_channel_is_written_as_grey(tmp_path):
    for frames in (
        GREY,
        GREY[..., None],
        GREY[:, None],
        list(GREY),
        list(GREY[:3]),
        GREY / 255,
        torch.from_numpy(GREY),
    ):
        read = read_video(write_video(frames, tmp_path / "a.npz"))[0]
        assert torch.equal(read, REPEATED[: len(read)])
    assert read_video(export_to_video(GREY / 255, tmp_path / "a.mp4"))[0].shape == (6, 3, 24, 24)


@pytest.mark.parametrize(
    ("frames", "say"),
    [
        (AS_FLOATS * 2 - 1, "values from -1 to 1; expected uint8, or floats in"),
        (AS_FLOATS * 255, "values from 0 to 255"),
        (AS_FLOATS + 0.01, "values from 0.01 to 1.01"),
        (AS_FLOATS - 0.01, "values from -0.01 to 0.99"),
        (torch.from_numpy(AS_FLOATS).bfloat16() * 2, "values from 0 to 2"),
        ([*AS_FLOATS, LAST[0]], "values from 0 to 255"),
        (np.where(AS_FLOATS > 0.9, np.nan, AS_FLOATS), "not finite"),
    ],
)
def test_values_out_of_range_are_not_clipped_on_writing(frames, say, tmp_path):
    for name in ("a.mp4", "a.npz", "a.gif"):
        with pytest.raises(ValueError, match=say):
            write_video(frames, tmp_path / name)
    assert not list(tmp_path.iterdir())
    rounded = AS_FLOATS + np.where(AS_FLOATS == 1, 1e-3, 0)  # a rounding error of less than half a level
    assert torch.equal(read_video(write_video(rounded, tmp_path / "a.npz"))[0], TENSOR)


@pytest.mark.parametrize("values", [[-3.0, 0.0], [0.0, 255.0], [0.0, float("nan")], [float("-inf"), 0.0], [0.0, 1.1]])
def test_network_inputs_out_of_range_are_rejected(values):
    with pytest.raises(ValueError, match=r"values from .* to .*; expected finite floats in \[-1, 1\]"):
        to_uint8(torch.tensor(values))


def test_any_damage_to_an_archive_gives_the_same_kind_of_error(tmp_path):
    """Each byte of an npz is changed in turn; zipfile then raises eight classes. What can be read is unchanged."""
    path, refused = tmp_path / "a.npz", 0
    np.savez_compressed(path, SET[0][:2])
    content, sound = path.read_bytes(), read_video(path)[0]
    for place in range(0, len(content), 1 + len(content) // 400):
        for change in (1, 0xFF):
            path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            with suppress(OSError):
                is_statistics(path)  # any other error would fail the test
            try:
                assert torch.equal(read_video(path)[0], sound)
            except ValueError as error:
                refused += str(path) in str(error)
    assert refused > 300
