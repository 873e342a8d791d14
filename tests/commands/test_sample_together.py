"""`latte sample` under torchrun: all processes generate each video together, and the first one writes it."""

import os

import torch
from awake_models import awake_pipeline, write_model
from forks import start_together, status

from latte.cli import main
from latte.folder_lock import exclusive
from latte.processes import processes
from latte.video import read_video


def test_processes_make_one_page(tmp_path):
    model, out, log = (
        write_model(awake_pipeline(2, ["left", "right"]), tmp_path / "model"),
        tmp_path / "out",
        tmp_path / "log",
    )
    words = ["sample", str(model), "--num-videos", "1", "--num-sampling-steps", "3", "--seed", "4", "--device", "cpu"]

    def work():
        with processes(torch.device("cpu")):  # once, for both commands
            assert main([*words, "--out", str(out)]) == 0
            assert main([*words, *away, "--out", str(tmp_path / "away")]) == 0
            refused()

    def refused():
        with exclusive(tmp_path / "busy", replaced=True) if os.environ["RANK"] == "0" else open(os.devnull):
            assert main([*words, "--out", str(tmp_path / "busy")]) == 2

    away = ["--guidance-method", "apg", "--autoguidance", str(write_model(awake_pipeline(2), tmp_path / "weak"))]
    assert main([*words, "--out", str(tmp_path / "alone")]) == 0
    assert main([*words, *away, "--out", str(tmp_path / "away alone")]) == 0
    assert [status(pid) for pid in start_together(2, work, log)] == [0, 0], log.read_text()
    names = lambda folder: sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
    assert names(out) == names(tmp_path / "alone")
    for name in (name for name in names(out) if name.endswith(".mp4")):
        for together, alone in (("out", "alone"), ("away", "away alone")):
            ours, theirs = (read_video(tmp_path / folder / name)[0].int() for folder in (together, alone))
            assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 30  # compression amplifies rounding
    assert "by 2 processes: the frames in 1, the halves of guidance apart" in (out / "index.html").read_text()
    assert log.read_text().count("2 videos of") == 2 and log.read_text().count("latte sample: error") == 2
