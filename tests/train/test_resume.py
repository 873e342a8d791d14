"""What a run needs to resume or to be sampled, wherever it stopped, and which files it leaves alone."""

import json
import os
import shutil
import signal

import pytest
from forks import start_together, status
from small_runs import run, same, small, small_t2v, tensors

from latte import LattePipeline
from latte.files import read_json
from latte.models.vae import AutoencoderKL, VideoVAE
from latte.shapes.draw import make_clip
from latte.train import checkpoint
from latte.train.objectives import OBJECTIVES
from latte.video.write import write_video
from latte.weights.find_models import find_model
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import load_vae, save_vae


def newest(run):
    return tensors(checkpoint.latest(run))


@pytest.fixture
def stopped(monkeypatch):
    """stopped(config, folder, step) trains until SIGTERM arrives during that step."""

    def until(config, folder, step):
        loss = OBJECTIVES[config.kind]

        class Stopping(loss):
            def __call__(self, network, now, slots):
                if now == step:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().__call__(network, now, slots)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setitem(OBJECTIVES, config.kind, Stopping)
            run(config, folder)

    return until


def numbers(run):
    """The lines of metrics.jsonl without the speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "clips_per_second"} for line in lines]


def grids(run):
    return {path.name: path.read_bytes() for path in (run / "samples").glob("*.png")}


def put_videos(folder, numbers, sound=True):
    for i in numbers:
        write_video(make_clip(4, i, frames=8, size=16).video, folder / f"{i}.mkv")
        if not sound:
            (folder / f"{i}.mkv").write_text("no")
    return folder


FILES = ["config.yaml", "metrics.jsonl", "sampling.json", "failed.txt"]


@pytest.mark.parametrize("name", ["vae", "tokenizer", "scheduler", "final", "samples", "tensorboard", *FILES])
def test_unrelated_files_are_not_overwritten(name, vae, tmp_path):
    mine = tmp_path / name / "mine.txt" if "." not in name else tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine: 1\n")
    with pytest.raises(ValueError, match=f"holds {name} but no checkpoint"):
        run(small_t2v(vae, "steps=2"), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine] and mine.read_text() == "mine: 1\n"


def test_leftovers_of_a_killed_start_are_removed(vae, tmp_path):
    """Process ids are reused: in a container, each run may have the same one."""
    for name in (f".vae.part{os.getpid()}", ".vae.part1", ".vae.old1"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "model.safetensors").write_text("half")
    run(small(vae, "steps=2"), tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*")) and load_vae(tmp_path / "run/vae")


def test_a_vae_is_copied_once_and_may_be_read_only(vae, tmp_path):
    theirs = shutil.copytree(vae, tmp_path / "vae")
    for path in (*theirs.iterdir(), theirs):
        path.chmod(path.stat().st_mode & ~0o222)
    run(small(theirs, "steps=2"), tmp_path / "run")
    ours = tmp_path / "run/vae"
    assert all(path.stat().st_mode & 0o200 for path in (*ours.iterdir(), ours))
    before = ours.stat().st_ino
    run(small(theirs, "steps=3"), tmp_path / "run")
    assert ours.stat().st_ino == before
    (ours / "model.safetensors").write_bytes(b"")
    run(small(theirs, "steps=4"), tmp_path / "run")
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()


def test_a_mistyped_command_leaves_no_trace(vae, tmp_path):
    good, bad = put_videos(tmp_path / "good", range(3)), put_videos(tmp_path / "bad", range(10, 13), sound=False)
    put_videos(bad, range(3, 6))
    run(small(vae, "steps=2", f"data={good}"), tmp_path / "run")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"data \(the videos\)"),
    ):
        run(small(vae, "steps=4", f"data={bad}"), tmp_path / "run")
    assert not (tmp_path / "run/failed.txt").exists()
    run(small(vae, "steps=4", f"data={good}"), tmp_path / "run")


def test_a_run_may_end_at_the_step_that_it_has_reached(vae, tmp_path, stopped):
    """Lowering steps to what is done is a change like any other."""
    stopped(small(vae, "steps=9"), tmp_path, 4)
    final = run(small(vae, "steps=5"), tmp_path, asked={"steps"})
    record = {"after_step": 5, "settings": {"steps": {"from": 9, "to": 5}}}
    assert read_json(final / "trained.json") == {"steps": 5, "changes": [record]}


def test_an_outdated_final_is_not_used(vae, tmp_path, stopped):
    final = run(small(vae, "steps=2"), tmp_path)
    assert find_model(tmp_path) == final
    stopped(small(vae, "steps=9"), tmp_path, 4)
    assert find_model(tmp_path) == tmp_path / "checkpoints/step-0000005" and find_model(final) == final
    run(small(vae, "steps=9"), tmp_path)
    assert find_model(tmp_path) == final


@pytest.mark.parametrize("make", [small, small_t2v])
def test_the_init_model_is_not_needed_again(make, vae, tmp_path, stopped):
    first = run(make(vae, "steps=3"), tmp_path / "first")
    words = [f"init={first}", "seed=7", "steps=8"]
    run(make(vae, *words), tmp_path / "whole")
    stopped(make(vae, *words), tmp_path / "parts", 4)
    shutil.rmtree(tmp_path / "first")
    run(make(vae, *words), tmp_path / "parts")
    assert same(newest(tmp_path / "whole"), newest(tmp_path / "parts"))
    run(make(vae, *words[1:], "steps=9"), tmp_path / "parts")


def test_data_and_vae_may_move(vae, tmp_path, monkeypatch):
    data, own = put_videos(tmp_path / "data", range(3)), shutil.copytree(vae, tmp_path / "vae")
    run(small(own, "steps=2", f"data={data}"), tmp_path / "run")
    shutil.move(data, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    run(small("vae", "steps=4", "data=moved"), tmp_path / "run")
    with pytest.raises(ValueError, match="with different settings: it has latents='once', not 'step'"):
        run(small("vae", "steps=4", "data=moved", "latents=step"), tmp_path / "run")


def test_checkpoints_may_lie_on_another_disk(vae, tmp_path):
    run(small(vae, "steps=2"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/final")
    other = shutil.move(tmp_path / "run/checkpoints", tmp_path / "disk/all/checkpoints")
    (tmp_path / "run/checkpoints").symlink_to(other)
    assert LattePipeline.from_pretrained(tmp_path / "run").vae is not None
    copied = shutil.copytree(other / "step-0000002", tmp_path / "alone/here/step-0000002")
    shutil.copytree(vae, tmp_path / "alone/vae")
    assert LattePipeline.from_pretrained(copied).vae is None
    save_vae(VideoVAE(AutoencoderKL(load_vae(vae).config)), tmp_path / "run/vae")
    with pytest.raises(CheckpointError, match="is not the VAE that"):
        LattePipeline.from_pretrained(tmp_path / "run")
    assert LattePipeline.from_pretrained(tmp_path / "run", vae=vae).vae is not None


def test_grids_and_evaluations_due_at_a_stop_are_made_on_resume(vae, tmp_path, stopped):
    config = small(vae, "steps=6", "num_frames=8", "sample_every=2", "eval_every=2", "eval_clips=2")
    run(config, tmp_path / "whole")
    stopped(config, tmp_path / "parts", 3)
    run(config, tmp_path / "parts")
    whole, parts = (numbers(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts and sum("shapes_distance" in line for line in whole) == 3
    whole, parts = (grids(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts and len(whole) == 3
    (tmp_path / "parts/samples/step-0000006.png").unlink()
    run(config, tmp_path / "parts")
    assert (tmp_path / "parts/samples/step-0000006.png").is_file()


def test_a_stop_that_cannot_be_saved_is_reported(vae, tmp_path, monkeypatch):
    loss = OBJECTIVES["latte"]

    class Stopping(loss):
        def __call__(self, network, step, slots):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(network, step, slots)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setitem(OBJECTIVES, "latte", Stopping)
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="the last step, 1, could not be saved: No space left"):
        run(small(vae), tmp_path)


def test_processes_with_different_data_do_not_train_together(vae, tmp_path):
    put_videos(tmp_path / "0", range(3))
    put_videos(tmp_path / "1", range(4))
    work = lambda: run(small(vae, f"data={tmp_path / os.environ['RANK']}", "micro_batch_size=2"), tmp_path / "run")
    assert [status(pid) for pid in start_together(2, work, tmp_path / "log")] == [1, 1]
    assert "process 1 has different data from process 0" in (tmp_path / "log").read_text()
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_number_of_processes_does_not_affect_which_videos_are_used(vae, tmp_path, monkeypatch):
    """With more processes each caches fewer videos, but they check the same ones by decoding them."""
    from latte.train.data import decoded_cache, folders

    put_videos(tmp_path, range(3))
    monkeypatch.setattr(decoded_cache, "CACHE_BYTES", 3 * 8 * 3 * 16 * 16)
    config = small(vae, f"data={tmp_path}")
    alone = folders.open_clips(config)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    third = folders.open_clips(config)
    assert (len(alone.cache.videos), len(third.cache.videos)) == (3, 1)
    assert alone.cache.tried == third.cache.tried and alone.fingerprint == third.fingerprint
