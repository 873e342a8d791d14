"""`latte info`: parameter and MAC counts, and a description of whatever a path holds."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import run, small, small_t2v
from torch.utils.flop_counter import FlopCounterMode

from latte.cli import main
from latte.commands.info import count_cost
from latte.models.latte import Latte, LatteConfig
from latte.video.write import write_video

SMALL = LatteConfig(depth=2, hidden_size=16, num_heads=2, patch_size=2, input_size=8, num_frames=3)


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
@pytest.mark.parametrize("changes", [{}, {"num_classes": 5}, {"patch_size": 4, "depth": 4, "mlp_ratio": 2.5}])
def test_counted_cost_matches_the_network(variant, changes):
    config = replace(SMALL, variant=variant, **changes)
    model = Latte(config).eval().to("meta")  # on a CPU device the counter misses attention
    side, of_clip = config.input_size, torch.zeros(1, dtype=torch.long, device="meta")
    x = torch.zeros(1, config.num_frames, config.in_channels, side, side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, of_clip, of_clip if config.num_classes else None)
    counts = counter.get_flop_counts()["Global"]
    attention = sum(flops for op, flops in counts.items() if "attention" in str(op) or "bmm" in str(op))
    total, parameters = sum(counts.values()), sum(p.numel() for p in model.parameters())
    assert count_cost(config) == (parameters, total // 2, (total - attention) // 2) and attention > 0


@pytest.fixture
def info(capsys):
    def ask(path, *words):
        capsys.readouterr()
        status = main(["info", str(path), *words])
        said = capsys.readouterr()
        return said.out if status == 0 else said.err

    return ask


def test_info_describes_runs_models_and_their_files(vae, tmp_path, info):
    run(small(vae, "steps=2", "save_every=1"), tmp_path / "run")
    run(small_t2v(vae, "steps=1"), tmp_path / "text")
    said = info(tmp_path / "run")
    assert "a training run" in said and "trains      a Latte on shapes" in said
    assert f"2 of 2 saved; the result is {tmp_path}/run/final\n" in said and "last logged step 2, loss " in said
    said = info(tmp_path)
    assert (
        "a folder of runs" in said and "run         a Latte on shapes, 2 of 2 steps saved" in said and "text  " in said
    )
    kind, *rest = info(tmp_path / "run/checkpoints").splitlines()
    assert kind.endswith(": the checkpoints of a run")
    assert rest == ["  steps       1, 2", f"  the run     {tmp_path}/run"]
    shutil.rmtree(tmp_path / "run/checkpoints/step-0000002")
    assert f"1 of 2 saved; the result is {tmp_path}/run/final; resume: `latte train --run {tmp_path}/run`" in info(
        tmp_path / "run"
    )
    for path in ("run/final", "run/checkpoints/step-0000001"):
        assert "a Latte of 15.6 k parameters" in info(tmp_path / path) and "num_classes=8" in info(tmp_path / path)
    assert "a checkpoint of a run" in info(tmp_path / "text/checkpoints/step-0000001")
    said = info(tmp_path / "text/final")
    assert "a text-to-video model" in said and "transformer" in said and "tokenizer   no weights" in said
    assert "a VAE of" in info(vae) and "lines       2" in info(tmp_path / "run/metrics.jsonl")
    assert "8 " not in info(vae / "model.safetensors").splitlines()[0] and "weights" in info(vae / "model.safetensors")
    assert "a Latte of 4.96 M parameters" in info("shapes-four")  # not counting the scales of its 8-bit matrices
    assert "a Latte of 4.98 M parameters" in info("shapes") and "transformer 4.59 M parameters" in info("shapes-t2v")


def test_info_describes_data_features_and_results(vae, videos, tmp_path, info):
    assert main(["prepare", "folder", str(videos), "--out", str(tmp_path / "list"), "--num-frames", "4"]) == 0
    words = [f"data={videos}", f"vae={vae}", "num_frames=4", "image_size=16"]
    assert main(["encode", "--out", str(tmp_path / "latents"), "--device", "cpu", *words]) == 0
    said = info(tmp_path / "list")
    assert "a data list" in said and f"3 in {videos}, 36 frames" in said and "a 2, b 1" in said and "24 x 24: 3" in said
    assert "checked for frame_interval=3\n" in said and info(tmp_path / "list/index.json") == said
    assert "latents for training" in info(tmp_path / "latents") and "3, 36 frames" in info(tmp_path / "latents")
    said = info(videos)
    assert "a folder of videos" in said and "a 2, b 1" in said and "24 x 24 pixels, ffv1" in said
    assert "12 of 24 x 24 pixels, ffv1" in info(videos / "a/x.mkv") and "broken" not in said
    (tmp_path / "grids").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "grids/step-1.png")
    shutil.copy(videos / "a/x.mkv", tmp_path / "grids/step-1.mkv")
    said = info(tmp_path / "grids")
    assert "  videos      1\n  pictures    1\n  the first   12 frames of 24 x 24 pixels, ffv1\n" in said
    shutil.copytree(videos, tmp_path / "some")
    (tmp_path / "some/a/x.mkv").write_text("no video")
    said = info(tmp_path / "some")
    assert "  videos      3\n" in said and "  broken      a/x.mkv (only the first 2 were looked at)\n" in said
    assert "  a/y.mkv     12 frames of 24 x 24 pixels, ffv1\n" in said
    (tmp_path / "some/a/y.mkv").write_text("no video")
    assert "  broken      a/x.mkv, a/y.mkv\n" in info(tmp_path / "some")
    np.savez(tmp_path / "real.npz", mean=np.zeros(8), cov=np.eye(8), n=100)
    said = info(tmp_path / "real.npz")
    assert "features or statistics" in said and "clips       100" in said and "8 numbers each" in said
    for name in ("a", "b"):
        (tmp_path / "stats").mkdir(exist_ok=True)
        np.savez(tmp_path / f"stats/{name}.npz", mean=np.zeros(8), cov=np.eye(8), n=100)
    kind, *rest = info(tmp_path / "stats").splitlines()
    assert kind.endswith(": a folder of statistics") and rest == [
        "  files       2",
        "  the first   a.npz: 100 clips, 8 numbers each",
    ]
    result = {"value": 12.5, "real": {"clips": 3, "sha256": "0" * 64}, "many": [1] * 9}
    (tmp_path / "fvd.json").write_text(json.dumps(result))
    said = info(tmp_path / "fvd.json")
    assert "value       12.5" in said and "real.clips  3" in said and "a list of 9" in said and "000000" not in said
    sides = {"real": {"clips": 20, "path": "x"}, "generated": {"clips": 10}}
    detector = {"name": "FVD", "network": "I3D"}
    result = {**sides, "metric": "fvd", "protocol": None, "detector": detector, "seed": 0, "distance": 321.5}
    (tmp_path / "fvd.json").write_text(json.dumps(result))
    first, *rest = info(tmp_path / "fvd.json").splitlines()[1:]
    assert first == "  result      FVD: 10 generated clips, 20 real clips"
    assert rest[0].split() == ["distance", "321.50"] and rest[1:] == ["  seed 0, I3D"]


def test_info_describes_latents_that_a_run_keeps(vae, tmp_path, info):
    config = small(vae, "steps=1", "latents=once", "clips=70")
    run(config, tmp_path / "run")
    said = info(tmp_path / "run/latents")
    assert "latents that a run keeps" in said and "  clips       70, 0." in said
    assert f"  shape       {config.num_frames} x 4 x " in said


def test_info_describes_folders_of_data_and_of_results(vae, videos, tmp_path, info):
    assert main(["prepare", "folder", str(videos), "--out", str(tmp_path / "sets/list"), "--num-frames", "4"]) == 0
    words = [f"data={videos}", f"vae={vae}", "num_frames=4", "image_size=16"]
    assert main(["encode", "--out", str(tmp_path / "sets/encoded"), "--device", "cpu", *words]) == 0
    kind, *rest = info(tmp_path / "sets").splitlines()
    assert kind.endswith(": a folder of data")
    assert rest == ["  encoded     latents of 3 videos", "  list        a data list of 3 videos"]
    sides = {"real": {"clips": 20, "fingerprint": "x"}, "generated": {"clips": 10}}
    result = {**sides, "metric": "fvd", "protocol": None, "detector": {"name": "FVD", "network": "I3D"}, "seed": 0}
    (tmp_path / "results").mkdir()
    for name, value in (("notes", [1]), ("a", {**result, "distance": 321.5}), ("b", {**result, "distance": 123.25})):
        (tmp_path / f"results/{name}.json").write_text(json.dumps(value))
    said = info(tmp_path / "results")
    assert "a folder of results" in said and "2 results of FVD; the lowest is 123.25 (b)" in said
    (tmp_path / "results/a.json").unlink()
    (tmp_path / "results/b.json").unlink()
    assert "is not a run" in info(tmp_path / "results")


def test_info_counts_the_sizes_of_a_data_list(tmp_path, info):
    for i, width in enumerate((24, 24, 26, 28, 30, 32)):
        write_video(np.full((12, 3, 20, width), 9 * i, np.uint8), tmp_path / f"data/{i}.mkv")
    words = ["--out", str(tmp_path / "list"), "--num-frames", "4"]
    assert main(["prepare", "folder", str(tmp_path / "data"), *words]) == 0
    assert "  pixels      24 x 20: 2, 26 x 20: 1, 28 x 20: 1, and 2 other sizes\n" in info(tmp_path / "list")
    assert "width x height\n        2  24 x 20\n" in (tmp_path / "list/report.txt").read_text()


def test_unrecognised_paths_give_a_one_line_error(tmp_path, info):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "cut.safetensors").write_bytes(b"0123")
    for name, say in (
        ("nowhere", "there is nothing at "),
        ("empty", "is not a run, a model, a data list"),
        ("notes.txt", "is not a run, a model, a data list"),
        ("broken.json", "broken.json"),
        ("cut.safetensors", "cut.safetensors"),
    ):
        said = info(tmp_path / name)
        assert said.startswith("latte info: error: ") and say in said and said.count("\n") == 1, said
    assert "--patch-size is for the table of sizes" in info(tmp_path, "--patch-size", "2")
