"""Sides given as features or statistics: every metric rejects options that would have no effect."""

from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from fake_detector import sketch
from safetensors.torch import save_file

from latte.cli import main
from latte.eval import fid, fvd, inputs, kvd, shapes_distance
from latte.eval import frechet_inception_distance as fid_module
from latte.eval import frechet_video_distance as fvd_module
from latte.eval import video_comparison as comparison
from latte.eval.features import Detector
from latte.eval.frechet import Moments
from latte.eval.statistics import FeatureSet
from latte.shapes.draw import make_clip

METRICS = [fvd, kvd, shapes_distance, fid]
PAIR = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
VIDEOS = torch.from_numpy(np.stack([make_clip(9, i, frames=16, size=20).video for i in range(5)]))


def never(*_: object) -> Detector:
    raise AssertionError("a detector was made or used for nothing")


@pytest.fixture
def without_networks(monkeypatch):
    """Makes building a network an error in every metric."""
    for module, name in ((fvd_module, "i3d"), (fvd_module, "shapes"), (fid_module, "inception")):
        monkeypatch.setattr(module, f"{name}_detector", never)


@pytest.fixture
def sketched(monkeypatch):
    """A detector with nine features in place of I3D."""
    record = {"metric": "fvd", "name": "FVD", "network": "sketch"}
    monkeypatch.setattr(fvd_module, "i3d_detector", lambda *_: Detector(record, sketch, "cpu", 9))


OPTIONS_OF_VIDEOS = {
    "protocol": "latte",
    "num_videos": 10,
    "real_crop": 8,
    "bn_eps": 1e-5,
    "features": "cache",
    "i3d": "i3d.pt",
    "inception": "inception.pth",
}


@pytest.mark.parametrize(
    ("metric", "option"),
    [(metric, option) for metric in METRICS for option in OPTIONS_OF_VIDEOS if option in signature(metric).parameters],
)
def test_options_of_videos_are_refused_for_features_on_both_sides(metric, option, without_networks):
    with pytest.raises(ValueError, match=f"{option} does nothing with features or statistics on both sides"):
        metric(*PAIR, **{option: OPTIONS_OF_VIDEOS[option]})


@pytest.mark.parametrize("metric", METRICS)
def test_the_device_is_validated_even_if_unused(metric, without_networks):
    with pytest.raises(ValueError, match="device 'abacus'"):
        metric(*PAIR, device="abacus")
    assert float(metric(*PAIR, device="cpu")) == float(metric(*PAIR))


@pytest.mark.parametrize("metric", METRICS)
def test_given_real_features_cannot_be_cropped(metric, without_networks):
    with pytest.raises(ValueError, match="real_crop needs real videos"):
        metric(PAIR[0], VIDEOS, real_crop=8)


def test_the_kernel_distance_needs_features_not_statistics(without_networks):
    for pair in ((FeatureSet({}, Moments.of(PAIR[0])), VIDEOS), (VIDEOS, FeatureSet({}, Moments.of(PAIR[0])))):
        with pytest.raises(ValueError, match="side is statistics: a kernel distance needs videos or features"):
            kvd(*pair, i3d="i3d.pt")


def test_a_distance_of_given_features_names_no_network(without_networks):
    by_shapes = shapes_distance(*PAIR)
    assert by_shapes == fvd(*PAIR) and (by_shapes.metric, by_shapes.protocol) == ("given", None)
    with pytest.raises(ValueError, match="the real features have 9 numbers"):
        shapes_distance(*PAIR[..., :9])


def test_files_of_features_are_read_once(tmp_path, monkeypatch):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file, features in zip(files, PAIR):
        save_file({"features": features.clone()}, file)
    read, seen = inputs.read_feature_set, []
    monkeypatch.setattr(inputs, "read_feature_set", lambda path: seen.append(path) or read(path))
    for metric in METRICS:
        metric(*files)
    assert seen == files * len(METRICS)


def test_a_cache_of_features_and_flicker_is_described_and_read(sketched, tmp_path, capsys):
    given, cache = tmp_path / "real.safetensors", tmp_path / "cache"
    save_file({"features": 2 * sketch(list(VIDEOS))}, given)
    wanted = fvd(given, VIDEOS, i3d="i3d.pt", features=cache)
    assert main(["info", str(cache)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  features    5 clips in 1 file, 1 number each, for flicker",
        "  features    5 clips in 1 file, 9 numbers each, for fvd",
    ]
    with pytest.warns(UserWarning, match="features of 1 number, such as flicker, are left out"):
        assert float(fvd(given, cache)) == float(wanted)
    fvd(VIDEOS, 255 - VIDEOS, i3d="i3d.pt", features=tmp_path / "both")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="both holds features of 2 sets of clips, such as"):
        fvd(given, tmp_path / "both")
    save_file({"features": PAIR[0].clone()}, cache / "other.safetensors")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="of 9 and of 32 numbers: name a folder with"):
        fvd(given, cache)
    assert main(["info", str(cache)]) == 0 and "32 numbers each" in capsys.readouterr().out


def test_flicker_is_measured_only_where_it_is_reported(sketched, monkeypatch):
    features = sketch(list(VIDEOS))
    assert fvd(features, VIDEOS, i3d="i3d.pt").flicker.keys() == {"generated"}
    monkeypatch.setattr(comparison, "FLICKER", Detector({"metric": "flicker"}, never))
    assert fvd(VIDEOS, features, i3d="i3d.pt").flicker is None
    with pytest.raises(AssertionError):
        fvd(features, VIDEOS, i3d="i3d.pt")


def test_results_with_unknown_clip_counts_can_be_printed():
    uncounted = FeatureSet({"clips": 0}, replace(Moments.of(PAIR[0]), count=0))
    for real in (uncounted, FeatureSet({}, PAIR[0])):
        assert "5 generated clips, an unknown number of real clips" in str(fvd(real, PAIR[1]))
