"""Real-world inputs: unreadable or short videos, sets in one file, prepared folders, and arbitrary file names."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detector import DETECTOR, sketch
from safetensors.torch import save_file

from latte.cli import main
from latte.eval import flicker, psnr, shapes_distance, ssim
from latte.eval.clip_sets import choose_clips
from latte.eval.features import compute_features
from latte.eval.fidelity import compare_pairs
from latte.eval.inputs import Reading
from latte.eval.protocol import PROTOCOLS, adjusted, choose_protocol
from latte.eval.video_comparison import compare_videos
from latte.eval.video_folders import videos_of
from latte.shapes.draw import make_clip
from latte.video import read_video, write_video

EXACT = PROTOCOLS["exact"]
SET = np.stack([make_clip(5, i, frames=18, size=20).video for i in range(6)])  # (n, f, 3, h, w)
SET[:, 0, 0, 0, :2] = 0, 255


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "videos").mkdir()
    for i, video in enumerate(SET):
        np.savez(tmp_path / f"videos/{i}.npz", video)
    return tmp_path / "videos"


def features(clips) -> torch.Tensor:
    return compute_features(clips, [DETECTOR])[0]


def compare(real, generated, protocol=None):
    return compare_videos(real, generated, DETECTOR, Reading(choose_protocol(protocol)))


def test_unopenable_videos_are_left_out_counted_and_named(folder):
    sound = choose_clips(folder, EXACT, "real", 0)
    (folder / "zero.mp4").touch()
    (folder / "page.mp4").write_text("<html>404</html>")
    (folder / "gone.mkv").symlink_to("nowhere")
    (folder / "worn.npy").write_bytes(b"\x93NUMPY")
    with pytest.warns(UserWarning, match=r"left out: .*page\.mp4 cannot be decoded"):
        found = choose_clips(folder, EXACT, "real", 0)
    assert set(found.clips) == set(sound.clips) and found.fingerprint == sound.fingerprint
    assert set(found.unreadable) == {"zero.mp4", "page.mp4", "gone.mkv", "worn.npy"} and found.about["videos"] == 10
    with pytest.warns(UserWarning, match="left out"):
        result = compare(folder, list(SET))
    assert "4 real videos of 10 cannot be read and are left out, such as gone.mkv" in result.caveats
    assert json.loads(json.dumps(result.to_dict()))["real"]["unreadable"].keys() == found.unreadable.keys()
    assert result.value == compare(list(map(str, sorted(folder.glob("*.npz")))), list(SET)).value
    for i in range(4):
        (folder / f"empty{i}.mp4").touch()
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match=r"8 of 14 videos cannot be read"):
        choose_clips(folder, EXACT, "real", 0)


@pytest.mark.parametrize("cached", [False, True])
def test_videos_that_cannot_be_decoded_are_left_out_too(folder, tmp_path, cached):
    """Their headers are valid, so the damage only shows when clips are read."""
    wanted = features(choose_clips(folder, EXACT, "real", 0))
    broken = folder / "2.npz"
    damaged = bytearray(broken.read_bytes())
    damaged[2000] ^= 1
    broken.write_bytes(damaged)
    found, store = choose_clips(folder, EXACT, "real", 0), (tmp_path / "cache" if cached else None)
    kept = [i for i, clip in enumerate(found.clips) if clip.name != "2.npz"]
    for _ in range(2):  # the second time from the cache
        found = choose_clips(folder, EXACT, "real", 0)
        with pytest.warns(UserWarning, match=r"2\.npz cannot be decoded: Bad CRC-32"):
            (row,) = compute_features(found, [DETECTOR], store)
        assert torch.equal(row, wanted[kept])
        assert found.about["clips"] == 5 and found.codecs == {"npz": 5} and list(found.unreadable) == ["2.npz"]
    with pytest.warns(UserWarning, match="left out"):
        result = compare(folder, folder)
    assert sum("1 real video of 6 cannot be read" in caveat for caveat in result.caveats) == 1
    assert sum("1 generated video of 6 cannot be read" in caveat for caveat in result.caveats) == 1
    assert result.value == pytest.approx(0, abs=1e-6)


def test_pairs_of_an_unreadable_video_are_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "reference")
    wanted = compare_pairs(folder, tmp_path / "reference")
    (tmp_path / "reference/3.npz").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        found = compare_pairs(folder, tmp_path / "reference")
    assert found.pairs == 5 and found.means["psnr"] == wanted.means["psnr"] == 100
    assert "1 pair cannot be read and is left out: that of " in str(found)
    assert list(found.to_dict()["unreadable"]) == [str(tmp_path / "reference/3.npz")]


def test_pairwise_functions_name_an_unreadable_file_and_the_command_skips_it(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "reference")
    (folder / "1.npz").unlink()
    (folder / "1.npy").write_bytes(b"\x93NUMPY")
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"videos/1\.npy cannot be decoded"):
            metric(folder, tmp_path / "reference")
    with pytest.raises(ValueError, match=r"videos/1\.npy cannot be decoded"):
        flicker(folder)
    out = tmp_path / "out.json"
    assert main(["eval", str(folder), "--reference", str(tmp_path / "reference"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "5 pairs; psnr 100.0000" in said.out and "note: 1 pair cannot be read and is left out: that of " in said.out
    assert "left out: " in said.err and list(json.loads(out.read_text())["unreadable"]) == [str(folder / "1.npy")]


def test_pairs_from_array_files_match_by_index(tmp_path):
    """Whatever the file suffixes, and whether or not a folder holds the files."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "a/set.npz", SET)
    np.save(tmp_path / "b/set.npy", SET)
    for i, video in enumerate(SET):
        write_video(video, tmp_path / f"c/{i:06d}.mkv")
    np.save(tmp_path / "one.npy", SET[0])
    np.savez(tmp_path / "one.npz", SET[0])
    one, several = (tmp_path / "one.npy", tmp_path / "one.npz"), (tmp_path / "a/set.npz", tmp_path / "b/set.npy")
    for pair in (several, (tmp_path / "a", tmp_path / "b"), (tmp_path / "c", several[1]), one):
        result = compare_pairs(*pair)
        assert result.pairs == (1 if pair == one else 6) and result.means["psnr"] == 100, pair
    (tmp_path / "a/set").mkdir()
    write_video(SET[0], tmp_path / "a/set/000003.mkv")
    with pytest.raises(ValueError, match="have the same name: rename one"):
        compare_pairs(tmp_path / "a", tmp_path / "b")
    torch.save(torch.from_numpy(SET), tmp_path / "set.pt")
    with pytest.raises(ValueError, match=r"set\.pt is a file: name a folder of videos, or a file of arrays"):
        compare_pairs(tmp_path / "set.pt", tmp_path / "b")


FORMS = {
    "set.npz": lambda path: np.savez(path, SET),
    "last.npy": lambda path: np.save(path, SET.transpose(0, 1, 3, 4, 2)),
    "first.npy": lambda path: np.save(path, SET.transpose(0, 2, 1, 3, 4)),
    "several.npz": lambda path: np.savez(path, *SET),
    "floats.npz": lambda path: np.savez(path, samples=(SET / 255).astype("f4"), labels=np.arange(6)),
    "signed.npy": lambda path: np.save(path, SET.astype("f8") / 127.5 - 1),
    "tensor.pt": lambda path: torch.save(torch.from_numpy(SET), path),
    "table.pt": lambda path: torch.save({"videos": torch.from_numpy(SET / 127.5 - 1).float()}, path),
    "videos.safetensors": lambda path: save_file({"videos": torch.from_numpy(SET)}, path),
}


@pytest.mark.parametrize("name", FORMS)
def test_sets_in_one_file(name, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    FORMS[name](tmp_path / "in" / name)
    out = tmp_path / "out.json"
    assert main(["eval", str(tmp_path / "in" / name), "--real", str(tmp_path / "in" / name), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["generated"]["clips"] == 6 and result["distance"] == pytest.approx(0, abs=1e-4)
    if name.endswith(("z", "y")):
        clips = choose_clips(tmp_path / "in", EXACT, "generated", 0)
        assert {clip.name for clip in clips.clips} == {f"{name}/{i:06d}" for i in range(6)}
        for clip, frames in zip(clips.clips, clips.stream(clips.clips)):
            assert np.array_equal(frames, SET[int(clip.name[-6:])][clip.start :][:16])


def test_float_and_grey_arrays_are_accepted():
    wanted = compare(SET, SET[::-1].copy()).value
    for form in (
        SET.astype("f4") / 255,
        torch.from_numpy(SET / 127.5 - 1),
        list(SET / 255),
        SET.transpose(0, 2, 1, 3, 4),
    ):
        assert compare(form, SET[::-1].copy()).value == wanted
    grey = SET[:, :, :1]
    wanted = compare(np.repeat(grey, 3, 2), SET).value
    for form in (grey, grey.transpose(0, 1, 3, 4, 2), list(grey)):
        assert compare(form, SET).value == wanted
    assert flicker(grey) == flicker(np.repeat(grey, 3, 2))
    for bad, say in ((SET / 100, r"float64 from 0 to 2\.55"), (SET * np.nan, "NaN")):
        with pytest.raises(ValueError, match=f"real video 0: expected uint8 .*{say}"):
            compare(bad, SET)


def test_ranges_that_differ_within_a_folder_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", SET[0] / 255)
    np.savez(tmp_path / "b.npz", SET[1] / 127.5 - 1)
    says = pytest.raises(ValueError, match=r"holds arrays in \[-1, 1\] and others in \[0, 1\], so black is unclear")
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    pairs = (lambda: psnr(tmp_path, tmp_path), lambda: psnr(files, files), lambda: compare_pairs(tmp_path, tmp_path))
    for measure in (lambda: choose_clips(tmp_path, EXACT, "real", 0), *pairs, lambda: flicker(tmp_path)):
        with says:
            measure()
    np.savez(tmp_path / "b.npz", SET[1] / 255 * 128)  # in [0, 255]
    with pytest.raises(ValueError, match=r"in \[0, 1\] and others in \[0, 255\]"):
        psnr(tmp_path, tmp_path)
    np.savez(tmp_path / "b.npz", SET[1].astype("i4"))  # integers have a clear range, like bytes
    assert psnr(tmp_path, tmp_path) == 100


def test_folders_without_videos_say_what_they_hold(tmp_path):
    for i in range(3):
        torch.save(torch.zeros(3), tmp_path / f"{i}.pt")
    with pytest.raises(ValueError, match=r"holds no videos, but 3 files with \.pt"):
        choose_clips(tmp_path, EXACT, "real", 0)


@pytest.mark.parametrize("inside", [False, True])
def test_prepared_folders_are_read_through_their_list(inside, tmp_path):
    source = tmp_path / "list/videos" if inside else tmp_path / "source"
    for i in range(3):
        write_video(SET[i], source / f"class/{i}.mkv")
    (tmp_path / "list").mkdir(exist_ok=True)
    videos = [{"path": f"class/{i}.mkv"} for i in range(2)]  # a third was left out
    values = {"format": "latte-videos-1", "root": "videos" if inside else "../source", "videos": videos}
    (tmp_path / "list/index.json").write_text(json.dumps(values))
    found = choose_clips(tmp_path / "list", EXACT, "real", 0)
    prefix = "videos/" if inside else ""  # names as without the list, since the choice of clips depends on them
    assert {clip.name for clip in found.clips} == {f"{prefix}class/{i}.mkv" for i in range(2)}
    assert all(len(clip) == 16 for clip in found.stream(found.clips))
    for change, say in (
        ({"videos": [{"path": "../0.mkv"}]}, "leads out of the folder"),
        ({"videos": 3}, "is damaged or was edited"),
    ):
        (tmp_path / "list/index.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(ValueError, match=say):
            choose_clips(tmp_path / "list", EXACT, "real", 0)
    (tmp_path / "list/index.json").write_text(json.dumps({**values, "root": "none"}))
    with pytest.raises(FileNotFoundError, match="which does not exist: run `latte prepare` again"):
        choose_clips(tmp_path / "list", EXACT, "real", 0)


def test_names_of_any_bytes(tmp_path, capsys):
    for name in (b"caf\xe9.npz", b"\xff\n.npz", "日本.npz".encode()):
        np.savez(os.path.join(os.fsencode(tmp_path), name).decode(errors="surrogateescape"), SET[0])
    (tmp_path / os.fsdecode(b"bad\xe9.mp4")).touch()
    np.savez(tmp_path / os.fsdecode(b"short\xe9.npz"), SET[0][:3])
    out, cache = tmp_path / os.fsdecode(b"r\xe9.json"), tmp_path / os.fsdecode(b"cache\xe9")
    words = ["eval", str(tmp_path), "--real", str(tmp_path), "--out", str(out), "--features", str(cache)]
    assert main(words) == 0
    result = json.loads(out.read_bytes())
    assert result["real"]["clips"] == 3 and len(result["real"]["unreadable"]) == 1
    assert "1 real video of 5 cannot be read and is left out, such as bad\\xe9.mp4" in capsys.readouterr().out


def test_short_clips_suggest_fewer_frames_or_a_fitting_protocol(folder, capsys):
    for protocol, say in (
        ("latte", "the longest of 18 frames: 18 frames are enough for protocol exact or stylegan-v"),
        (adjusted("exact", frames=20), "18 frames are enough for protocol exact"),
    ):
        with pytest.raises(ValueError, match=say):
            compare(folder, folder, protocol)
    shutil.rmtree(folder)
    folder.mkdir()
    for i, video in enumerate(SET):
        np.savez(folder / f"{i}.npz", video[:5])
    assert main(["eval", str(folder), "--real", str(folder)]) == 2
    assert "take shorter clips (frames=5, or --frames 5)" in capsys.readouterr().err
    assert main(["eval", str(folder), "--real", str(folder), "--frames", "5"]) == 0
    said = capsys.readouterr().out
    assert "frames 5, where exact has 16: compare only with results with the same value" in said
    assert "exact, frames 5" in said


def test_samples_that_changed_are_left_out(tmp_path):
    for i in range(3):
        write_video(SET[i], tmp_path / f"{i:06d}.mkv")
    files = {f"{i:06d}.mkv": "0" * 64 for i in range(1)}
    (tmp_path / "samples.json").write_text(json.dumps({"count": 3, "files": files}))
    with pytest.warns(UserWarning, match="is not as `latte sample --n` wrote it: run it again"):
        found = choose_clips(tmp_path, EXACT, "generated", 0)
    assert len(found.clips) == 2 and found.about["made_by"] == {"count": 3}
    assert torch.equal(sketch(list(found.stream(found.clips)))[0], sketch([found.read(found.clips[0])])[0])
    assert read_video(tmp_path / "000001.mkv")[0].shape[0] == 18
    (tmp_path / "samples.json").write_text(json.dumps({"files": files}))  # written by another program
    found = choose_clips(tmp_path, EXACT, "generated", 0)
    assert len(found.clips) == 3 and "made_by" not in found.about


def test_a_truncated_list_is_an_error(tmp_path):
    write_video(SET[0], tmp_path / "0.mkv")
    (tmp_path / "index.json").write_text('{"format": "latte-videos-3", "videos": [')
    with pytest.raises(ValueError, match=r"index\.json is not valid JSON: .*: run `latte prepare` again"):
        videos_of(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    assert videos_of(tmp_path) == [tmp_path / "0.mkv"]


def test_clips_of_one_frame_have_no_flicker():
    assert shapes_distance(SET, SET, frames=1).flicker is None and compare(SET, SET).flicker is not None
    with pytest.raises(ValueError, match=r"frames is 4\.5; it must be a whole number"):
        shapes_distance(SET, SET, frames=4.5)
    with pytest.raises(ValueError, match=r"take shorter clips \(frames=5, or --frames 5\)"):
        compare(SET[:, :15], SET, adjusted("exact", frames=20, real_stride=3))
    found = adjusted("exact", frames=np.int64(4))
    assert type(found.frames) is int and found.frames == 4
