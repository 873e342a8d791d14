"""What is decided and rejected before a run reads any video."""

import os
import signal
import warnings

import pytest
import torch
from small_runs import TINY, TINY_PLAIN, TINY_VAE, run, small

from latte.cli import main
from latte.commands import train as command
from latte.files import read_json, write_json
from latte.train import precision, start
from latte.train.base_config import AUTO
from latte.train.checkpoint import latest, read_state
from latte.train.data.prepare_videos import ClipRule, prepare_data_set
from latte.train.data.video_list import VIDEO_LIST, ListHead, open_video_list
from latte.train.precision import choose_precision, slowdown, warn_if_slow
from latte.train.presets import PRESETS
from latte.train.resolve import read_settings, resolve
from latte.train.run import Run
from latte.train.run_folder import SETTINGS_FILE
from latte.weights.find_models import FINAL, bundled_models

CPU = torch.device("cpu")


@pytest.fixture
def unread(monkeypatch):
    """Fails the test if data is opened."""
    monkeypatch.setattr(command, "open_data", lambda config: pytest.fail("data were opened"))


def refusal(capsys, *words) -> str:
    """The one-line error of a rejected `latte train` command."""
    capsys.readouterr()
    assert main(["train", "--device", "cpu", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("latte train: error: ")


def test_a_run_cannot_start_inside_its_data_or_without_it(vae, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    train = ["train", "--config", "folder", "--device", "cpu", "--run"]
    assert main([*train, str(tmp_path / "data"), f"data={tmp_path / 'data'}", f"vae={vae}"]) == 2
    assert "is the folder of the data: choose another folder for --run" in capsys.readouterr().err
    assert main([*train, str(tmp_path / "run"), f"data={tmp_path / 'gone'}", f"vae={tmp_path / 'none'}"]) == 2
    assert f"; there is nothing at data={tmp_path / 'gone'} either" in capsys.readouterr().err
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "run").exists()


def test_automatic_precision_is_the_faster_one(monkeypatch):
    assert slowdown("bf16", "cpu") > 0 and slowdown("bf16", "cpu") is slowdown("bf16", "cpu")  # measured once
    cases = ((0.0, "bf16", 0), (0.6, "bf16", 0), (0.95, "fp32", 0), (1.2, "fp32", 0), (13.4, "fp32", 2))
    for factor, chosen, warned in cases:
        monkeypatch.setattr(precision, "slowdown", lambda *of, z=factor: z)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for asked in ("fp32", "tf32", "bf16", "fp16"):
                warn_if_slow(asked, CPU)
        assert choose_precision(CPU) == chosen and len(caught) == warned
    said = "precision=bf16 is 13 times as slow as fp32 here: precision=auto chooses the faster one"
    assert str(caught[0].message) == said
    assert all(config.precision in ("fp32", AUTO) for config in PRESETS.values())
    assert PRESETS["folder"].precision == PRESETS["shapes-t2v"].precision == AUTO
    assert {PRESETS[name].precision for name in ("folder-vae", "shapes-vae", "ffs", "ucf101-modern")} == {AUTO}


def test_a_run_keeps_the_precision_that_it_began_with(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "choose_precision", lambda device: "bf16")
    run(small(vae, "steps=1", "precision=auto"), tmp_path)
    assert read_settings(str(tmp_path / SETTINGS_FILE))["precision"] == "bf16"
    assert read_state(latest(tmp_path))["run"]["precision"] == "bf16"
    monkeypatch.setattr(start, "choose_precision", lambda device: "fp32")  # as on another machine
    resumed = start.with_precision(small(vae, "steps=2", "precision=auto"), tmp_path, CPU)
    assert resumed.precision == "bf16"
    start.check_start(resumed, tmp_path)  # the same settings
    (tmp_path / SETTINGS_FILE).write_text("{")
    assert start.with_precision(small(vae, "precision=auto"), tmp_path, CPU).precision == "bf16"
    assert start.with_precision(small(vae, "precision=auto"), tmp_path / "other", CPU).precision == "fp32"


def test_recorded_settings_come_from_the_newest_valid_checkpoint(vae, tmp_path):
    run(small(vae, "steps=2", "save_every=1", "precision=bf16"), tmp_path)
    (latest(tmp_path) / "state.json").write_text("{")
    settings, done = start.recorded_settings(tmp_path)
    assert done == 1 and settings["precision"] == "bf16" and settings["global_batch_size"] == 4
    (tmp_path / "checkpoints/step-0000001/ema.safetensors").write_bytes(b"")
    assert start.recorded_settings(tmp_path) == (settings, 0)  # from config.yaml


def test_without_a_config_a_run_resumes_with_its_own(vae, tmp_path):
    words = ["train", "--device", "cpu", "--run", str(tmp_path / "run")]
    assert main([*words, "--config", "shapes-plain", *TINY_PLAIN, f"vae={vae}", "steps=1", "learning_rate=1e-3"]) == 0
    assert main([*words, "steps=2"]) == 0
    state = read_state(latest(tmp_path / "run"))
    assert (state["step"], state["run"]["learning_rate"]) == (2, 1e-3)


def test_data_without_a_config_asks_for_one(tmp_path, capsys, unread, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys, "--run", "run", "data=clips")
    assert said == "there is nothing at data=clips, and no --config: give both a folder of videos and a preset"
    (tmp_path / "clips").mkdir()
    said = refusal(capsys, "--run", tmp_path / "run", "data=clips")
    assert said == (
        "data=clips does not say what to train: give --config, such as folder-vae (a small VAE), folder (a small Latte "
        "on its latents)"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "clips"]
    for kind, ends in (("folder", "on its latents)"), ("sky", "on its latents), or sky (the paper's)")):
        monkeypatch.setattr("latte.train.resolve.listed", lambda folder, kind=kind: ListHead(kind, 1))
        assert refusal(capsys, "--run", tmp_path / "run", "data=clips").endswith(ends)


def test_a_new_run_needs_a_config(tmp_path, capsys, unread):
    """Or else a misspelled name of a run would start hours of training."""
    said = refusal(capsys, "--run", tmp_path / "rnu", "steps=3")
    assert said == f"there is no run at {tmp_path / 'rnu'}: to start one, give --config, such as shapes"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["shapes", "shapes-plain", "shapes-t2v"])
def test_own_data_are_not_encoded_by_the_vae_of_the_shapes(preset, tmp_path, capsys, unread, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys, "--config", preset, "--run", "run", "data=my clips")
    assert said == "no folder of videos at my clips: give data=FOLDER"
    (tmp_path / "my clips").mkdir()
    said = refusal(capsys, "--config", preset, "--run", tmp_path / "run", "data=my clips")
    assert said.startswith(f"the VAE of {preset}, ") and "knows only the built-in shapes: train one on my clips" in said
    assert "`latte train --config folder-vae --run runs/folder-vae 'data=my clips'`" in said
    assert resolve(preset, ["data=clips", "vae=shapes/vae"]).vae == "shapes/vae"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config", "folder-vae", "image_size=30"],
            "frames have a side of 30 pixels; this VAE encodes multiples of 8",
        ),
        (["--config", "folder-vae", "model.depth=3"], "the setting model: unknown key 'depth'"),
        (
            ["--config", "folder", "vae=shapes/vae", "model.dept=3"],
            "the setting model: unknown key 'dept'",
        ),
        (["--config", "t2v", "vae=shapes/vae", "model.depth=3"], "the setting model: unknown key"),
    ],
)
def test_the_network_is_checked_before_videos_are_read(words, message, tmp_path, capsys, unread):
    assert message in refusal(capsys, "--run", tmp_path / "run", *words, f"data={tmp_path}")


def test_a_missing_vae_suggests_the_preset_that_trains_one(tmp_path, capsys, unread, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for preset, data, trains in (
        ("folder", "data=clips", "folder-vae --run runs/folder-vae data=clips"),
        ("ucf101-modern", "log_every=1", "ucf101-vae --run runs/ucf101-vae"),
        ("folder", "vae=sd", "folder-vae --run runs/folder-vae"),
    ):
        said = refusal(capsys, "--config", preset, "--run", "run", data)
        assert f"train one with `latte train --config {trains}`, or name another, vae=..." in said
    assert said.startswith("there is no VAE at sd: ") and list(tmp_path.iterdir()) == []


def test_a_missing_published_vae_is_not_to_be_trained(tmp_path, capsys, unread, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for preset, word, vae, folder, hub in (
        ("t2v-finetune", "steps=10", "Latte-1/vae", "Latte-1", "maxin-cn/Latte-1"),
        ("t2v", "data=clips", "sd-vae-ft-ema", "sd-vae-ft-ema", "stabilityai/sd-vae-ft-ema"),
        ("ucf101", "steps=10", "sd-vae-ft-ema", "sd-vae-ft-ema", "stabilityai/sd-vae-ft-ema"),
    ):
        said = refusal(capsys, "--config", preset, "--run", "run", word)
        advice = f"get huggingface.co/{hub}, for instance with `hf download {hub} --local-dir {folder}`, or name"
        assert said.startswith(f"there is no VAE at {vae}: {advice} another, vae=...; there is nothing at data=")


def test_every_vae_of_a_preset_is_trained_or_can_be_fetched():
    vaes = {preset.vae for preset in PRESETS.values()} - {""}
    trained = {vae for vae in vaes if vae in bundled_models() or vae.endswith(FINAL)}
    assert vaes - trained == start.PUBLISHED_VAES.keys()


def test_a_name_on_the_hub_is_to_be_fetched(tmp_path, capsys, unread, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetch = "if it is a name on the Hugging Face hub, fetch it with `hf download x/vae --local-dir x/vae`"
    words = ["--config", "shapes", "--run", "run", "vae=x/vae"]
    assert fetch in refusal(capsys, *words)
    (tmp_path / "x").mkdir()
    assert "hub" not in refusal(capsys, *words)


def test_folders_and_settings_are_checked_before_data(vae, tmp_path, capsys, unread):
    run(small(vae, "steps=2"), tmp_path / "run")
    words = ["--config", "shapes-plain", *TINY_PLAIN, f"vae={vae}"]
    assert "with different settings: it has seed=0, not 1; " in refusal(
        capsys, "--run", tmp_path / "run", *words, "seed=1"
    )
    assert "has done 2 steps" in refusal(capsys, "--run", tmp_path / "run", *words, "steps=1")
    assert "already holds checkpoints" in refusal(capsys, "--run", tmp_path / "run", *words, "--resume", "never")
    (tmp_path / "a").write_text("")
    assert "is a file" in refusal(capsys, "--run", tmp_path / "a", *words)
    assert "a/run" in refusal(capsys, "--run", tmp_path / "a/run", *words)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/metrics.jsonl").write_text("")
    assert "holds metrics.jsonl but no checkpoint" in refusal(capsys, "--run", tmp_path / "b", *words)


@pytest.mark.parametrize("name", ["index.json", "index.html", "000-left.mp4", "scores"])
def test_a_folder_that_is_no_run_is_left_alone(name, vae, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/train.log").touch()  # a shell may write a log there before training starts
    start.check_start(small(vae, "steps=1"), tmp_path / "run")
    (tmp_path / "run" / name).touch()
    words = ["--run", tmp_path / "run", "--config", "shapes-plain", *TINY_PLAIN, f"vae={vae}"]
    assert f"{tmp_path / 'run'} is not a run: it holds {name}; choose another folder" in refusal(capsys, *words)


def test_a_run_that_was_stopped_before_its_first_step(vae, tmp_path, monkeypatch):
    def stop(self, first):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=r"^stopped before step 1; the same"):
        patch.setattr(Run, "prepare", stop)
        run(small(vae, "steps=1"), tmp_path / "run")
    terminate = lambda self, first: os.kill(os.getpid(), signal.SIGTERM)  # as timeout and SLURM do
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=r"^stopped before step 1; the same"):
        patch.setattr(Run, "prepare", terminate)
        run(small(vae, "steps=1"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds a run with different settings \(clips, seed\) but no checkpoint: "):
        run(small(vae, "steps=1", "clips=9", "seed=3"), tmp_path / "run")
    assert run(small(vae, "steps=1"), tmp_path / "run").is_dir()


def test_training_takes_the_frame_interval_of_the_list(tmp_path):
    out = tmp_path / "data"
    prepare_data_set("shapes", None, out, ClipRule("stride", 3, 4), clips=2)
    assert open_video_list(out).frame_interval == read_json(out / VIDEO_LIST)["frame_interval"] == 4
    words = [f"data={out}", *TINY, "num_frames=3"]
    assert resolve("folder", words).frame_interval == 4
    assert resolve("folder", [*words, "frame_interval=1"]).frame_interval == 1  # as requested
    assert resolve("ucf101", ["data=elsewhere"]).frame_interval == 3  # the paper's
    assert resolve("ucf101", [f"data={out}"]).frame_interval == 4
    assert resolve("ucf101", [f"data={out}", "frame_interval=3"]).frame_interval == 3
    (tmp_path / "run.yaml").write_text(f"data: {out}\nvae: shapes/vae\nframe_interval: 2\n")
    assert resolve(str(tmp_path / "run.yaml"), []).frame_interval == 2
    assert resolve("folder", ["data=elsewhere"]).frame_interval == resolve("shapes", []).frame_interval == 1
    values = read_json(out / VIDEO_LIST)
    write_json(out / VIDEO_LIST, {name: value for name, value in values.items() if name != "frame_interval"})
    assert open_video_list(out).frame_interval == 0 and resolve("folder", words).frame_interval == 1  # older lists
    write_json(out / VIDEO_LIST, values | {"frame_interval": -1})
    with pytest.raises(ValueError, match="is damaged or was edited"):
        open_video_list(out)
    assert resolve("folder-vae", [f"data={out}", *TINY_VAE, "num_frames=1"]).data == str(out)
