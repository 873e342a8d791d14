"""`latte ablate`: every arm can be trained, runs are shared and resumed, and only missing work is done."""

import contextlib
import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from ablation_grids import grid_of, write_scores
from PIL import Image

from latte.cli import main
from latte.commands.ablate import base_config
from latte.eval.ablate import runs, workers
from latte.eval.ablate import scores as ablation_scores
from latte.eval.ablate.definitions import SCALES, ablations
from latte.eval.ablate.runs import MEASUREMENTS, OLD_MEASUREMENTS, missing_work
from latte.eval.ablate.workers import Workers
from latte.eval.features import Detector
from latte.models.latte import Latte, LatteConfig
from latte.train import distance
from latte.train.resolve import resolve

TINY = ["clips=4", "num_frames=4", "motion_frames=10", "image_size=16", "global_batch_size=2", "warmup=1"]
TINY += ["model={depth: 2, hidden_size: 16, num_heads: 2, patch_size: 1, prediction: v}", "save_every=1"]


@pytest.fixture
def commands(monkeypatch):
    """The commands run by ablations: in this process, one after another, instead of in processes of their own."""
    ran = []

    def run_process(self, words, device, log):
        ran.append(words[words.index("latte") + 1 :])
        with open(log.name, "a") as text, contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
            return main(ran[-1])

    def for_each(self, function, items, meanwhile):
        for item in items:
            function(*item, self, workers.worker_devices(1)[0])
            meanwhile()

    monkeypatch.setattr(ablation_scores, "DRAWS", 2)
    monkeypatch.setattr(Workers, "run_process", run_process)
    monkeypatch.setattr(Workers, "for_each", for_each)
    return ran


def ablate(folder: Path, vae: Path, *words: str, seeds=(0, 1)) -> int:
    options = ["--out", str(folder), "--seeds", *map(str, seeds), "--steps", "2", "--num-videos", "2"]
    return main(["ablate", *options, *TINY, f"vae={vae}", *words])


def parameters(config: LatteConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Latte(config).parameters())


@pytest.mark.parametrize("scale", SCALES)
def test_every_arm_can_be_trained(scale, tmp_path):
    grid = grid_of(tmp_path, scale)
    for ablation in grid.ablations.values():
        configs = {label: grid.training(arm, 0).config for label, arm in ablation.arms.items()}
        assert all(LatteConfig.from_dict(config.model) for config in configs.values())
        assert all(label in ablation.arms for claim in ablation.claims for label in claim)
        if ablation.trains:  # one arm is the base, and no two are equal
            names = [grid.training(arm, 0).folder.parent.name for arm in ablation.arms.values()]
            assert names.count("base") == 1 and len(set(names)) == len(names)
    sizes = {
        label: parameters(LatteConfig.from_dict(grid.training(arm, 0).config.model))
        for label, arm in grid.ablations["variants"].arms.items()
    }
    finer_or_coarser = {"small": (2, 6), "paper": (4,)}[scale]
    assert [f"variant {v}, patch {p}" for p in finer_or_coarser for v in (1, 4)] == list(sizes)[4:]
    assert max(sizes.values()) < 1.06 * min(sizes.values())
    alike = list(sizes.values())[:4]  # larger patches have a larger embedding
    assert max(alike) < 1.02 * min(alike)
    if scale == "paper":
        assert [round(sizes[f"variant {i}"] / 1e6, 2) for i in (1, 2, 3, 4)] == [673.68, 673.68, 676.36, 676.36]


def test_no_arm_is_a_copy_of_the_base():
    base = base_config(SCALES["small"], "shapes-plain", ["model.patch_size=6"])
    variants = ablations(SCALES["small"], base)["variants"]
    assert list(variants.arms)[4:] == ["variant 1, patch 2", "variant 4, patch 2"]
    assert variants.claims[3:] == (("variant 1, patch 2", "variant 4, patch 2"),)  # no coarser patch


def test_ablations_share_runs(tmp_path):
    grid = grid_of(tmp_path)
    wanted = {run.folder for e in grid.evaluations for run in (e.training, e.training.image_model) if run}
    arms = [arm for ablation in grid.ablations.values() for arm in ablation.arms.values()]
    bases = [arm for arm in arms if grid.training(arm, 0).folder.parent.name == "base"]
    assert (
        len([arm for arm in bases if not arm.sample]) == 8 and len(bases) == 8 + 12 + 4 and len(wanted) == 18
    )  # trained ablations, samplers, guidance; with the image model
    assert len({e.file for e in grid.evaluations}) == len(grid.evaluations) == 17 + 11 + 3
    trainings = [run for e in grid.evaluations for run in (e.training, e.training.image_model) if run]
    assert len({training.config.latents for training in trainings}) == 1


def test_settings_of_a_run_are_resolved_once(tmp_path, monkeypatch):
    """However many arms, seeds and readers ask; twice with latents, whose folder depends on the settings."""
    grid, asked = grid_of(tmp_path, seeds=(0, 1)), []
    own = runs.resolve
    monkeypatch.setattr(runs, "resolve", lambda *words: asked.append(words) or own(*words))
    for _ in range(3):
        found = [
            grid.training(arm, seed)
            for each in grid.ablations.values()
            for arm in each.arms.values()
            for seed in (0, 1)
        ]
    needed = {run.folder: run for training in found for run in (training, training.image_model) if run}
    assert grid.base.latents == "once" and len(needed) == 2 * 18 and len(asked) == 2 * len(needed)
    by_step, before = grid_of(tmp_path / "step", changes=("latents=step",)), len(asked)
    by_step.training(by_step.ablations["variants"].arms["variant 2"], 0)
    assert len(asked) == before + 1


def test_only_missing_work_is_done(vae, commands, tmp_path, capsys):
    names = ("temporal-position", "patch-embedding")
    assert ablate(tmp_path, vae, *names, seeds=(1,)) == 0
    said = capsys.readouterr()
    assert "3 evaluations, 3 missing; 3 trainings missing, up to 2 steps each" in said.out
    for line in ("encoding: 1 of 1 data set,", "training: 2 of 6 steps", "training: 6 of 6", "evaluating: 1 of 3 m"):
        assert line in said.err
    assert re.search(r"training: 2 of 6 steps, \d\d:\d\d elapsed\n", said.err)
    assert [words[0] for words in commands] == ["encode"] + ["train"] * 3  # base, rope, tubelet 2
    report = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert {"report.md", "report.html", "curves-patch-embedding.png", "strips-temporal-position.png"} <= report.keys()
    commands.clear()
    assert ablate(tmp_path, vae, *names, seeds=(1,)) == 0 and not commands
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == report
    about = json.loads((tmp_path / "ablation.json").read_text())
    (tmp_path / "ablation.json").write_text(json.dumps({n: v for n, v in about.items() if n != "kl_weight"}))
    assert (
        ablate(tmp_path, vae, *names, "micro_batch_size=1", seeds=(1,)) == 0 and not commands
    )  # an older folder, and a smaller GPU
    gone, other = (tmp_path / f"runs/{name}/seed-1/scores/base.json" for name in ("tubelet=2", "base"))
    before, kept = json.loads(gone.read_text()), other.stat().st_mtime_ns
    gone.unlink()
    assert ablate(tmp_path, vae, *names, seeds=(1,)) == 0 and not commands
    again = json.loads(gone.read_text())
    assert all(again[name] == before[name] for name in again if name != "seconds_per_video")
    assert other.stat().st_mtime_ns == kept
    assert ablate(tmp_path, vae, "temporal-position", "learning_rate=1e-3") == 2
    assert "different settings: learning_rate: choose another folder" in capsys.readouterr().err


def test_a_failed_arm_is_reported_beside_the_others(vae, commands, tmp_path, capsys):
    assert ablate(tmp_path, vae, "patch-embedding", "num_frames=3", seeds=(0,)) == 2
    said = capsys.readouterr()
    assert "training: 4 of 4 steps" in said.err  # the steps of a failed run are not waited for
    errors = [line for line in said.err.splitlines() if line.startswith("latte ablate")]
    assert len(errors) == 1 and "3 frames cannot be cut into tubelets of 2" in errors[0]
    text = (tmp_path / "report.md").read_text()
    assert "- compression, 2 frames, seed 0, failed: latte train: error: 3 frames cannot be cut" in text
    assert re.search(r"\| uniform \| 1 \| 0\.\d+ \|", text) and "| compression, 2 frames | 0 | - |" in text
    assert "uniform ahead of compression, 2 frames: not scored" in text


def test_an_arm_begins_with_an_image_model(vae, commands, tmp_path):
    assert ablate(tmp_path, vae, "initialisation", "interval", seeds=(0,)) == 0
    runs = [words[words.index("--run") + 1].split("/runs/")[1] for words in commands if words[0] == "train"]
    assert runs[0] == "images/seed-0" and {*runs[1:]} == {
        *("base/seed-0", "init=images/seed-0", "frame_interval=1/seed-0", "frame_interval=2/seed-0")
    }
    assert [words[0] for words in commands].count("encode") == 1  # single frames come from the same clips
    config = resolve(str(tmp_path / "runs/init=images/seed-0/config.yaml"), [])
    assert config.init == str(tmp_path / "runs/images/seed-0/final") and config.num_frames == 4
    assert resolve(str(tmp_path / "runs/images/seed-0/config.yaml"), []).num_frames == 1
    text = (tmp_path / "report.md").read_text()
    header = text[text.index("## Sampling interval") :].splitlines()[4]
    assert "motion of real clips" in header and "loss" not in header


def test_a_folder_of_videos_has_the_papers_arms(vae, videos, commands, tmp_path, capsys):
    """Such videos have no examiner, and without classes there is no guidance."""
    words = ["--scale", "paper", "--config", "folder", f"data={videos}", "motion_frames=0", "frame_interval=1"]
    assert ablate(tmp_path, vae, "temporal-position", "classes=false", *words, seeds=(0,)) == 0
    assert "without --i3d the report will have losses and samples, but no FVD" in capsys.readouterr().out
    header = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("|  |"))
    assert header.split(" | ")[2:4] == ["parameters, M", "loss, fixed noise ↓"] and "motion" not in header
    assert len(json.loads((tmp_path / "runs/base/seed-0/scores/base.json").read_text())) == 1
    assert Image.open(tmp_path / "runs/base/seed-0/scores/base.png").size == (4 * 16, 16)


def test_samples_of_a_folder_have_an_fvd(vae, videos, commands, tmp_path, monkeypatch, capsys):
    seen = lambda clips: torch.stack([clip.float().mean((2, 3)).flatten() for clip in clips])
    monkeypatch.setattr(distance, "i3d_detector", lambda *_: Detector({"metric": "fvd"}, seen))
    monkeypatch.setattr("latte.commands.ablate.find_i3d", lambda path: path)
    words = ["--scale", "paper", "--config", "folder", f"data={videos}", "motion_frames=0", "frame_interval=1"]
    assert ablate(tmp_path, vae, "guidance", *words, "--i3d", "i3d.pt", seeds=(0,)) == 0
    found = [json.loads(path.read_text())["fvd"] for path in (tmp_path / "runs/base/seed-0/scores").glob("*.json")]
    assert len(found) == 4 and len(set(found)) > 1
    report = (tmp_path / "report.md").read_text()
    assert "FVD ↓" in report and "fewer than 3 for each of its 400 features" in report
    assert ablate(tmp_path / "no", vae, "guidance", "--i3d", "i3d.pt") == 2
    assert "--i3d does nothing on the built-in shapes" in capsys.readouterr().err


def test_unreadable_data_fails_before_the_first_run(vae, tmp_path, capsys):
    words = ["--scale", "paper", "--config", "folder", "motion_frames=0", "frame_interval=1"]
    (tmp_path / "empty").mkdir()
    for name in ("gone", "empty"):
        assert ablate(tmp_path / "a", vae, *words, f"data={tmp_path / name}") == 2
        assert f"{tmp_path / name}" in capsys.readouterr().err
    assert ablate(tmp_path / "a", tmp_path / "no-vae") == 2
    assert f"vae={tmp_path / 'no-vae'}: no model at" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_workers_share_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    devices = workers.worker_devices(3)
    assert [device.environment["CUDA_VISIBLE_DEVICES"] for device in devices] == ["5", "7", "5"]
    assert [device.name for device in devices] == ["cuda:0", "cuda:1", "cuda:0"]


def test_workers_run_in_parallel_and_stop_their_children(tmp_path):
    at_once, now, seen = [], set(), []

    def work(number, workers, device):
        now.add(number)
        time.sleep(0.05)
        at_once.append(len(now))
        now.remove(number)

    with Workers(2) as pair:
        pair.for_each(work, [(number,) for number in range(6)], lambda: seen.append(len(at_once)))
    assert max(at_once) == 2 and len(at_once) == 6 == seen[-1] and len(seen) > 2

    def interrupted(workers, device):
        with (tmp_path / "log").open("wb") as log:
            code = "import os, time; os.kill(os.getppid(), 15); time.sleep(60)"
            status.append(workers.run_process([sys.executable, "-c", code], device, log))

    status, start = [], time.perf_counter()
    with pytest.raises(KeyboardInterrupt), Workers(1) as one:
        one.for_each(interrupted, [(), ()], lambda: None)
    assert status == [-signal.SIGTERM] and time.perf_counter() - start < 20  # and the second one never started
    assert signal.getsignal(signal.SIGTERM) is not signal.default_int_handler


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["variant"], "no ablation is called 'variant' at this scale; the names are variants,"),
        (["guidance", "classes=false"], "no ablation is called 'guidance'"),
        (["stpes=3"], "did you mean 'steps'"),
        (["kind=t2v"], "kind is 't2v'"),
        (["--num-videos", "0"], "--num-videos is 0"),
        (["--parallel", "0"], "--parallel is 0"),
        (["--seeds", "-1"], "--seeds has -1"),
        (["--out", "/dev/null/none"], "not a folder that can be written to"),
    ],
)
def test_wrong_options_get_one_line(words, say, tmp_path, capsys):
    assert main(["ablate", "--out", str(tmp_path / "out"), *words]) == 2
    assert say in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_list(capsys):
    assert main(["ablate", "--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    known = ablations(SCALES["small"], resolve("shapes-plain", []))
    arms = [arm for ablation in known.values() for arm in ablation.arms]
    assert len(known) > 9 and all(any(name in line for line in said) for name in (*known, *arms))


@pytest.mark.parametrize("measurements", [MEASUREMENTS, OLD_MEASUREMENTS])
def test_finished_work_is_not_missing(measurements, tmp_path):
    grid = grid_of(tmp_path, names=("temporal-position",), seeds=(0, 1))
    assert [len(part) for part in missing_work(grid)] == [2, 4, 4]
    write_scores(grid, {"sincos": [0.5, 0.5]}, measurements)
    assert [len(part) for part in missing_work(grid)] == [2, 2, 2]
