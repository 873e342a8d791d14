"""Damage in a run folder, and foreign files in it: the run resumes nevertheless, and says what it left out."""

import json
import os
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from small_runs import run, same, small, small_t2v, tensors

from latte import LattePipeline
from latte.files import read_json
from latte.train import checkpoint, export
from latte.train.curves import read_metrics
from latte.train.metrics import read_lines, remove_lines_after
from latte.weights import manifest
from latte.weights.find_models import find_model


@pytest.fixture(scope="module")
def finished(vae, tmp_path_factory):
    """A run of 4 steps with checkpoints at 2 and 4, and its settings. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    config = small(vae, "steps=4", "save_every=2", "schedule=constant")
    run(config, folder)
    return config, folder


@pytest.fixture
def copied(finished, tmp_path):
    return finished[0], shutil.copytree(finished[1], tmp_path / "run")


def as_folder(path):
    path.unlink(missing_ok=True)
    (path / "x").mkdir(parents=True)


def as_file(path):
    shutil.rmtree(path, ignore_errors=True)
    path.write_bytes(b"\0junk\xff")


def as_link(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to("nowhere/at/all")


def as_fifo(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_junk(path):
    path.write_bytes(b"\0\xff\t[{" * 500 + b"\n" + b"[" * 5000)


FILES = ["metrics.jsonl", "config.yaml", "changes.json", "failed.txt"]
FOLDERS = ["vae", "tensorboard", "final"]
MAKES = [as_folder, as_link, as_fifo, as_junk]


@pytest.mark.parametrize("turn", range(4))
def test_damage_never_stops_a_resume(turn, copied):
    """Each file is damaged in a different way, and in yet another one in each turn."""
    config, folder = copied
    makes = {name: MAKES[(turn + i) % 4] for i, name in enumerate(FILES)}
    makes |= {name: (as_file, as_link)[(turn + i) % 2] for i, name in enumerate(FOLDERS)}
    for name, make in makes.items():
        make(folder / name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(config, folder)
    texts = [str(one.message) for one in said]
    for name, make in makes.items():
        if make is not as_junk or name == "metrics.jsonl":  # the others are rewritten, whatever they held
            assert any(str(folder / name) in text for text in texts), (name, make, texts)
            assert os.path.lexists(folder / f"damaged-{name}")
    assert checkpoint.latest(folder).name == "step-0000004" and (folder / "config.yaml").is_file()
    assert find_model(folder) == folder / "final" and LattePipeline.from_pretrained(folder).vae
    read_lines(folder / "metrics.jsonl")


def test_damaged_lines_of_metrics_are_named_and_set_aside(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sound = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "loss": NaN, "fvd": Infinity}', b'{"step": 9, "loss": 1}']
    junk = [
        b"\0\xff\xfe",
        b'{"step": 3, "lo',
        b"[]",
        b"7",
        b'{"step": "3"}',
        b'{"step": true}',
        b'{"step": -1}',
        b"[" * 9**4,
    ]
    junk += [
        b'{"loss": 1}',
        b'{"step": 1, "loss": "a"}',
        b'{"step": 1, "loss": [1]}',
        b'{"step": 1' + b"0" * 5000 + b"}",
    ]
    for wrong in junk:
        path.write_bytes(b"\n".join([sound[0], wrong, *sound[1:], b'{"step": 10, "lo']))
        with pytest.warns(UserWarning, match=r"metrics\.jsonl: line 2 is not a line of metrics; left out"):
            lines = read_lines(path)
        assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "fvd": None}, {"step": 9, "loss": 1}], (
            wrong
        )
        before = path.read_bytes()
        with pytest.warns(UserWarning, match=r"the original file is now damaged-metrics\.jsonl"):
            remove_lines_after(path, 5)
        assert (tmp_path / "damaged-metrics.jsonl").read_bytes() == before
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    path.write_bytes(sound[0] + b"\n" + b"\0" * 4096)  # what a machine crash may leave behind
    with pytest.warns(UserWarning, match="line 2 is not"):
        assert read_metrics(tmp_path)["loss"].tolist() == [0.5]
    path.write_bytes(b"\n".join([*junk, *sound, b""]))
    with pytest.warns(UserWarning, match=r"line 1 \(and 11 more\) is not"):
        assert len(read_lines(path)) == 3


def test_foreign_files_among_the_checkpoints_are_kept(copied, finished):
    config, folder = copied
    place = folder / "checkpoints"
    (place / "step-9999999").mkdir()
    (place / "step-0000007").write_text("mine")
    (place / "step-0000006").symlink_to("nowhere")
    (place / ".draft-0000004").write_text("mine")
    (place / ".old-step-0000001").symlink_to("nowhere")
    (place / ".step-0000003.part7-0123abcd-99/half").mkdir(parents=True)  # from another machine
    (place / "notes.txt").write_text("mine")
    (place / "damaged-notes").mkdir()
    with pytest.warns(UserWarning, match=r"manifest\.json is missing; renamed to damaged-step-0000007"):
        run(replace(config, steps=6), folder)
    names = sorted(path.name for path in place.iterdir())
    ours, theirs = ["step-0000004", "step-0000006"], [f"damaged-step-{n}" for n in ("0000006", "0000007", "9999999")]
    assert names == ["damaged-notes", *theirs, "notes.txt", *ours]
    assert (place / "damaged-step-0000007").read_text() == "mine"


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "ema.safetensors", "config.json"])
def test_a_checkpoint_with_a_folder_in_place_of_a_file_is_set_aside(name, copied, finished):
    config, folder = copied
    as_folder(folder / "checkpoints/step-0000004" / name)
    with pytest.warns(UserWarning, match=f"{name.split('.')[0]}.*renamed to damaged-step-0000004"):
        run(config, folder)
    assert same(*(tensors(one / "checkpoints/step-0000004") for one in (folder, finished[1])))


def test_an_incomplete_manifest_is_rejected(copied):
    config, folder = copied
    newest = folder / "checkpoints/step-0000004"
    for path in newest.iterdir():
        path.unlink()
    (newest / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match="does not list ema.safetensors; renamed"):
        run(config, folder)


def test_an_unreadable_checkpoint_is_not_renamed(copied, monkeypatch):
    """An input error of a network file system may be temporary."""
    folder = copied[1]
    whole, broken = checkpoint.damage, [folder / "checkpoints/step-0000004"]

    def unreadable(path):
        if path in broken:
            raise OSError(5, "Input/output error")
        return whole(path)

    monkeypatch.setattr(checkpoint, "damage", unreadable)
    with pytest.warns(UserWarning, match="step-0000004 cannot be read: Input/output error; trying the"):
        assert checkpoint.latest(folder).name == "step-0000002"
    assert broken[0].is_dir()
    broken.append(folder / "checkpoints/step-0000002")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="and there is no earlier one"):
        checkpoint.latest(folder)


@pytest.mark.parametrize("make", [as_file, as_link])
def test_a_run_with_unreachable_checkpoints_does_not_restart(make, copied):
    config, folder = copied
    shutil.rmtree(folder / "final")
    make(folder / "checkpoints")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoints is (a link to nowhere/at/all, which is )?not a folder"):
        run(config, folder)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_damaged_lines_in_the_log_of_failed_videos_do_not_count(copied, videos, vae, tmp_path):
    from latte.train.data.failures import Failures

    (tmp_path / "failed.txt").write_bytes(b"\0\xff\tx\n" * 99 + b"a\tb\n" + f"{videos / 'a/x.mkv'}\tcut\n".encode())
    failures = Failures(3, 0.5)
    failures.keep_log(tmp_path / "failed.txt", True)
    failures.raise_if_too_many()
    assert [*failures.reasons] == [videos / "a/x.mkv"]


def test_text_to_video_rebuilds_a_damaged_vocabulary(vae, tmp_path):
    config = small_t2v(vae, "steps=2", "schedule=constant")
    run(config, tmp_path)
    sound = (tmp_path / "tokenizer/spiece.model").read_bytes()
    for make in (as_junk, as_folder):
        make(tmp_path / "tokenizer/spiece.model")
        with pytest.warns(UserWarning, match="making it again from the captions"):
            run(config, tmp_path)
        assert (tmp_path / "tokenizer/spiece.model").read_bytes() == sound
    as_folder(tmp_path / "scheduler/scheduler_config.json")
    with pytest.warns(UserWarning, match="scheduler is damaged"):
        run(config, tmp_path)


def spoil_weights(final):
    content = bytearray((final / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (final / "model.safetensors").write_bytes(content)


SPOILT = {
    "no weights": lambda final: (final / "model.safetensors").unlink(),
    "a changed weight": spoil_weights,
    "no manifest entries": lambda final: (final / "manifest.json").write_text("{}"),
    "a manifest that is a folder": lambda final: as_folder(final / "manifest.json"),
    "no configuration": lambda final: (final / "config.json").unlink(),
    "no VAE": lambda final: shutil.rmtree(final / "vae"),
    "a VAE without weights": lambda final: next((final / "vae").glob("*.safetensors")).unlink(),
    "no record": lambda final: (final / "trained.json").unlink(),
    "a record of nothing": lambda final: (final / "trained.json").write_text('{"steps": "all"}'),
    "a record that is a folder": lambda final: as_folder(final / "trained.json"),
    "nothing": lambda final: [shutil.rmtree(final), final.mkdir()],
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_run_with_a_damaged_final_is_sampled_from_its_newest_valid_checkpoint(what, copied):
    folder = copied[1]
    SPOILT[what](folder / "final")
    with pytest.warns(UserWarning, match=r"final .*: using .*step-0000004 in its place"):
        pipe = LattePipeline.from_pretrained(folder)
    assert pipe.vae is not None
    if what == "a changed weight":
        (folder / "checkpoints/step-0000004/ema.safetensors").write_bytes(b"")
        with pytest.warns(UserWarning, match=r"step-0000004 is damaged .*: using .*step-0000002 in its place"):
            assert find_model(folder) == folder / "checkpoints/step-0000002"
        (folder / "checkpoints/step-0000002/ema.safetensors").write_bytes(b"")
        assert find_model(folder) == folder / "final"  # nothing is valid: loading it says what is wrong


def test_an_intact_final_gives_no_warning(copied, recwarn):
    assert find_model(copied[1]) == copied[1] / "final" and not recwarn


def test_a_model_is_verified_once(copied, monkeypatch):
    read, real = [], manifest.digest
    monkeypatch.setattr(manifest, "digest", lambda path: read.append(path) or real(path))
    monkeypatch.setattr("latte.weights.manifest.CLOCK_TICK", 0)  # the copy is new
    manifest.digest_at.cache_clear()
    LattePipeline.from_pretrained(copied[1])
    assert len([path for path in read if path == copied[1] / "final/model.safetensors"]) == 1


def test_the_old_final_can_be_read_until_the_new_one_is_complete(copied, monkeypatch):
    config, folder = copied
    (folder / "final/notes").mkdir()
    (folder / "final/notes/mine.txt").write_text("mine")
    (folder / "final/scores.json").write_text("{}")
    (folder / "final/link").symlink_to("nowhere")
    old, steps = tensors_of(folder), []

    def watch(real):
        def watched(*arguments):
            steps.append(read_json(folder / "final/trained.json")["steps"])
            assert torch.equal(tensors_of(folder), old)
            return real(*arguments)

        return watched

    for name in ("write_network", "save_companions", "write_json"):
        monkeypatch.setattr(export, name, watch(getattr(export, name)))
    run(replace(config, steps=6), folder)
    assert len(steps) > 3 and set(steps) == {4}
    assert read_json(folder / "final/trained.json") == {
        "steps": 6,
        "changes": [{"after_step": 4, "settings": {"steps": {"from": 4, "to": 6}}}],
    }
    assert not torch.equal(tensors_of(folder), old)
    assert (folder / "final/link").is_symlink()
    assert (folder / "final/notes/mine.txt").read_text() == "mine" and (folder / "final/scores.json").exists()
    assert not list(folder.glob(".*"))


def tensors_of(folder):
    return LattePipeline.from_pretrained(folder / "final").transformer.final_linear.weight
