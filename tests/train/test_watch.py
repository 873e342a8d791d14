"""Sample grids and evaluations during training, and the curves afterwards."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import TINY_VAE, run, same, small, small_t2v, tensors

from latte import LattePipeline
from latte.cli import main
from latte.eval.features import Detector
from latte.eval.frechet import Moments
from latte.sampling_settings import Guidance, Sampling
from latte.shapes.draw import make_clip
from latte.train import checkpoint, distance
from latte.train.curves import plot_curves, read_metrics, smooth
from latte.train.data.folders import open_clips
from latte.train.resolve import resolve
from latte.video.read import read_video
from latte.video.write import write_video


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


@pytest.mark.parametrize("make", [small, small_t2v])
def test_sample_guidance_applies_to_samples_only(make, vae, tmp_path):
    """sample_guidance applies to grids and to `latte sample`, and changes no weights."""
    usual = {small: 4.0, small_t2v: 7.5}[make]
    for name, scale in (("usual", 0), ("same", usual), ("less", 1.5)):
        words = ["steps=6", "sample_every=6", "learning_rate=3e-2", f"sample_guidance={scale}"]
        run(make(vae, *words), tmp_path / name)
    grids = [(tmp_path / name / "samples/step-0000006.png").read_bytes() for name in ("usual", "same", "less")]
    assert grids[0] == grids[1] != grids[2]
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("usual", "less")))
    scale = lambda path: LattePipeline.from_pretrained(path).sampling.guidance.scale
    assert scale(tmp_path / "usual") == usual and scale(tmp_path / "less") == 1.5
    shutil.rmtree(tmp_path / "less/final")
    assert scale(tmp_path / "less") == 1.5
    run(make(vae, "steps=6", "learning_rate=3e-2", "sample_guidance=1.5"), tmp_path / "less")
    run(make(vae, "steps=6", "learning_rate=3e-2", "sample_guidance=0"), tmp_path / "less")
    assert scale(tmp_path / "less") == scale(tmp_path / "less/checkpoints/step-0000006") == usual
    if make is small:
        with pytest.raises(ValueError, match="sample_guidance does nothing without classes that are dropped"):
            run(small(vae, "sample_guidance=2", "model.class_dropout_prob=0.0"), tmp_path / "idle")
        run(small(vae, "model.class_dropout_prob=0.0", "steps=2", "sample_every=2"), tmp_path / "certain")
        assert (tmp_path / "certain/samples/step-0000002.png").is_file()


def test_sample_settings_apply_to_grids_and_to_the_trained_model(vae, tmp_path):
    words = ["steps=6", "sample_every=6", "learning_rate=3e-2", "sample_guidance=2"]
    chosen = ["sample_settings={num_inference_steps: 9, eta: 1, guidance_interval: [200, 1000]}"]
    for name, more in (("usual", []), ("chosen", chosen)):
        run(small(vae, *words, *more), tmp_path / name)
    grids = [(tmp_path / name / "samples/step-0000006.png").read_bytes() for name in ("usual", "chosen")]
    assert grids[0] != grids[1]
    for folder in ("chosen", "chosen/final"):
        found = LattePipeline.from_pretrained(tmp_path / folder).sampling
        assert found == Sampling(Guidance(2.0, (200, 1000)), 9, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample_settings={eta: 1}"], "sample_settings does nothing with sample_guidance=0.0"),
        (["sample_guidance=2", "sample_settings={eta: 2}"], "eta is 2; it must be from 0 to 1"),
        (["sample_guidance=2", "sample_settings={steps: 2}"], "unknown key 'steps'; the keys are guidance_scale"),
        (["sample_guidance=2", "sample_settings={guidance_scale: 2}"], "the scale is sample_guidance"),
        (["sample_guidance=2", "sample_settings={autoguidance_scale: 2}"], "sample_settings has autoguidance_scale"),
    ],
)
def test_sample_settings_are_checked(words, message, vae):
    with pytest.raises(ValueError, match=message):
        small(vae, *words)


def test_a_grid_that_fails_does_not_end_the_run(vae, tmp_path):
    run(small(vae, "steps=1"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/final")
    (tmp_path / "run/samples").write_text("in the way")
    with pytest.warns(UserWarning, match="no samples at step 2, training continues"):
        run(small(vae, "steps=4", "sample_every=2"), tmp_path / "run")
    assert (tmp_path / "run/final/model.safetensors").is_file()


def evaluated(folder) -> dict[int, dict]:
    """The lines of metrics.jsonl with a distance, by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line.pop("step"): line for line in lines if "loss" not in line}


@pytest.mark.parametrize("make", [small, small_t2v])
def test_evaluation_during_training_does_not_change_the_result(make, vae, tmp_path):
    words = ["steps=4", "num_frames=8", "global_batch_size=2"]
    run(make(vae, *words), tmp_path / "plain")
    run(make(vae, *words, "eval_every=2", "eval_clips=3"), tmp_path / "evaluated")
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("plain", "evaluated")))
    found = evaluated(tmp_path / "evaluated")
    assert found.keys() == {2, 4} and all(line["shapes_distance"] > 1 for line in found.values())
    assert not evaluated(tmp_path / "plain")
    assert main(["plot", str(tmp_path / "evaluated")]) == 0
    assert Image.open(tmp_path / "evaluated/curves.png").size == (1419, 704)  # two rows, of three panels and two


def test_settings_of_the_distance_during_training(vae, tmp_path, monkeypatch):
    words = ["steps=2", "num_frames=8", "global_batch_size=2", "eval_every=2"]
    for i in range(3):
        write_video(make_clip(4, i, frames=9, size=16).video, tmp_path / f"real/{i}.mkv")
        wide = np.pad(make_clip(4, i, frames=9, size=16).video, ((0, 0), (0, 0), (0, 0), (4, 4)), constant_values=255)
        write_video(wide, tmp_path / f"wide/{i}.mkv")
    write_video(make_clip(4, 3, frames=7, size=16).video, tmp_path / "real/short.mkv")
    moments = Moments(torch.ones(32).double(), torch.eye(32).double(), 9)
    np.savez(tmp_path / "real.npz", mean=moments.mean.numpy(), cov=moments.cov.numpy(), n=9)
    detector = Detector(
        {"metric": "fvd"}, lambda clips: torch.stack([clip.float().mean((2, 3)).flatten() for clip in clips])
    )
    monkeypatch.setattr(distance, "i3d_detector", lambda path, protocol, device: detector)
    found = {}
    for name, more in {
        "data": [],
        "more": ["eval_clips=5"],
        "folder": [f"eval_real={tmp_path / 'real'}"],
        "wide": [f"eval_real={tmp_path / 'wide'}"],
        "statistics": [f"eval_real={tmp_path / 'real.npz'}"],
        "i3d": ["eval_i3d=i3d.pt"],
    }.items():
        run(small(vae, *words, *(["eval_clips=3"] if name != "more" else []), *more), tmp_path / "runs" / name)
        (found[name],) = [value for line in evaluated(tmp_path / "runs" / name).values() for value in line.items()]
    assert {name for name, _ in found.values()} == {"shapes_distance", "fvd"}
    assert found["wide"] == pytest.approx(found["folder"])  # training would see the same of both
    assert len({value for name, (_, value) in found.items() if name != "wide"}) == 5 and found["i3d"][0] == "fvd"


def test_real_clips_come_from_all_of_the_data(monkeypatch):
    """The videos of a folder are sorted by class, so the first ones would all be of one class."""
    clips, seen = open_clips(resolve("shapes", ["clips=40", "image_size=16"])), []
    draw = clips.clip
    monkeypatch.setattr(clips, "clip", lambda i, random: (seen.append(i), draw(i, random))[1])
    config = resolve("shapes", ["clips=40", "image_size=16", "eval_every=1", "eval_clips=8"])
    distance.DistanceToReal(config, clips, torch.device("cpu"))
    assert len(set(seen)) == 8 and max(seen) > 20 and seen != sorted(seen)


def test_a_failed_evaluation_does_not_end_the_run(vae, tmp_path, monkeypatch):
    monkeypatch.setattr("latte.train.run.sample_videos", lambda *_: torch.zeros(1, 8, 3, 16, 16).byte())
    with pytest.warns(UserWarning, match="evaluation failed, training continues"):
        run(small(vae, "steps=2", "num_frames=8", "eval_every=2", "eval_clips=2"), tmp_path)
    assert (tmp_path / "final/model.safetensors").is_file() and not evaluated(tmp_path)


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["eval_clips=3"], "eval_clips does nothing with eval_every=0"),
        (["eval_every=2", "eval_clips=1"], "eval_clips is 1; it must be 2 or more"),
        (["eval_every=2", "eval_real=nowhere"], "no folder of videos at nowhere"),
        (
            ["eval_every=2", "eval_real=STATISTICS"],
            "the real features have 400 numbers, those of the shapes distance .* have 32",
        ),
        (["eval_every=2", "eval_i3d=nowhere.pt"], "nowhere.pt: there is no such file; FVD needs i3d_torchscript.pt"),
    ],
)
def test_impossible_evaluations_are_rejected_at_once(words, say, vae, tmp_path):
    np.savez(tmp_path / "i3d.npz", mean=np.zeros(400), cov=np.eye(400), n=9)
    words = [word.replace("STATISTICS", str(tmp_path / "i3d.npz")) for word in words]
    with pytest.raises((ValueError, FileNotFoundError), match=say):
        run(small(vae, *words), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_smooth_curves():
    values = np.array([1.0, 3.0, np.nan, 8.0, 8.0])
    torch.testing.assert_close(smooth(values, 2), np.array([1.0, 2.0, 3.0, 8.0, 8.0]))
    assert np.isnan(smooth(np.array([np.nan, 1.0]), 1)[0])


def test_only_noisy_metrics_are_smoothed(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    lines = [
        {"step": i, "loss": 1.0 + i % 2, "learning_rate": 0.1 * (i < 50), "clips_per_second": 9} for i in range(100)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    drawn, own = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *args, **options: drawn.append(args[2]) or own(*args, **options))
    plot_curves([tmp_path], tmp_path / "curves.png", 50)
    assert len(drawn) == 5  # the values and their average, but for the learning rate only the values
    assert np.ptp(drawn[1][50:]) == 0 < np.ptp(drawn[0]) and set(drawn[2]) == {0, 0.1}


def test_an_evaluation_does_not_break_the_other_curves(tmp_path):
    """It has a line of its own in metrics.jsonl."""
    lines = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "shapes_distance": 9.0},
        {"step": 3, "loss": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    table = read_metrics(tmp_path)
    assert table["step"].tolist() == [1, 2, 3] and table["loss"].tolist() == [3, 2, 1]
    assert np.isfinite(table["shapes_distance"]).tolist() == [False, True, False]


def test_the_average_of_a_short_run_follows_it(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    lines = [{"step": i, "loss": 9.0 if i < 3 else 1.0} for i in range(8)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    drawn, own = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *args, **options: drawn.append(args[2]) or own(*args, **options))
    plot_curves([tmp_path], tmp_path / "curves.png", 50)
    assert drawn[1][-1] == 1  # the mean of the last half


def test_a_single_value_is_a_point(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "grad_norm": 2.0, "learning_rate": 0.1}\n')
    pixels = np.asarray(Image.open(plot_curves([tmp_path], tmp_path / "p.png")).convert("RGB")).astype(int)
    blue = (abs(pixels - (31, 119, 180)).sum(2) < 30).nonzero()[1]  # columns
    assert (blue > pixels.shape[1] / 2).any()  # the legend is in the first panel


def test_the_plot_command(vae, tmp_path, capsys):
    for seed in (0, 1):
        run(small(vae, "steps=3", f"seed={seed}"), tmp_path / str(seed))
    table = read_metrics(tmp_path / "0")
    assert table["step"].tolist() == [1, 2, 3] and np.isfinite(table["loss"]).all()
    assert main(["plot", str(tmp_path / "0"), str(tmp_path / "1")]) == 0
    two = Image.open(tmp_path / "0/curves.png")
    assert main(["plot", str(tmp_path / "0"), "--out", str(tmp_path / "one.png"), "--smooth", "1"]) == 0
    one = Image.open(tmp_path / "one.png")
    assert one.size == two.size == (946, 704) and one.tobytes() != two.tobytes()
    (tmp_path / "1/metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/metrics.jsonl").touch()
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/metrics.jsonl").write_text('{"step": 1}\n')
    for words, say in (
        ([str(tmp_path)], "holds no metrics.jsonl"),
        ([str(tmp_path / "1")], "line 2 is not a line of metrics"),
        ([str(tmp_path / "empty")], "has not logged yet"),
        ([str(tmp_path / "steps")], "holds none of the plotted numbers"),
        ([str(tmp_path / "0"), "--out", "a.txt"], "give a .png"),
        ([str(tmp_path / "0"), "--smooth", "0"], "--smooth is 0"),
    ):
        assert main(["plot", *words]) == 2
        assert say in capsys.readouterr().err


def test_a_run_that_logged_once_shows_a_point(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 0.5}\n')
    shown = np.asarray(Image.open(plot_curves([tmp_path], tmp_path / "one.png")).convert("RGB")).astype(int)
    high, wide, _ = shown.shape
    middle = shown[high // 5 : high * 3 // 5, wide * 3 // 8 : wide * 5 // 8]  # without the legend
    assert ((middle[:, :, 2] - middle[:, :, 0]) > 100).any()
