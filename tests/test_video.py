"""Videos in and out: what is written is what is read, and a bad file is told by name."""

import io
import os
import re
import tempfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from latte.gallery import contact_sheet, plain, tile, wrap, write_page
from latte.shapes import make_clip
from latte.video import (
    count_frames,
    export_to_gif,
    export_to_video,
    from_uint8,
    list_videos,
    read_blocks,
    read_video,
    to_uint8,
    write_video,
)

CLIP = torch.from_numpy(make_clip(0, 3).video)
IMAGES = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in CLIP]


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.double() - b.double()).square().mean()))


def encode(path, codec, pixels="yuv420p", **options):
    """CLIP in a codec that write_video does not offer."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 64, pixels, 4_000_000
        if "rotation" in options:
            stream.set_display_rotation(options["rotation"])
        for image in IMAGES:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def save_npz(path, header, content=b""):
    """An npz by hand: whatever header, whatever content."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"fortran_order": False, "descr": "|u1", **header})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("video.npy", file.getvalue() + content)
    return path


@pytest.mark.parametrize(("name", "lossless"), [("a.mkv", False), ("a.mp4", True), ("a.npz", False), ("a.webp", True)])
def test_lossless_round_trip(name, lossless, tmp_path):
    frames, _ = read_video(write_video(CLIP, tmp_path / name, lossless=lossless))
    assert torch.equal(frames, CLIP)
    assert count_frames(tmp_path / name) == 16
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "least"), [("a.mp4", 32), ("a.gif", 40), ("a.webp", 35), ("LOUD.MP4", 32)])
def test_lossy_round_trip(name, least, tmp_path):
    frames, fps = read_video(write_video(CLIP, tmp_path / name, fps=8))
    assert frames.shape == CLIP.shape and psnr(frames, CLIP) > least
    assert fps == pytest.approx(8, rel=0.01)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.mp4", "a.mkv"])
@pytest.mark.parametrize("fps", [0.1, 8, 24, 50])
def test_frames_that_repeat_are_kept_and_so_is_the_rate(name, fps, tmp_path):
    still = CLIP[[0] * 10 + [1] * 5 + [0] * 10]
    frames, rate = read_video(write_video(still, tmp_path / name, fps=fps))
    assert len(frames) == count_frames(tmp_path / name) == 25 and psnr(frames, still) > 32
    assert rate == pytest.approx(fps, rel=0.02)


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_pictures_move_for_ever(name, tmp_path):
    with Image.open(write_video(CLIP, tmp_path / name)) as image:
        assert image.info["loop"] == 0 and image.n_frames == 16


def test_mp4_is_what_every_player_plays(tmp_path):
    with av.open(str(write_video(CLIP, tmp_path / "a.mp4", fps=8))) as container:
        (stream,) = container.streams
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.mov", "mpeg4")])
def test_foreign_containers(name, codec, tmp_path):
    frames, fps = read_video(encode(tmp_path / name, codec))
    assert psnr(frames, CLIP) > 28 and fps == pytest.approx(12, rel=0.01)
    assert count_frames(tmp_path / name) == 16 and list_videos(tmp_path) == [tmp_path / name]


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_a_phones_clip_is_turned_upright(rotation, tmp_path):
    """The flag says how far to turn a frame, anticlockwise."""
    path = encode(tmp_path / "phone.mp4", "libx264", rotation=rotation)
    expected = torch.rot90(CLIP, rotation // 90, (2, 3))
    assert psnr(read_video(path)[0], expected) > 30 and psnr(next(read_blocks(path)), expected) > 30


def test_chosen_frames_are_those_of_the_whole(tmp_path):
    long = torch.randint(0, 256, (60, 3, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in ("a.mkv", "a.npz", "a.mp4", "a.webp"):
        path = write_video(long, tmp_path / name)
        whole, _ = read_video(path)
        assert torch.equal(read_video(path, [50, 3, 3, 17])[0], whole[[50, 3, 3, 17]])
        assert torch.equal(torch.cat(list(read_blocks(path, 25))), whole)
        assert count_frames(path) == 60
        with pytest.raises(ValueError, match=rf"{name} cannot be decoded: it has no frame of number 60"):
            read_video(path, [60, 2])
        with pytest.raises(ValueError, match="frame numbers must be 0 or more"):
            read_video(path, [-1])


def test_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    for i, image in enumerate(IMAGES):
        image.save(tmp_path / f"frame_{i}.png")
    assert torch.equal(read_video(tmp_path)[0], CLIP)
    assert torch.equal(read_video(tmp_path, [10, 2])[0], CLIP[[10, 2]])
    assert torch.equal(torch.cat(list(read_blocks(tmp_path, 5))), CLIP)
    assert list_videos(tmp_path) == [tmp_path] and count_frames(tmp_path) == 16


def test_pictures_with_alpha_grey_or_a_cameras_flag(tmp_path):
    seen = IMAGES[0].copy()
    seen.putalpha(128)
    seen.save(tmp_path / "0.png")
    IMAGES[0].convert("L").save(tmp_path / "1.png")
    lying = Image.Exif()
    lying[0x0112] = 8  # orientation: to be turned a quarter anticlockwise
    IMAGES[0].save(tmp_path / "2.png", exif=lying)
    alpha, grey, turned = read_video(tmp_path)[0]
    assert torch.equal(alpha, CLIP[0]) and (grey == grey[:1]).all() and torch.equal(turned, CLIP[0].rot90(1, (1, 2)))


def test_odd_sizes_are_made_even_for_mp4(tmp_path):
    frames, _ = read_video(write_video(CLIP[:, :, :63, :61], tmp_path / "odd.mp4"))
    assert frames.shape == (16, 3, 64, 62)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.webp", "a.npz", "10:30.mkv"])
def test_smallest_clip(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames, _ = read_video(write_video(CLIP[:1, :, 30:31, 30:31], name))
    assert frames.shape in ((1, 3, 1, 1), (1, 3, 2, 2))


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
def test_what_cannot_be_written_is_refused_before_anything_is(name, change, say, tmp_path):
    with pytest.raises(ValueError, match=say):
        write_video(**{"frames": CLIP, "path": tmp_path / "new" / name, **change})
    assert not (tmp_path / "new").exists()


def test_an_encoder_that_fails_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("latte.video_write.LONGEST_SIDE", 1 << 20)
    with pytest.raises(ValueError, match=r"a\.webp cannot be encoded: ") as told:
        write_video(np.zeros((1, 2, 20000, 3), np.uint8), tmp_path / "a.webp")
    assert "\n" not in str(told.value) and not list(tmp_path.iterdir())


def test_exports_take_what_diffusers_takes(tmp_path):
    arrays = [np.asarray(image) / 255 for image in IMAGES]
    assert psnr(read_video(export_to_video(arrays, str(tmp_path / "a.mp4"), fps=8))[0], CLIP) > 32
    assert len(read_video(export_to_gif(IMAGES, str(tmp_path / "a.gif")))[0]) == 16


def test_temporary_exports_leave_nothing_open_or_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for export in (export_to_video, export_to_gif):
        with pytest.raises(ValueError, match="no frames"):
            export([])
        assert not list(tmp_path.iterdir())
    assert read_video(export_to_video(IMAGES))[0].shape == read_video(export_to_gif(IMAGES))[0].shape == CLIP.shape
    assert held is None or len(os.listdir("/proc/self/fd")) == held


@pytest.mark.parametrize(
    "frames",
    [
        CLIP.float() / 255,
        [frame.float() / 255 for frame in CLIP],
        CLIP.permute(0, 2, 3, 1).numpy(),
        IMAGES,
        [image.convert("RGBA") for image in IMAGES],
    ],
    ids=["tensor", "tensors", "array", "pictures", "alpha"],
)
def test_kinds_of_frames(frames, tmp_path):
    assert torch.equal(read_video(write_video(frames, tmp_path / "a.npz"))[0], CLIP)


def test_half_precision_and_grey_pictures(tmp_path):
    half = read_video(write_video((CLIP.float() / 255).bfloat16(), tmp_path / "half.npz"))[0]
    assert (half.int() - CLIP.int()).abs().max() <= 1
    grey = read_video(write_video([image.convert("L") for image in IMAGES], tmp_path / "grey.npz"))[0]
    assert torch.equal(grey[:, 0], grey[:, 2]) and psnr(grey, CLIP) > 15


def test_bytes_and_floats():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0, 128, 255]


def damaged(folder):
    """Files that are no videos: name -> what is said of them."""
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
    with zipfile.ZipFile(folder / "second.npz", "w") as archive, archive.open("video.npy", "w") as file:
        np.lib.format.write_array(file, CLIP.numpy(), version=(2, 0))  # whose header may be of 4 GB
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
        "wrong.npz": "expected bytes .* found float64",
        "words.npz": "expected bytes .* found <U5",
        "objects.npz": "expected bytes .* found object",
        "none.npz": "holds no array",
        "bare.npz": "not a zip file",
        "short.npz": "384 bytes that its header claims",
        "absurd.npz": "more than 4294967296",
        "second.npz": "no array whose header can be read",
        "header.npz": "no array whose header can be read",
        "folder": "no frames",
        "sizes": "differ in size",
        "program": "0.png.*cannot identify image",
        "bomb": "0.png.*exceeds limit",
    }


def test_bad_files_are_told_by_name(tmp_path):
    for name, say in damaged(tmp_path).items():
        with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))} cannot be decoded: .*({say})") as told:
            read_video(tmp_path / name)
        assert "\n" not in str(told.value) and "pickle" not in str(told.value)
        assert told.type is ValueError
    with pytest.raises(FileNotFoundError, match="no video at"):
        read_video(tmp_path / "nowhere.mp4")
    (tmp_path / "a.doc").touch()
    with pytest.raises(ValueError, match=r"a\.doc: not a video by its suffix"):
        read_video(tmp_path / "a.doc")


def test_an_npz_is_counted_by_its_header(tmp_path):
    """And read no further than it claims: zip packs a thousandfold."""
    path = save_npz(tmp_path / "a.npz", {"shape": (1000, 64, 64, 3)}, b"less")
    assert count_frames(path) == 1000
    with pytest.raises(ValueError, match="more than 4294967296"):
        count_frames(save_npz(tmp_path / "absurd.npz", {"shape": (1 << 20, 64, 64, 3)}))
    path = save_npz(tmp_path / "b.npz", {"shape": (1, 8, 8, 3)}, bytes(1 << 24))
    with pytest.raises(ValueError, match="192 bytes"):
        read_video(path)


def test_npz_of_channels_first_or_of_another_name(tmp_path):
    np.savez(tmp_path / "a.npz", clip=CLIP.numpy(), other=np.zeros(3))
    assert torch.equal(read_video(tmp_path / "a.npz")[0], CLIP)
    np.savez(tmp_path / "b.npz", other=np.zeros(3), video=np.asfortranarray(CLIP.permute(0, 2, 3, 1).numpy()))
    assert torch.equal(read_video(tmp_path / "b.npz")[0], CLIP)


def test_contact_sheet(tmp_path):
    videos = torch.stack([CLIP, CLIP.flip(0), 255 - CLIP])
    captions = ["a", "line\nof <b>\0 words" * 99, "x" * 500]
    sheet = np.asarray(Image.open(contact_sheet(videos, captions, tmp_path / "sheet.png", columns=4)))
    assert np.array_equal(sheet[:64, -64:], CLIP[15].permute(1, 2, 0)) and sheet.shape[0] == 3 * 64 + 2 * 4
    assert np.array_equal(sheet[136:, -64:], 255 - CLIP[15].permute(1, 2, 0)) and sheet.shape[1] < 600
    double = np.asarray(Image.open(contact_sheet(videos, captions, tmp_path / "sheet.png", columns=4, scale=2)))
    assert np.array_equal(double[:128:2, -128::2], CLIP[15].permute(1, 2, 0))


def test_captions_are_plain_and_short():
    assert plain("a\x1b[31m\nb\u202ec\ud800") == "a [31m b c"
    lines = wrap("word " * 99, 3).split("\n")
    assert len(lines) == 3 and max(map(len, lines)) <= 28 and lines[-1].endswith("…")


def test_tile():
    videos = torch.stack([CLIP, CLIP.flip(0), 255 - CLIP])
    tiled = tile(videos, 2)
    assert tiled.shape == (16, 3, 128, 128) and torch.equal(tiled[:, :, 64:, :64], videos[2])
    assert torch.equal(tiled[:, :, :64, 64:], videos[1]) and (tiled[:, :, 64:, 64:] == 255).all()


def test_page_shows_every_file_and_no_markup_of_others(tmp_path):
    names = [f"{i}.mp4" for i in range(20)] + ["a #1?.mp4", 'q".webm', "moving.webp"]
    files = [(name, f"clip {name} <script>\0</script>") for name in names]
    page = write_page(tmp_path, files, "title <i>", {"fact": "1 & 2\x07"}).read_text()
    assert re.findall(r"<(?:video|img) src=\"([^\"]*)\"", page) == [
        *names[:20],
        "a%20%231%3F.mp4",
        "q%22.webm",
        "moving.webp",
    ]
    assert page.count("<figcaption>clip ") == 23 and '<img src="moving.webp"' in page
    assert "&lt;script&gt; &lt;/script&gt;" in page and "<script" not in page and "\0" not in page
    assert "<h1>title &lt;i&gt;</h1>" in page and "<dt>fact</dt><dd>1 &amp; 2</dd>" in page
    assert "color-scheme: light dark" in page


@pytest.mark.parametrize(
    ("call", "say"),
    [
        (lambda folder: contact_sheet(torch.empty(0, 4, 3, 8, 8), [], folder / "a.png"), "no videos"),
        (lambda folder: contact_sheet(CLIP[None], [], folder / "a.png"), "1 videos, 0 captions"),
        (lambda folder: contact_sheet(CLIP[None], ["a"], folder / "a.png", columns=0), "columns is 0"),
        (lambda folder: contact_sheet(CLIP[None], ["a"], folder / "a.png", scale=0), "scale 0"),
        (lambda folder: tile(torch.empty(0, 4, 3, 8, 8), 2), "no videos"),
        (lambda folder: tile(CLIP[None], 0), "columns is 0"),
        (lambda folder: write_page(folder, [], "title", {}), "no videos"),
    ],
)
def test_what_cannot_be_laid_out(call, say, tmp_path):
    with pytest.raises(ValueError, match=say):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("LATTE_TEST_DATA" not in os.environ, reason="LATTE_TEST_DATA names no folder of real clips")
def test_real_clips():
    root = Path(os.environ["LATTE_TEST_DATA"])
    paths = [*(root / "ucf101").glob("v_*.avi"), root / "ucf101/example0.mp4", *(root / "clips").glob("*.mkv")]
    assert len(paths) == 4
    for path in paths:
        frames, fps = read_video(path)
        assert len(frames) == count_frames(path) and 5 < fps < 61
        assert torch.equal(read_video(path, [9, 4])[0], frames[[9, 4]])
    assert len(read_video(root / "ucf101/v_Archery_320x240.avi")[0]) == 131
