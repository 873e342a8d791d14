"""Results of `latte eval --real`: the number, its uncertainty, comparability, and given statistics."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_detector import DETECTOR

from latte.cli import main
from latte.eval.frechet import Moments, distance
from latte.eval.fvd_result import FVDResult, check_comparable, compare_results
from latte.eval.protocol import PROTOCOLS, Protocol, adjusted
from latte.eval.statistics import FeatureSet, read_statistics
from latte.eval.video_comparison import measure_distance
from latte.weights.tensors import CheckpointError


def side(seed: int, count: int = 200, scale: float = 1.0) -> FeatureSet:
    noise = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return FeatureSet({"clips": count, "codecs": {"ffv1": count}, "fingerprint": "same"}, noise * scale)


def measure(real: FeatureSet, generated: FeatureSet, protocol: Protocol) -> dict:
    """The result after a JSON round trip."""
    return json.loads(json.dumps(measure_distance(real, generated, protocol, DETECTOR).to_dict()))


def check(*results: dict) -> None:
    check_comparable(*map(FVDResult.from_dict, results))


def compared(names: tuple[str, str], results: tuple[dict, dict]) -> str:
    return compare_results(names, [FVDResult.from_dict(result) for result in results])


def test_a_result_holds_the_number_its_uncertainty_and_its_origin():
    protocol = adjusted("exact", clips=200)
    result = measure(side(0), side(1, scale=1.5), protocol)
    assert result["distance"] == distance(Moments.of(side(0).features), Moments.of(side(1, scale=1.5).features))
    assert result["infinite"]["low"] < 6 * 0.5**2 < result["infinite"]["high"]
    assert 0 < result["floor"]["value"] < 0.3 < result["distance"]
    own = {"resize": DETECTOR.record.get("resize"), "eps": DETECTOR.record.get("eps")}  # not I3D's
    assert result["protocol"] == protocol.record | own and result["detector"]["metric"] == "sketch"
    assert own["eps"] is None and result["device"] == DETECTOR.device
    assert result["caveats"] == ["the real-vs-real floor is measured on 100 against 100 clips and scaled to all"]
    tf = measure(side(0), side(1, scale=1.5), adjusted("tf", clips=200))
    assert tf["distance"] != result["distance"] and tf["distance"] == pytest.approx(result["distance"], rel=0.05)


def test_caveats_name_what_is_wrong():
    few = measure(side(0), side(1, 5), PROTOCOLS["exact"])
    assert "infinite" not in few
    assert [caveat.split(" clips")[0] for caveat in few["caveats"]] == [
        "200 real",
        "5 generated",
        "5",
        "200 real against 5 generated",
    ]
    assert few["caveats"][2] == "5 clips are too few to extrapolate from: 40 or more are needed"
    asked = measure(side(0), side(1, 5), adjusted("exact", clips=300))["caveats"]
    assert "200 real clips, where protocol exact, clips 300 uses up to 300" in asked[0]
    assert "5 generated clips, where protocol exact, clips 300 uses up to 300" in asked[2]
    lossy = side(1)
    lossy.about["codecs"] = {"h264": 200}
    for real in (side(0), FeatureSet({**side(0).about, "codecs": {"h264": 1}}, side(0).features)):
        found = measure(real, lossy, adjusted("latte", clips=200))["caveats"]
        assert len(found) == 2 and "stored in h264" in found[1]
    unequal = side(1)
    unequal.about["sizes"] = {"64x64": 200}
    real = side(0)
    real.about["sizes"] = {"320x240": 200}
    sized = measure(real, unequal, adjusted("latte", clips=200))["caveats"]
    differ, advice = "frames differ in size: real 320x240, generated 64x64", "--real-crop 64 (in Python: real_crop=64)"
    why = "squashing distorts the real ones alone"
    assert sized[1] == f"{differ}, and {why}: {advice} crops the real ones to a square instead"
    for of_real, of_generated in (("128x128", "64x64"), ("320x240", "64x48")):
        real.about["sizes"], unequal.about["sizes"] = {of_real: 200}, {of_generated: 200}
        sized = measure(real, unequal, adjusted("latte", clips=200))["caveats"]
        assert sized[1] == f"frames differ in size: real {of_real}, generated {of_generated}"
    uncounted = FeatureSet({"clips": 0}, replace(Moments.of(side(0).features), count=0))
    said = measure(uncounted, side(1), adjusted("latte", clips=200))["caveats"]
    assert not any("against" in caveat for caveat in said) and "cannot be computed from statistics" in said[1]
    given = FeatureSet({"clips": 200}, Moments.of(side(0).features))
    result = measure(given, side(1), adjusted("latte", clips=200))
    assert "floor" not in result and "infinite" in result and "taken as given" in result["caveats"][0]


def test_results_of_different_protocols_cannot_be_compared():
    protocol = adjusted("exact", clips=200)
    good, bad = (measure(side(0), side(1, scale=scale), protocol) for scale in (1.1, 3.0))
    assert compared(("a", "b"), (bad, good)).startswith(f"b ({good['infinite']['value']:.2f}) is lower than a (")
    assert "do not overlap" in compared(("a", "b"), (bad, good))
    near = measure(side(0), side(1, scale=1.12), protocol)
    assert "overlap, so neither is shown to be better" in compared(("a", "b"), (good, near))
    assert compared(("a", "a"), (good, good)) == f"a and a are equal ({good['infinite']['value']:.2f})"
    for name, change in {
        "protocol, real_stride, 1 and 3": {"protocol": {**protocol.record, "real_stride": 3}},
        "detector, eps, 0.001 and 1e-05": {"detector": {**good["detector"], "eps": 1e-5}, "metric": "sketch"},
        "metric": {"metric": "fvd"},
        "real clips, same and other": {"real": {**good["real"], "fingerprint": "other"}},
        "seed": {"seed": 1},
        "lossy codecs": {"generated": {**good["generated"], "codecs": {"h264": 200}}},
        "sizes of generated frames": {"generated": {**good["generated"], "sizes": {"8x8": 200}}},
    }.items():
        with pytest.raises(ValueError, match=f"differ in {name}"):
            check(
                {**good, **({"detector": {**good["detector"], "eps": 1e-3}} if "eps" in name else {})},
                {**good, **change},
            )
    with pytest.raises(ValueError, match="differ in clips, 200 and 100"):
        check(good, {**good, "generated": {"clips": 100}})
    with pytest.raises(ValueError, match="metric is missing"):
        check(good, {"scores": {}})
    damages = [("distance", None), ("protocol", "exact"), ("protocol", {}), ("real", []), ("infinite", 3)]
    damages += [("detector", {}), ("fid", {}), ("fid", {"value": 1.0, "frames": {}}), ("flicker", {})]
    damages += [("inception_score", {}), ("kernel", {"value": 1.0})]
    for name, damaged in damages:
        with pytest.raises(ValueError, match=f"not a result of `latte eval --real`: {name} is missing or damaged"):
            check(good, {**good, name: damaged})
    renamed = {**good, "protocol": {**good["protocol"], "name": "exact, any codec", "lossless": False}}
    check(good, renamed)


def test_comparison_uses_the_distance_at_infinite_n():
    """The bias of the plain distance depends on the model: on these clips it would rank the other one first."""
    protocol = adjusted("exact", clips=200)
    one, other = (measure(side(0), side(1), protocol) for _ in range(2))
    one |= {"distance": 19.2, "infinite": {"value": 13.7, "low": 12.2, "high": 15.3}}
    other |= {"distance": 19.0, "infinite": {"value": 16.4, "low": 15.5, "high": 17.3}}
    said = compared(("other", "one"), (other, one))
    assert said.startswith(
        "one (13.70) is lower than other (16.40), extrapolated to infinite N, although on these clips"
    )
    assert "it is 19.20 against 19.00; their 95 % intervals do not overlap" in said
    del other["infinite"]
    assert compared(("other", "one"), (other, one)).startswith("other (19.00) is lower than one (19.20); without")


@pytest.mark.parametrize(("count", "width"), [(60, 32), (110, 32)])
def test_too_few_clips_are_not_extrapolated_from(count, width):
    """With 64 clips of 32 features, four intervals in ten covered the truth; with 100, nine or ten did."""
    draw = lambda seed: torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    sides = [FeatureSet({"clips": count, "fingerprint": "same"}, draw(seed)) for seed in range(2)]
    result = measure(*sides, adjusted("exact", clips=count))
    caveat = f"{count} clips are too few to extrapolate from: {3 * width} or more are needed"
    assert ("infinite" in result) == (count >= 3 * width) == (caveat not in result["caveats"])


def test_given_statistics_are_read(tmp_path):
    features = side(3).features.double().numpy()
    wanted = Moments.of(torch.from_numpy(features))
    np.savez(tmp_path / "a.npz", mean=wanted.mean.numpy(), cov=wanted.cov.numpy(), n=np.array(200))
    np.savez(tmp_path / "b.npz", mu=wanted.mean.numpy(), sigma=wanted.cov.numpy())
    stylegan = {"capture_all": False, "num_items": 200, "all_features": None, "max_items": None, "num_features": 6}
    sums = {"raw_mean": features.sum(0), "raw_cov": features.T @ features}
    for protocol in (2, 4):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps({**stylegan, **sums}, protocol))
    for name, count in {"a.npz": 200, "b.npz": 0, "2.pkl": 200, "4.pkl": 200}.items():
        found, about = read_statistics(tmp_path / name)
        assert found.count == about["clips"] == count and len(about["sha256"]) == 64
        assert torch.allclose(found.mean, wanted.mean) and torch.allclose(found.cov, wanted.cov, atol=1e-9)
    np.savez(tmp_path / "c.npz", video=features)
    (tmp_path / "d.npz").write_bytes(b"PK no")
    (tmp_path / "e.pkl").write_bytes(pickle.dumps([1]))
    np.savez(tmp_path / "f.npz", mean=np.array([{}]), cov=wanted.cov.numpy())
    for name, words in {
        "c.npz": "neither mean nor mu, only video",
        "d.npz": "is damaged",
        "e.pkl": "not a dictionary",
        "f.npz": "not an .npz of plain arrays",
        "g.npz": "no such file",
    }.items():
        with pytest.raises(CheckpointError, match=rf"{name[0]}\.{name[2:]}.*{words}"):
            read_statistics(tmp_path / name)


@pytest.mark.parametrize(
    "words, line",
    [
        (["--protocol", "latte"], "--protocol does nothing without --real or --reference"),
        (["tests", "--real", "none"], "no folder of videos at none"),
        (["tests", "--real", "none", "--bn-eps", "1e-5"], "--bn-eps needs --i3d"),
        (["tests", "--real", "none", "--i3d", "none.pt"], "none.pt: there is no such file"),
        (["tests", "--real", "none.npz"], "none.npz: there is no such file"),
        (["nowhere", "--real", "none"], "no model at nowhere"),
        (["tests", "--real", "none", "--sets", "docs", "nowhere"], "--sets nowhere: there is no such folder or file"),
        (["tests", "--real", "none", "--features", "setup.cfg/x"], "--features setup.cfg/x is not a folder that can"),
        (["shapes", "--real", "none", "--samples", "setup.cfg/x"], "--samples setup.cfg/x is not a folder that can"),
        (["--compare", "setup.cfg", "setup.cfg"], "setup.cfg is not valid JSON"),
        (["--compare", "none.json", "setup.cfg"], "--compare none.json: there is no such file"),
        (["--compare", "a", "b", "--out", "c.json"], "--out does nothing with --compare"),
        (["tests", "--real", "none", "--cfg-scale", "2"], "--cfg-scale does nothing with tests, a folder of videos"),
        (["tests", "--real", "none", "--samples", "x"], "--samples does nothing with tests, a folder of videos"),
        (["tests", "--reference", "none", "--num-videos", "2"], "--num-videos does nothing with --reference"),
    ],
)
def test_invalid_options_give_a_one_line_error(words, line, capsys):
    assert main(["eval", *words]) == 2
    assert line in capsys.readouterr().err
