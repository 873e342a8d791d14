"""JEDi and CD-FVD as functions and options: published values, their inputs, and invalid options."""

import json

import pytest
import torch
from fake_detector import DETECTOR, sketch

from latte.cli import main
from latte.commands import eval as command
from latte.diffusion.randomness import normal
from latte.eval import FVDResult, cd_fvd, fvd, jedi
from latte.eval import frechet_video_distance as fvd_module
from latte.eval import jedi_distance as jedi_module
from latte.eval.features import Detector
from latte.eval.jedi_distance import jedi_distance
from latte.eval.kernel import mmd2
from latte.shapes.draw import make_clip
from latte.video.write import write_video
from latte.weights.tensors import CheckpointError

JEDI = Detector({"metric": "jedi", "name": "JEDi", "sha256": "1", "probe_sha256": "2"}, sketch, "cpu", 9)


def test_the_value_is_that_of_the_published_tool():
    """A comment in oooolga/JEDi's mmd_polynomial.py gives this value, to one decimal and without the factor 100."""
    a = torch.arange(1.0, 10).reshape(3, 3)
    b = torch.tensor([[7.0, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
    assert jedi_distance(a, b, JEDI).value / 100 == pytest.approx(270.7, abs=0.05)
    found = jedi_distance(a, b, JEDI)
    assert found.clips == {"real": 3, "generated": 4} and (found.sha256, found.probe_sha256) == ("1", "2")
    assert found.error == 100 * mmd2(b, a, degree=2, offset=0.0, unbiased=False).error


def test_features_can_replace_videos():
    a, b = normal((20, 1280), 1), normal((30, 1280), 2) * 1.1
    assert float(jedi(a, b)) == jedi_distance(a, b, JEDI).value != jedi_distance(a, b[:20], JEDI).value
    with pytest.raises(ValueError, match="features have 9 numbers, those of the JEDi have 1280"):
        jedi(a[:, :9], b[:, :9])
    with pytest.raises(ValueError, match="vjepa does nothing with features"):
        jedi(a, b, vjepa="x")
    with pytest.raises(CheckpointError, match=r"JEDi needs vith16\.pth\.tar"):
        jedi(a, torch.zeros(4, 16, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(CheckpointError, match="CD-FVD needs"):
        cd_fvd(*torch.zeros(2, 4, 16, 3, 8, 8, dtype=torch.uint8))


def test_cd_fvd_is_the_distance_by_videomae(monkeypatch):
    asked = []
    record = {"metric": "cd-fvd", "name": "CD-FVD", "network": "VideoMAE", "sha256": "3"}
    made = Detector(record, sketch, "cpu", 9)
    monkeypatch.setattr(fvd_module, "videomae_detector", lambda path, device: asked.append(path) or made)
    monkeypatch.setattr(fvd_module, "i3d_detector", lambda *_: made)
    videos = [torch.from_numpy(make_clip(3, i, frames=16, size=16).video) for i in range(14)]
    result = cd_fvd(videos[:7], videos[7:], videomae="v.pth", protocol="latte-taichi", frames=2)
    assert asked == ["v.pth"] and result.metric == "cd-fvd" and str(result).startswith("CD-FVD: 7 generated")
    assert result.manifold and result.kernel and result.protocol["eps"] is None
    assert result.value == fvd(videos[:7], videos[7:], protocol="latte-taichi", frames=2).value


def test_the_command_measures_both(tmp_path, capsys, monkeypatch):
    for name, first in (("real", 0), ("fake", 20)):
        for i in range(4):
            video = torch.from_numpy(make_clip(3, first + i, frames=16, size=16).video)
            write_video(video, tmp_path / name / f"{i}.mkv")
    asked = []
    monkeypatch.setattr(command, "vjepa_detector", lambda *paths: asked.append(paths[:2]) or JEDI)
    monkeypatch.setattr(command, "videomae_detector", lambda path, device: asked.append(path) or DETECTOR)
    words = ["eval", str(tmp_path / "fake"), "--real", str(tmp_path / "real"), "--videomae", "v.pth"]
    assert main([*words, "--vjepa", "e", "--vjepa-probe", "p", "--out", str(tmp_path / "r.json")]) == 0
    assert [str(path) for path in asked[0:1]] == ["v.pth"] and [str(path) for path in asked[1]] == ["e", "p"]
    said, written = capsys.readouterr().out, json.loads((tmp_path / "r.json").read_text())
    result = FVDResult.from_dict(written)
    wanted = jedi(tmp_path / "real", tmp_path / "fake", **use(monkeypatch), protocol="exact")
    assert result.jedi == wanted and result.to_dict() == written
    assert f"{wanted.value:10.4g}" in said and "by V-JEPA, sha256 1, probe 2" in said
    for wrong, line in (
        (["--vjepa", "e"], "--vjepa needs --vjepa-probe"),
        (["--vjepa-probe", "p"], "--vjepa-probe needs --vjepa"),
        (["--i3d", "i.pt"], "--i3d and --videomae belong to two different distances"),
    ):
        assert main([*words, *wrong]) == 2
        assert line in capsys.readouterr().err


def use(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Replaces V-JEPA with the sketch in the function, too."""
    monkeypatch.setattr(jedi_module, "vjepa_detector", lambda *_: JEDI)
    return {"vjepa": "e", "probe": "p"}
