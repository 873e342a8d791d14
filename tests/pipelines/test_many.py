"""Video sets for evaluation: they match the pipeline, grow and are repaired, and touch no other folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from awake_models import SIZE, awake, digests
from published import PROMPTS, QUICK
from sample_sets import LABELS, SETTINGS, make

from latte import LattePipeline, sample_record
from latte import sample_many as sample_many_module
from latte.arguments import MOST_VIDEOS
from latte.fast import onednn
from latte.files import MOST_JSON_BYTES
from latte.models.latte import Latte, LatteConfig
from latte.sample_many import sample_many
from latte.sample_record import keeps_digests, read_digests, read_record, write_record
from latte.video.find import list_videos
from latte.video.read import read_video
from latte.weights.manifest import digest


def test_a_part_of_a_call_has_the_bits_of_the_whole(classes):
    labels = [LABELS[i % 3] for i in range(8)]
    for options in ({}, {"eta": 1.0}):
        options = {**SETTINGS, **options, "output_type": "latent"}
        eight = classes(labels, **options).frames
        assert torch.equal(classes(labels[2:6], first=2, **options).frames, eight[2:6])
        assert torch.equal(classes(labels[4:5], first=4, **options).frames, eight[4:5])
    assert not torch.equal(classes(labels[2:6], first=3, **options).frames, eight[2:6])
    with pytest.raises(ValueError, match="first is -1"):
        classes([0], first=-1)


def test_part_of_a_prompt_call_matches_the_whole(pipe):
    prompts = [PROMPTS[0]] * 4
    four = pipe(prompts, eta=0.5, batch_size=2, **QUICK).frames
    torch.testing.assert_close(
        pipe(prompts[2:], eta=0.5, first=2, batch_size=2, **QUICK).frames, four[2:], rtol=1e-4, atol=1e-4
    )
    text = pipe.encode_prompt(prompts)
    given = lambda rows: dict(prompt_embeds=text.prompt[rows], negative_prompt_embeds=text.negative[rows], **QUICK)
    four = pipe(**given(slice(0, 4)), batch_size=2).frames
    assert torch.equal(pipe(**given(slice(2, 4)), batch_size=2, first=2).frames, four[2:])
    assert not torch.allclose(pipe(**given(slice(2, 4))).frames, four[2:], atol=1e-2)
    with pytest.raises(ValueError, match="nothing with a generator"):
        pipe(PROMPTS[0], generator=torch.Generator(), first=1, **QUICK)
    with pytest.raises(ValueError, match="first is -1"):
        pipe(PROMPTS[0], first=-1, **QUICK)


def test_files_hold_the_pipelines_videos(classes, complete_set):
    names = [f"{i:06d}.mkv" for i in range(9)]
    assert sorted(digests(complete_set)) == [".locks", *names, "samples.json"]
    assert [path.name for path in list_videos(complete_set)] == names
    videos = classes([LABELS[i % 3] for i in range(9)], output_type="uint8", **SETTINGS).frames
    for name, video in zip(names, videos):
        frames, fps = read_video(complete_set / name)
        assert torch.equal(frames, video) and fps == 8
    record = json.loads((complete_set / "samples.json").read_text())
    assert record["count"] == 9 and record["labels"] == LABELS and record["settings"] == SETTINGS
    assert record["transformer"]["depth"] == 2 and record["torch"] == torch.__version__


@pytest.mark.parametrize("yes", [True, False])
def test_a_set_is_extended_by_the_library_that_it_began_with(yes, classes, tmp_path, monkeypatch):
    used, unit = [], sample_many_module.make_unit
    noting = lambda *given: used.append(onednn.onednn_is_faster()) or unit(*given)
    monkeypatch.setattr(sample_many_module, "make_unit", noting)
    for count, measured in ((2, yes), (9, not yes)):
        monkeypatch.setattr(onednn, "measured_faster", lambda measured=measured: measured)
        make(classes, tmp_path, count=count)
    record = json.loads((tmp_path / "samples.json").read_text())
    assert set(used) == {yes} and len(used) > 1 and record.get("onednn", False) == yes


def test_a_set_that_appears_during_the_check_is_accepted(classes, complete_set, tmp_path, monkeypatch):
    """The record was missing a moment ago; now it is there, and so are the videos."""
    exists = Path.exists

    def just_before(path):
        found = exists(path)
        if path == tmp_path / "samples.json" and not found:
            shutil.copytree(complete_set, tmp_path, dirs_exist_ok=True)
        return found

    monkeypatch.setattr(Path, "exists", just_before)
    assert make(classes, tmp_path) == 0
    assert digests(tmp_path) == digests(complete_set)


def test_a_set_grows_and_what_is_there_stays(classes, complete_set, tmp_path):
    folder = tmp_path / "set"
    assert make(classes, folder, 5) == 5 and len(list_videos(folder)) == 5
    times = {path: path.stat().st_mtime_ns for path in list_videos(folder)}
    assert make(classes, folder) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert digests(folder) == digests(complete_set)
    assert make(classes, folder) == make(classes, folder, 3) == 0
    assert digests(folder) == digests(complete_set)


def test_what_was_lost_is_made_again(classes, complete_set, tmp_path):
    folder = tmp_path / "set"
    make(classes, folder)
    kept = folder / "000007.mkv"
    before = kept.stat().st_mtime_ns
    for i in (0, 3, 6, 8):
        (folder / f"{i:06d}.mkv").unlink()
    (folder / ".000003.part1.mkv").write_text("half")
    (folder / ".000099.part1.mkv").write_text("of a process that makes more of them")
    assert make(classes, folder) == 4
    assert kept.stat().st_mtime_ns == before
    (folder / ".000099.part1.mkv").unlink()  # not this call's to remove
    assert digests(folder) == digests(complete_set)


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"settings": {**SETTINGS, "seed": 4}}, "with seed 3, not 4: choose another folder"),
        ({"settings": {**SETTINGS, "batch_size": 4}}, "batch_size 2, not 4"),
        ({"settings": {**SETTINGS, "eta": 0.5}}, "eta None, not 0.5"),
        ({"labels": [0, 1, 2]}, r"labels \[0, 2, 1\], not \[0, 1, 2\]"),
        ({"about": {"sha256": ["ab"]}}, "sha256 None, not"),
        ({"fps": 9}, "fps 8, not 9"),
        ({"count": 0}, "count is 0"),
        ({"count": 10**9}, "count is 1000000000"),
        ({"labels": []}, "labels is empty"),
        ({"settings": {"batch_size": 0}}, "batch_size is 0"),
    ],
)
def test_mismatched_settings_are_rejected(classes, complete_set, change, say):
    before = digests(complete_set)
    with pytest.raises(ValueError, match=say):
        sample_many(
            **{"pipe": classes, "count": 12, "folder": complete_set, "labels": LABELS, "settings": SETTINGS, **change}
        )
    assert digests(complete_set) == before


def test_another_model_is_refused(classes, complete_set):
    other = LattePipeline(Latte(LatteConfig(num_classes=3, **{**SIZE, "depth": 4})), classes.vae)
    with pytest.raises(ValueError, match=r"transformer\.depth 2, not 4"):
        make(other, complete_set)


def test_folders_of_others_are_refused(classes, tmp_path):
    (tmp_path / "holiday.mkv").write_text("mine")
    with pytest.raises(ValueError, match=r"holds holiday\.mkv but no samples\.json"):
        make(classes, tmp_path)
    (tmp_path / "holiday.mkv").unlink()
    for text, say in (("{", "not valid JSON"), ('{"count": "many"}', "count is many")):
        (tmp_path / "samples.json").write_text(text)
        with pytest.raises(ValueError, match=say):
            make(classes, tmp_path)
    assert list(digests(tmp_path)) == ["samples.json"]


def test_a_wrong_call_leaves_a_folder_that_can_be_used(classes, tmp_path):
    with pytest.raises(ValueError, match="no class 7"):
        make(classes, tmp_path / "set", labels=[7])
    assert make(classes, tmp_path / "set", 1) == 1


def test_sets_of_unconditional_and_text_models(classes, pipe, tmp_path):
    lone = LattePipeline(awake(Latte(LatteConfig(**SIZE))), classes.vae)
    assert make(lone, tmp_path / "lone", 3, None) == 3
    video = lone(num_videos=3, output_type="uint8", **SETTINGS).frames[2]
    assert torch.equal(read_video(tmp_path / "lone/000002.mkv")[0], video)
    settings = {"num_inference_steps": 2, "batch_size": 2, "video_length": 4, "seed": 1}
    for folder, steps in (("text", (3,)), ("again", (1, 3))):
        for count in steps:
            sample_many(pipe, count, tmp_path / folder, list(PROMPTS), settings)
    assert digests(tmp_path / "text") == digests(tmp_path / "again")
    frames = pipe(list(PROMPTS), output_type="uint8", progress=False, **settings).frames
    assert torch.equal(read_video(tmp_path / "text/000001.mkv")[0], frames[1])


def test_files_that_changed_are_made_again(classes, complete_set, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(complete_set, folder)
    record = json.loads((folder / "samples.json").read_text())
    assert record["files"] == {path.name: digest(path) for path in list_videos(folder)}
    files = [folder / f"{i:06d}.mkv" for i in range(9)]
    files[1].write_bytes(b"")
    files[3].write_bytes(files[3].read_bytes()[:-100])
    changed = bytearray(files[4].read_bytes())
    changed[len(changed) // 2] ^= 1
    files[4].write_bytes(changed)
    shutil.copy(files[0], files[6])  # valid, but another video
    files[8].unlink()
    kept = files[2].stat().st_mtime_ns
    assert make(classes, folder) == 5 and digests(folder) == digests(complete_set)
    assert files[2].stat().st_mtime_ns == kept and make(classes, folder) == 0
    files[5].unlink()
    files[5].mkdir()
    with pytest.raises(ValueError, match=r"000005\.mkv is not a file, but a video must be written there"):
        make(classes, folder)


def test_files_that_nobody_recorded_are_made_again(classes, complete_set, tmp_path):
    """A process was killed after writing a unit's files, or while writing their digests."""
    folder = tmp_path / "set"
    shutil.copytree(complete_set, folder)
    record = json.loads((folder / "samples.json").read_text())
    lines = [f"{record['files'].pop(f'{i:06d}.mkv')}  {i:06d}.mkv\n" for i in (4, 5, 6, 7)]
    (folder / "samples.json").write_text(json.dumps(record))
    (folder / ".digests").write_text(f"\n{lines[0]}{lines[1]}\n{lines[2]}{lines[3][:30]}")
    assert make(classes, folder) == 1 and digests(folder) == digests(complete_set)


def test_sets_without_digests_are_upgraded(classes, complete_set, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(complete_set, folder)
    record = json.loads((folder / "samples.json").read_text())
    record.pop("files")
    (folder / "samples.json").write_text(json.dumps(record))
    (folder / "000002.mkv").write_bytes((folder / "000002.mkv").read_bytes()[:200])
    times = {path: path.stat().st_mtime_ns for path in list_videos(folder) if path.name != "000002.mkv"}
    assert make(classes, folder, 5) == 1 and "files" not in json.loads((folder / "samples.json").read_text())
    assert make(classes, folder) == 0 and digests(folder) == digests(complete_set)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_the_record_of_the_largest_set_is_read(classes, complete_set, tmp_path, monkeypatch):
    digests = {f"{i:06d}.mkv": "f" * 64 for i in range(1000)}
    write_record(tmp_path, {"count": 1000}, digests)
    file = tmp_path / "samples.json"
    assert file.stat().st_size * MOST_VIDEOS / 1000 + MOST_JSON_BYTES < sample_record.MOST_RECORD_BYTES
    with file.open("a") as open_file:
        open_file.write(" " * MOST_JSON_BYTES)  # more than other JSON files may have
    assert read_digests(tmp_path) == digests and keeps_digests(tmp_path) and read_record(tmp_path) == {"count": 1000}
    monkeypatch.setattr(sample_record, "MOST_JSON_BYTES", 100)
    with pytest.raises(ValueError, match=r"the prompts and settings take \d+ bytes; at most 100 are kept in samples"):
        make(classes, tmp_path / "set")
    assert not (tmp_path / "set").exists()
