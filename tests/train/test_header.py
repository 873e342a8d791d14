"""What `latte train` prints before the first step, when stopped, at its end, and when there is nothing to do."""

import os
import signal
from types import SimpleNamespace

import pytest
from small_runs import TINY_PLAIN, TINY_VAE, run, small

from latte.arguments import in_units
from latte.cli import main
from latte.processes import Ranks
from latte.train import header
from latte.train.checkpoint import read_state
from latte.train.header import describe_batch, describe_processes
from latte.train.resolve import read_settings, resolve
from latte.train.run import Run


@pytest.fixture
def command(vae, tmp_path):
    words = ["train", "--config", "shapes-plain", "--device", "cpu", "--run", str(tmp_path), *TINY_PLAIN, f"vae={vae}"]
    return lambda *more: main([*words, *more])


def test_the_batch_is_described_per_process():
    config = resolve("shapes", ["vae=v", "global_batch_size=8", "micro_batch_size=2"])
    said = lambda size: describe_batch(SimpleNamespace(config=config, ranks=Ranks(0, size)))
    assert said(1) == "8 clips a step, in 4 micro-batches of 2"
    assert said(2) == "8 clips a step, 4 in each of 2 processes, in 2 micro-batches of 2"
    assert said(4) == "8 clips a step, 2 in each of 4 processes"


def test_devices_are_named_in_words():
    assert describe_processes(1, "cpu AVX512") == "1 CPU process (AVX-512)"
    assert describe_processes(2, "cpu DEFAULT") == "2 CPU processes"
    assert describe_processes(8, "NVIDIA H200") == "8 x NVIDIA H200"
    assert [in_units(count) for count in (55_500, 5_560_000, 1_057_000_000)] == ["55.5 k", "5.56 M", "1,057 M"]


def facts_of(text):
    return dict(line.split(maxsplit=1) for line in text.splitlines()[1:])


def test_a_run_reports_its_work_where_it_resumes_and_its_end(command, tmp_path, capsys, monkeypatch):
    own = Run.step
    stopping = lambda self, step: own(self, step) if step != 2 else os.kill(os.getpid(), signal.SIGINT) or own(self, 2)
    monkeypatch.setattr(Run, "step", stopping)
    assert command() == 130
    said = capsys.readouterr()
    facts = facts_of(said.out)
    assert said.out.startswith(f"{tmp_path}\n") and "resumed" not in said.out
    assert facts["on"].startswith("1 CPU process") and facts["on"].endswith("precision fp32")
    assert facts["trains"] == "a Latte of 15.6 k parameters" and facts["batch"] == "4 clips a step"
    clip = "each 4 frames, interval 1, 16 x 16 pixels, latents 4 x 2 x 2"
    assert facts["data"] == f"shapes: 12 clips in 8 classes, {clip}"
    assert facts["steps"] == "12, learning rate 0.0015, cosine"
    assert facts["saves"].startswith(f"checkpoints every 5 steps, in {tmp_path}/checkpoints; metrics in ")
    assert said.err.splitlines()[-1] == "latte train: saved at step 3; the same command resumes it"
    assert command("micro_batch_size=2") == 0
    said = capsys.readouterr().out.splitlines()
    assert "resumed at step 3" in said and "  batch   4 clips a step, in 2 micro-batches of 2" in said
    assert command() == 0
    done = f"{tmp_path}: all 12 steps are already done; give a larger steps=N to continue"
    end = [f"{tmp_path}/final: trained for 12 steps", f"next: latte sample {tmp_path}"]
    assert said[-2:] == end and capsys.readouterr().out.splitlines() == [done, *end]


def test_the_next_command_uses_the_same_kind_of_device(command, tmp_path, capsys, monkeypatch):
    assert command("steps=1") == 0 and capsys.readouterr().out.endswith(f"next: latte sample {tmp_path}\n")
    monkeypatch.setattr(header, "default_device", lambda: "cuda")
    assert command("steps=1") == 0 and capsys.readouterr().out.endswith(f"latte sample {tmp_path} --device cpu\n")


def test_a_warmup_longer_than_the_run_is_reported(command, tmp_path, capsys):
    longer = "the learning rate rises over warmup=3 steps, but the run ends after 2, at 0.001: lower warmup"
    for steps in (2, 3, 4):
        assert command(f"steps={steps}", "warmup=3") == 0
        assert capsys.readouterr().err.count(longer) == (steps == 2)


def test_init_is_reported_as_ignored_on_a_started_run(vae, command, tmp_path, capsys):
    run(small(vae, "steps=2"), tmp_path)
    words = f"init=shapes has no effect: {tmp_path} holds a run with 2 steps; to start from other weights"
    for asked in ([], ["init=shapes"]):
        assert command("steps=2", *asked) == 0
        assert (words in capsys.readouterr().err) == bool(asked)


def test_a_run_that_resumes_keeps_the_record_of_what_it_started_from(vae, command, tmp_path, tmp_path_factory, capsys):
    first = run(small(vae, "steps=2"), tmp_path_factory.mktemp("first"))
    run(small(vae, "steps=2", f"init={first}"), tmp_path)
    for asked, steps in (["init=shapes"], 3), (["init=shapes"], 4), ([], 5):
        assert command(f"steps={steps}", *asked) == 0
        assert ("init=shapes has no effect" in capsys.readouterr().err) == bool(asked)
        state = read_state(tmp_path / f"checkpoints/step-{steps:07}")
        recorded = read_settings(str(tmp_path / "config.yaml"))
        assert state["run"]["init"] == recorded["init"] == str(first)


def test_a_run_on_videos_reports_their_number_and_frames(vae, videos, tmp_path, capsys):
    said = []
    words = [f"data={videos}", "motion_frames=0", "steps=1"]
    run(small(vae, *words, "selection=crop", "num_images=2"), tmp_path / "latte", say=said.append)
    assert " clips/s" in capsys.readouterr().err
    run(resolve("folder-vae", [*TINY_VAE, *words, "num_frames=1", "damaged=take"]), tmp_path / "vae", say=said.append)
    shown = capsys.readouterr().err
    assert " frames/s" in shown and "clips/s" not in shown
    latte, of_vae = map(facts_of, said[::2])
    command = f"latte train --config folder --run {tmp_path}/vae-latte data={videos} image_size=16 damaged=take "
    command += f"vae={tmp_path}/vae/final"
    assert said[3] == f"{tmp_path}/vae/final: trained for 1 step\nnext: {command}"
    clips = f"{videos}: 12 clips drawn from 3 videos in 2 classes"
    assert latte["data"] == f"{clips}, each 4 frames, selection crop, 16 x 16 pixels, latents 4 x 2 x 2"
    assert of_vae["data"] == f"{videos}: 12 frames drawn from 3 videos in 2 classes, each 16 x 16 pixels"
    assert latte["vae"] == str(vae) and "vae" not in of_vae
    assert of_vae["batch"].endswith(" frames a step")
    assert latte["batch"] == "4 clips a step, each with 2 images"
    assert of_vae["trains"].startswith("a VAE of ")
