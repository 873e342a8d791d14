"""What is watched while a model trains: grids of samples, TensorBoard, and the curves afterwards."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import TINY_VAE, run, same, small, small_t2v, tensors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latte.cli import main
from latte.train import checkpoint
from latte.train.plot import read_metrics, smooth
from latte.train.settings import resolve
from latte.video import read_video


@pytest.mark.parametrize(("kind", "rows"), [("latte", 8), ("t2v", 8), ("vae", 8)])
def test_grids_are_made_and_change_nothing(kind, rows, vae, tmp_path):
    make = {"latte": small, "t2v": small_t2v}.get(kind, lambda _, *c: resolve("shapes-vae", [*TINY_VAE, *c]))
    words = ["steps=4", "num_frames=4"]
    run(make(vae, *words), tmp_path / "plain")
    run(make(vae, *words, "sample_every=2"), tmp_path / "seen")
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("plain", "seen")))
    folder = tmp_path / "seen/samples"
    names = ["step-0000002.mp4", "step-0000002.png", "step-0000004.mp4", "step-0000004.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert read_video(folder / names[0])[0].shape == (4, 3, 48, 48)
    sheets = [np.asarray(Image.open(folder / name)) for name in (names[1], names[3])]
    assert sheets[0].shape[0] == rows * 20 - 4 and (sheets[0] != sheets[1]).any()
    assert not (tmp_path / "plain/samples").exists()


def test_a_grid_that_fails_does_not_end_the_run(vae, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/samples").write_text("in the way")
    with pytest.warns(UserWarning, match="no grid of step 2, training goes on"):
        run(small(vae, "steps=4", "sample_every=2"), tmp_path / "run")
    assert (tmp_path / "run/final/model.safetensors").is_file()


def test_tensorboard_has_the_numbers_and_the_grids(vae, tmp_path):
    config = small(vae, "steps=4", "log_every=2", "sample_every=2", "tensorboard=true")
    run(config, tmp_path)
    run(small(vae, "steps=6", "log_every=2", "sample_every=2", "tensorboard=true", "schedule=cosine"), tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.step for event in board.Scalars("loss")] == [2, 4, 6]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    assert [event.step for event in board.Images("samples")] == [2, 4, 6]
    run(small(vae, "steps=2"), tmp_path / "plain")
    assert not (tmp_path / "plain/tensorboard").exists()


def test_smooth_curves():
    values = np.array([1.0, 3.0, np.nan, 8.0, 8.0])
    torch.testing.assert_close(smooth(values, 2), np.array([1.0, 2.0, 3.0, 8.0, 8.0]))
    assert np.isnan(smooth(np.array([np.nan, 1.0]), 1)[0])


def test_the_plot_command(vae, tmp_path, capsys):
    for seed in (0, 1):
        run(small(vae, "steps=3", f"seed={seed}"), tmp_path / str(seed))
    table = read_metrics(tmp_path / "0")
    assert table["step"].tolist() == [1, 2, 3] and np.isfinite(table["loss"]).all()
    assert main(["plot", str(tmp_path / "0"), str(tmp_path / "1")]) == 0
    two = Image.open(tmp_path / "0/curves.png")
    assert main(["plot", str(tmp_path / "0"), "--out", str(tmp_path / "one.png"), "--smooth", "1"]) == 0
    one = Image.open(tmp_path / "one.png")
    assert one.size == two.size and one.size[0] == 2640 and one.tobytes() != two.tobytes()
    (tmp_path / "1/metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/metrics.jsonl").touch()
    for words, say in (
        ([str(tmp_path)], "holds no metrics.jsonl"),
        ([str(tmp_path / "1")], "line 2 is not a line of metrics"),
        ([str(tmp_path / "empty")], "has not logged yet"),
        ([str(tmp_path / "0"), "--out", "a.txt"], "give a .png"),
        ([str(tmp_path / "0"), "--smooth", "0"], "--smooth is 0"),
    ):
        assert main(["plot", *words]) == 2
        assert say in capsys.readouterr().err
