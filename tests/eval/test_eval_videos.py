"""`latte eval` with --real and --reference, from options to numbers, with only bundled and random weights."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import together
from safetensors.torch import load_file, save
from shape_videos import put_shapes

from latte.cli import main
from latte.eval.frechet import Moments
from latte.eval.networks.c3d import C3D


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    return {
        "real": put_shapes(root / "real", 0, 48),
        "good": put_shapes(root / "good", 48, 48),
        "bad": put_shapes(root / "bad", 48, 48, "noise"),
    }


def test_comparing_two_folders_reports_a_distance_and_caveats(sets, tmp_path, capsys):
    results = {}
    for name in ("good", "bad"):
        out = tmp_path / f"{name}.json"
        words = ["eval", str(sets[name]), "--real", str(sets["real"]), "--features", str(tmp_path / "features")]
        assert main([*words, "--num-videos", "48", "--out", str(out)]) == 0
        said, progress = capsys.readouterr()
        assert "generated features: 48 of 48 clips" in progress
        assert ("real features: 48 of 48 clips" in progress) == (name == "good")  # then they are cached
        results[name] = json.loads(out.read_text())
        assert f"{results[name]['distance']:.2f}" in said and "not FVD" in said and "clips 48" in said
        assert "the network was trained only on the built-in shapes" in said
    good, bad = results["good"], results["bad"]
    assert good["metric"] == bad["metric"] == "shapes_distance"
    assert bad["distance"] > 3 * good["distance"] and bad["kernel"]["value"] > good["kernel"]["value"]
    assert good["floor"]["low"] < good["distance"] < good["floor"]["high"] < bad["distance"]
    assert good["flicker"]["real"] == bad["flicker"]["real"] > bad["flicker"]["generated"]
    assert main(["eval", "--compare", str(tmp_path / "good.json"), str(tmp_path / "bad.json")]) == 0
    said = capsys.readouterr().out
    assert (
        f"good.json ({good['distance']:.2f}) is lower than" in said
        and "without intervals, it is not known how certain this is" in said
    )
    assert "48 clips are too few to extrapolate from: 96 or more are needed" in good["caveats"]
    for name, change in (("fewer", ["--num-videos", "40"]), ("cut", ["--num-videos", "48", "--real-crop", "6"])):
        words = ["eval", str(sets["good"]), "--real", str(sets["real"]), *change]
        assert main([*words, "--out", str(tmp_path / f"{name}.json")]) == 0
        assert main(["eval", "--compare", str(tmp_path / "good.json"), str(tmp_path / f"{name}.json")]) == 2
        assert "cannot be compared: they differ in protocol, " in capsys.readouterr().err
    assert json.loads((tmp_path / "cut.json").read_text())["distance"] > 2 * good["distance"]


def test_two_processes_find_what_one_does(sets, tmp_path):
    """They share the features folder."""
    words = ["eval", str(sets["good"]), "--real", str(sets["real"]), "--out"]
    assert main([*words, str(tmp_path / "one.json")]) == 0

    def measure():
        torch.set_num_threads(1)
        assert main([*words, str(tmp_path / "two.json"), "--features", str(tmp_path / "f")]) == 0

    together(2, measure, tmp_path / "log")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two


def test_given_statistics_replace_a_folder(sets, tmp_path, capsys):
    from latte.eval.clip_sets import choose_clips
    from latte.eval.features import features_of
    from latte.eval.networks.shape_features import shapes_detector
    from latte.eval.protocol import PROTOCOLS

    clips = choose_clips(sets["real"], PROTOCOLS["exact"], "real", 0)
    moments = Moments.of(features_of([shapes_detector(torch.device("cpu"))], clips.stream(clips.clips), 16)[0])
    np.savez(tmp_path / "real.npz", mean=moments.mean.numpy(), cov=moments.cov.numpy(), n=48)
    found = []
    for real in (sets["real"], tmp_path / "real.npz"):
        assert main(["eval", str(sets["bad"]), "--real", str(real), "--out", str(tmp_path / "r.json")]) == 0
        found.append(json.loads((tmp_path / "r.json").read_text())["distance"])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    said = capsys.readouterr().out
    assert "taken as given" in said and said.rstrip().count("   real 0.") == 1  # flicker of real frames, for the folder
    assert main(["eval", str(sets["bad"]), "--real", str(tmp_path / "real.npz"), "--real-crop", "64"]) == 2
    assert "real_crop needs real videos" in capsys.readouterr().err
    np.savez(tmp_path / "i3d.npz", mean=np.zeros(400), cov=np.eye(400), n=48)
    assert main(["eval", "shapes", "--real", str(tmp_path / "i3d.npz")]) == 2  # before any sampling
    said = capsys.readouterr().err
    assert "features have 400 numbers, those of the shapes distance (not FVD) have 32: if they are I3D's, " in said
    assert "give I3D's weights with --i3d (in Python: i3d of fvd)\n" in said
    words = ["eval", str(tmp_path / "i3d.npz"), "--real", str(tmp_path / "i3d.npz"), "--out", str(tmp_path / "r.json")]
    assert main(words) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["metric"], result["distance"]) == ("given", pytest.approx(0, abs=1e-9)) and result["distance"] >= 0
    assert result["protocol"] is None and result["seed"] is None
    said = capsys.readouterr().out
    assert (
        "unknown network" in said
        and "not known" not in said
        and "protocol exact" not in said
        and "extrapolated" not in said
    )
    for option in (["--protocol", "latte"], ["--seed", "7"], ["--num-videos", "5"], ["--features", "f"]):
        assert main([*words, *option]) == 2
        assert re.search(f"{option[0]} does nothing with statistics .*on both sides: leave", capsys.readouterr().err)


def test_the_seed_applies_to_two_feature_files_and_is_recorded(tmp_path):
    """Their interval and the floor are randomised."""
    torch.manual_seed(0)
    files = [tmp_path / f"{name}.npz" for name in ("real", "generated")]
    for file in files:
        np.savez(file, features=torch.randn(150, 9).numpy())
    found = []
    for seed in ([], ["--seed", "0"], ["--seed", "7"]):
        words = ["eval", str(files[1]), "--real", str(files[0]), *seed, "--out", str(tmp_path / "r.json")]
        assert main(words) == 0
        found.append(json.loads((tmp_path / "r.json").read_text()))
    default, zero, seven = found
    assert default == zero and (zero["seed"], seven["seed"]) == (0, 7)
    assert zero["distance"] == seven["distance"]
    assert zero["infinite"] != seven["infinite"] and zero["floor"] != seven["floor"]


def test_incomparable_inputs_are_rejected_before_any_work(sets, tmp_path, capsys):
    words = ["eval", str(sets["good"]), "--real", str(sets["real"])]
    assert main([*words, "--num-videos", "1"]) == 2
    assert "num_videos is 1: each side needs two clips or more" in capsys.readouterr().err
    put_shapes(tmp_path / "one", 0, 1)
    assert main([words[0], str(tmp_path / "one"), *words[2:]]) == 2
    assert "there is one generated clip, " in capsys.readouterr().err
    assert main([*words, "--num-videos", "3"]) == 0
    said = capsys.readouterr().out
    assert "3 real clips are too few for a real-vs-real floor" in said and "real-vs-real floor   " not in said
    (tmp_path / "cache").write_text("")
    assert main([*words, "--features", str(tmp_path / "cache")]) == 2
    assert "cache is a file: name a folder" in capsys.readouterr().err
    video = next(sets["good"].iterdir())
    assert main(["eval", str(video), "--real", str(sets["real"])]) == 2
    assert f"{video} is one video: name a folder of videos" in capsys.readouterr().err


def test_a_damaged_file_of_features_is_named(sets, tmp_path, capsys):
    words = ["eval", str(sets["good"]), "--real", str(sets["real"]), "--num-videos", "8", "--features", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    damaged = sorted(tmp_path.glob("*.safetensors"))[0]
    whole = load_file(damaged)["features"]
    for fault in (damaged.read_bytes()[:40], save({"features": whole[:3]}), save({"others": whole})):
        damaged.write_bytes(fault)
        assert main(words) == 2
        told = capsys.readouterr().err
        assert str(damaged) in told and "delete the file, and its features are computed again" in told
    damaged.unlink()
    assert main(words) == 0 and capsys.readouterr().out == said


def test_the_command_reports_the_inception_score(sets, tmp_path, capsys, monkeypatch):
    from latte.eval import video_inception_score as module
    from latte.eval.networks import c3d_weights

    load_c3d = c3d_weights.load_c3d

    torch.manual_seed(0)
    network = C3D(2, 8)
    theirs = lambda name: name.replace(".weight", "/W").replace(".bias", "/b")
    arrays = {theirs(name): value.numpy() for name, value in network.state_dict().items()}
    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **arrays)
    np.savez(tmp_path / "mean2.npz", mean=np.zeros((3, 16, 128, 171), np.float32))
    monkeypatch.setattr(c3d_weights, "load_c3d", lambda path, mean, device: load_c3d(path, mean, 2, 8, device))
    monkeypatch.setitem(module.SCORE_PROTOCOLS, "stylegan-v", module.ScoreProtocol(48, 4, True))
    both = ["eval", str(sets["good"]), "--real", str(sets["real"])]
    words = [*both, "--c3d", str(tmp_path), "--c3d-mean", str(tmp_path)]
    assert main([*words, "--out", str(tmp_path / "r.json")]) == 0
    score = json.loads((tmp_path / "r.json").read_text())["inception_score"]
    assert score["mean"] >= 1 and score["groups"] == 4 and len(score["sha256"]) == len(score["mean_sha256"]) == 64
    assert main([*words, "--is-protocol", "tgan2"]) == 2
    assert "needs 20480 clips; there are 48" in capsys.readouterr().err
    assert main([*both, "--c3d-mean", str(tmp_path)]) == 2
    assert "--c3d-mean needs --c3d" in capsys.readouterr().err


def test_pairs_are_compared_by_name(tmp_path, capsys):
    good, bad, other = str(tmp_path / "good"), str(tmp_path / "bad"), str(tmp_path / "other")
    for folder, first, corruption in ((good, 0, ""), (bad, 0, "noise"), (other, 1, "")):
        put_shapes(Path(folder), first, 2, corruption)
    assert main(["eval", bad, "--reference", good, "--out", str(tmp_path / "p.json")]) == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["pairs"] == 2 and 8 < found["psnr"] < 20 and found["ssim"] < 0.5
    assert found["flicker"] < found["reference_flicker"] and f"psnr {found['psnr']:.4f}" in capsys.readouterr().out
    assert main(["eval", good, "--reference", good, "--out", str(tmp_path / "p.json")]) == 0
    same = json.loads((tmp_path / "p.json").read_text())
    assert same["psnr"] == 100 and same["ssim"] == pytest.approx(1)
    for words, line in {
        (good, "--reference", other): f"{good} and {other} are not pairs: only {good} has 0",
        (other, "--reference", good): f"{other} and {good} are not pairs: only {good} has 0",
        (good, "--reference", good, "--real", other): "--real does nothing with --reference",
        (good, "--real", other, "--alexnet", "a.pth"): "--alexnet does nothing with",
        (good, "--reference", good, "--alexnet", "a.pth"): "a.pth: there is no such file; LPIPS needs",
    }.items():
        assert main(["eval", *words]) == 2
        assert line in capsys.readouterr().err


def test_videos_in_a_lossy_codec_are_compared_with_a_caveat(sets, tmp_path, capsys):
    """Unless the requested protocol forbids it; and lossy results cannot be compared with lossless ones."""
    lossy = put_shapes(tmp_path / "lossy", 48, 8, suffix=".mp4")
    words = ["eval", str(lossy), "--real", str(sets["real"]), "--num-videos", "8"]
    assert main([*words, "--out", str(tmp_path / "mp4.json")]) == 0
    assert "stored in h264, a lossy codec" in capsys.readouterr().out
    assert main([*words, "--protocol", "exact"]) == 2
    assert "or leave out the protocol" in capsys.readouterr().err
    words[1] = str(sets["good"])
    for more in ([], ["--protocol", "exact"]):
        assert main([*words, *more, "--out", str(tmp_path / f"mkv{len(more)}.json")]) == 0
    compare = lambda name: main(["eval", "--compare", str(tmp_path / name), str(tmp_path / "mkv2.json")])
    assert compare("mkv0.json") == 0 and compare("mp4.json") == 2
    assert "they differ in lossy codecs" in capsys.readouterr().err


def test_a_temporal_distortion_lowers_the_flicker_score():
    """Sky videos, clean and with a temporal distortion, which counts as flicker."""
    root = os.environ.get("LATTE_TEST_DATA")
    if not root:
        pytest.skip("LATTE_TEST_DATA names no folder of real data")
    from latte.eval.fidelity import flicker
    from latte.video.read import read_video

    clean, blurred = (read_video(Path(root) / "sky" / f"sky_{name}.mp4")[0] for name in ("clean", "Motion_Blur_3"))
    assert clean.shape == blurred.shape
    assert flicker(clean[None]) > flicker(blurred[None]) + 0.01
