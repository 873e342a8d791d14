"""Power-function averages: the formula, reconstruction by least squares, and the command that writes a model."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_latte import draw
from small_runs import run, small, small_t2v

from latte import LattePipeline
from latte.cli import main
from latte.files import read_json
from latte.train import snapshots
from latte.train.power_average import LENGTHS, LONGEST, exponent, mixture, newest_weight, overlap, update_power_average
from latte.train.run import Run
from latte.train.snapshots import list_snapshots


def profile(steps, length):
    """The share of each step's weights, in closed form: (i^(e + 1) - (i - 1)^(e + 1)) / steps^(e + 1)."""
    edges = (np.arange(steps + 1) / steps) ** (exponent(length) + 1)
    return torch.from_numpy(np.diff(edges))


@pytest.mark.parametrize("length", [0.02, 0.05, 0.10, 0.25])
def test_the_exponent_gives_the_length(length):
    """The standard deviation of a density (e + 1) t^e on [0, 1]; the paper has 6.94 and 16.97 for 0.10 and 0.05."""
    e = exponent(length)
    mean, square = (e + 1) / (e + 2), (e + 1) / (e + 3)
    assert math.sqrt(square - mean**2) == pytest.approx(length)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005) and exponent(0.05) == pytest.approx(16.97, abs=0.005)
    for bad in (0, -1, LONGEST + 0.01, math.nan):
        with pytest.raises(ValueError, match="a fraction of training"):
            exponent(bad)


def test_a_running_average_matches_the_closed_form():
    weights, network, average = draw(0, 30, 5), torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
    for step, row in enumerate(weights):
        torch.nn.utils.vector_to_parameters(row, network.parameters())
        update_power_average(average, network, 0.1, step)
        if step in (0, 12, 29):
            expected = profile(step + 1, 0.1) @ weights[: step + 1].double()
            found = torch.nn.utils.parameters_to_vector(average.parameters())
            torch.testing.assert_close(found, expected.float())
    assert newest_weight(0.1, 0) == 1


def test_overlaps_match_the_integrals():
    """Against a sum over a fine grid; and for two uniform profiles by hand: 1/2 * 1/4 over [0, 2] is 1/4."""
    stored = np.array([3.0, 8.0, 8.0]), np.array([2.5, 1.0, 6.0])
    t = (np.arange(80_000) + 0.5) / 10_000
    p = [np.where(t < steps, (e + 1) * t**e / steps ** (e + 1), 0) for steps, e in zip(*stored)]
    expected = [[(one * other).sum() / 10_000 for other in p] for one in p]
    np.testing.assert_allclose(overlap(stored, stored), expected, rtol=1e-3)
    uniform = lambda steps: (np.array([steps]), np.array([0.0]))
    assert overlap(uniform(2.0), uniform(4.0)) == pytest.approx(0.25)


def test_a_stored_average_is_itself_and_one_snapshot_is_projected():
    snapshots = [(step, length) for step in (10, 20) for length in LENGTHS]
    weights, error = mixture(snapshots, 20, 0.10)
    assert weights == pytest.approx([0, 0, 0, 1], abs=1e-6) and error < 1e-6
    (weight,), error = mixture([(10, 0.10)], 20, 0.10)  # (8^2 / 15) 2^-e / 20 over (8^2 / 15) / 10, with e = 6.94
    assert weight == pytest.approx(0.5 ** (exponent(0.10) + 1)) and error == pytest.approx(
        math.sqrt(1 - weight / 2 ** exponent(0.10))
    )


@pytest.mark.parametrize(("length", "most"), [(0.03, 0.03), (0.08, 0.005), (0.2, 0.02)])
def test_a_reconstruction_is_close_to_the_running_average(length, most):
    """A walk of 400 steps with snapshots every 20; the error is relative to the spread of the averages."""
    walk = draw(0, 400, 200).double().cumsum(0)
    kept = lambda steps, z: profile(steps, z) @ walk[:steps]
    snapshots = [(steps, z) for steps in range(20, 401, 20) for z in LENGTHS]
    weights, error = mixture(snapshots, 400, length)
    made = sum(w * kept(*each).half().double() for w, each in zip(weights, snapshots))
    spread = (kept(400, 0.05) - kept(400, 0.10)).norm()
    assert (made - kept(400, length)).norm() / spread < most and error < most


def test_a_run_keeps_both_averages_and_the_command_makes_others(vae, tmp_path, monkeypatch, capsys):
    step, history = Run.step, []

    def recorded(self, number):
        logged = step(self, number)
        history.append({name: p.detach().double().clone() for name, p in self.network.named_parameters()})
        return logged

    monkeypatch.setattr(Run, "step", recorded)
    words = ["steps=5", "schedule=constant", "sample_guidance=2.0"]
    final = run(small(vae, *words, "average_every=2"), tmp_path / "run")
    stored = load_file(tmp_path / "run/averages/step-0000005/average-0.05.safetensors")
    for name, tensor in stored.items():
        expected = sum(share * each[name] for share, each in zip(profile(5, 0.05), history))
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-3, atol=1e-6)
    assert [path.name for path in list_snapshots(tmp_path / "run")] == [f"step-000000{i}" for i in (2, 4, 5)]
    plain = run(small(vae, *words), tmp_path / "plain")
    assert (plain / "model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()
    assert not (tmp_path / "plain/averages").exists()

    average = lambda *rest: main(["average", str(tmp_path / "run"), *rest])
    assert average("--length", "0.05", "--out", str(tmp_path / "out")) == 0
    assert "length 0.05 after step 5, of 3 snapshots; its profile is" in capsys.readouterr().out
    made = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.allclose(made[name], stored[name].float(), atol=1e-6) for name in stored)
    names = lambda folder: {path.name for path in folder.iterdir()}
    assert names(tmp_path / "out") | {"README.md"} == names(final)  # its card describes the other weights
    same = lambda file: (tmp_path / "out" / file).read_bytes() == (final / file).read_bytes()
    assert all(same(file) for file in ("config.json", "classes.json", "sampling.json", "vae/model.safetensors"))
    assert read_json(tmp_path / "out/trained.json") == {"steps": 5, "average": 0.05}
    assert LattePipeline.from_pretrained(tmp_path / "out").sampling.guidance is not None

    (tmp_path / "run/averages/step-0000004/average-0.10.safetensors").write_bytes(b"")
    for rest, say in (
        (["--length", "0.05", "--out", str(tmp_path / "out")], "is not an empty folder"),
        (["--length", "0.5", "--out", str(tmp_path / "new")], "above 0 and up to 0.288, not 0.5"),
        (["--length", "0.05", "--step", "4", "--out", str(tmp_path / "new")], "no intact snapshot of step 4"),
    ):
        assert average(*rest) == 2
        said = capsys.readouterr().err
        assert say in said.splitlines()[-1] and "step-0000004: average-0.10.safetensors is missing" in said
    assert main(["average", str(tmp_path / "plain"), "--length", "0.1", "--out", str(tmp_path / "new")]) == 2
    assert "holds no snapshots of averages to use: train with average_every" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_averaging_a_text_to_video_run_gives_a_text_to_video_model(vae, tmp_path):
    final = run(small_t2v(vae, "steps=2", "average_every=2", "optimizer=muon"), tmp_path / "run")
    assert main(["average", str(tmp_path / "run"), "--length", "0.1", "--out", str(tmp_path / "out")]) == 0
    files = lambda folder: {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files(tmp_path / "out") == files(final) - {"README.md"}
    pipe = LattePipeline.from_pretrained(tmp_path / "out")
    stored = load_file(tmp_path / "run/averages/step-0000002/average-0.10.safetensors")
    loaded = {
        f"{part}.{name}": z
        for part in ("transformer", "text_encoder")
        for name, z in getattr(pipe, part).state_dict().items()
    }
    assert loaded.keys() == stored.keys()
    assert all(torch.allclose(loaded[name], z.float(), atol=1e-6) for name, z in stored.items())


def test_a_run_that_fails_and_resumes_loses_no_snapshot(vae, tmp_path, monkeypatch):
    """Also with Muon and a trapezoid. It fails after the snapshot at step 4, and resumes from the checkpoint at 3."""
    words = ["steps=6", "save_every=3", "average_every=2", "optimizer=muon", "schedule=trapezoid"]
    config = small(vae, *words, "cooldown=0.5", "cooldown_shape=sqrt")
    run(config, tmp_path / "whole")
    step = Run.step
    with monkeypatch.context() as patch, pytest.raises(OSError, match="unplugged"):
        patch.setattr(Run, "step", lambda self, number: step(self, number) if number < 4 else unplug())
        run(config, tmp_path / "parts")
    assert [path.name[-1] for path in list_snapshots(tmp_path / "parts")] == ["2", "4"]
    half = tmp_path / "parts/averages/.step-0000006.part1-0a0b0c0d-1"  # left by a killed process
    half.mkdir()
    run(config, tmp_path / "parts")
    whole, parts = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.safetensors")}
        for name in ("whole", "parts")
    )
    assert whole == parts and sum(name.startswith("averages/") for name in whole) == 6 and not half.exists()
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1.5e-3 * share for share in (0.5, 1, 1, 1, 1 - (1 / 3) ** 0.5, 1 - (2 / 3) ** 0.5)])


def unplug():
    raise OSError("unplugged")


def test_a_snapshot_that_cannot_be_written_is_left_out(vae, tmp_path, monkeypatch):
    """And no snapshot remains from after the checkpoint that a run resumes from."""
    monkeypatch.setattr(snapshots, "flush", lambda folder: unplug())
    with pytest.warns(UserWarning, match="no snapshot of the averages at step 2, training continues: .*unplugged"):
        run(small(vae, "steps=2", "average_every=2"), tmp_path)
    assert not list((tmp_path / "averages").iterdir()) and (tmp_path / "final").is_dir()
    for number in (1, 2, 3):
        (tmp_path / f"averages/step-{number:07d}").mkdir()
    snapshots.remove_snapshots_after(tmp_path, 1)
    assert [path.name for path in list_snapshots(tmp_path)] == ["step-0000001"]
