"""Mean and deviation over sets from several sampling seeds, and over random parts of one set."""

import json
import re
import statistics

import pytest
import torch
from fake_detector import DETECTOR, sketch
from safetensors.torch import save_file

from latte.cli import main
from latte.commands import eval as command
from latte.diffusion.randomness import normal
from latte.eval import frechet_video_distance as fvd_module
from latte.eval import fvd, fvd_over_seeds
from latte.eval import seed_spread as spread_module
from latte.eval.features import Detector
from latte.shapes.draw import make_clip
from latte.video.write import write_video

SKETCH = Detector({"metric": "fvd", "name": "FVD", "network": "sketch"}, sketch, "cpu", 9)


@pytest.fixture(autouse=True)
def sketched(monkeypatch):
    for module in (fvd_module, spread_module):
        monkeypatch.setattr(module, "i3d_detector", lambda *_: SKETCH)


def clips(first: int, count: int = 6) -> torch.Tensor:
    return torch.stack(
        [torch.from_numpy(make_clip(3, i, frames=16, size=16).video) for i in range(first, first + count)]
    )


def test_sets_of_several_seeds():
    real, sets = clips(0, 9), [clips(20), clips(40) // 2, clips(60)]
    spread = fvd_over_seeds(real, sets, i3d="i3d.pt")
    alone = [fvd(real, each, i3d="i3d.pt") for each in sets]
    assert [result.value for result in spread.results] == [result.value for result in alone]
    assert spread.mean == float(spread) == pytest.approx(statistics.mean(map(float, alone)))
    assert spread.std == pytest.approx(statistics.stdev(map(float, alone))) and spread.std > 0
    assert spread.results[0].floor == alone[0].floor
    said = str(spread)
    assert f"distance{spread.mean:38.2f}   +- {spread.std:.2f}" in said and "FVD: 3 sets of generated clips" in said
    assert f"real-vs-real floor{spread.results[0].floor.value:28.2f}" in said
    assert f"set 2{alone[1].value:41.2f}   6 clips" in said
    written = json.loads(json.dumps(spread.to_dict()))
    assert (written["mean"], written["std"]) == (spread.mean, spread.std) and list(written["sets"])[2] == "set 3"


def test_parts_of_one_set_are_disjoint_and_follow_the_seed():
    real, rows = normal((40, 9), 1), normal((31, 9), 2)
    spread = fvd_over_seeds(real, [rows], parts=3, seed=5)
    assert spread.names == ("set 1, part 1", "set 1, part 2", "set 1, part 3")
    assert [result.generated["clips"] for result in spread.results] == [10, 10, 10]
    parts = spread_module.split_set(spread_module.given_features(rows, "generated"), 3, 5)
    kept = torch.cat([part.features for part in parts])
    assert len(kept) == 30 and len(kept.unique(dim=0)) == 30
    assert all((row == rows).all(1).any() for row in kept)
    for part, result in zip(parts, spread.results):
        assert result.value == pytest.approx(fvd(real, part.features).value)
    assert fvd_over_seeds(real, [rows], parts=3, seed=5) == spread != fvd_over_seeds(real, [rows], parts=3, seed=6)
    assert spread.mean > fvd(real, rows).value  # fewer clips, larger bias
    assert {result.metric for result in spread.results} == {"given"} and spread.results[0].protocol is None


def test_inputs_without_a_deviation_are_rejected():
    real, rows = normal((40, 9), 1), normal((31, 9), 2)
    with pytest.raises(ValueError, match="1 sets in 1 parts: a deviation needs two sets"):
        fvd_over_seeds(real, [rows])
    with pytest.raises(ValueError, match="31 clips cannot be split into 16 parts of two or more"):
        fvd_over_seeds(real, [rows], parts=16)
    with pytest.raises(ValueError, match="real_crop does nothing with features or statistics on both sides"):
        fvd_over_seeds(real, [rows, rows], real_crop=8)
    with pytest.raises(ValueError, match="real_crop needs real videos"):
        fvd_over_seeds(real, [clips(0), clips(9)], real_crop=8)


def test_the_command_measures_sets_and_parts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "shapes_detector", lambda device: DETECTOR)
    for name, first in (("real", 0), ("a", 20), ("b", 40)):
        for i, clip in enumerate(clips(first, 4)):
            write_video(clip, tmp_path / name / f"{i}.mkv")
    names = [str(tmp_path / name) for name in ("a", "b", "real")]
    words = ["eval", names[0], "--real", names[2], "--num-videos", "4", "--out", str(tmp_path / "r.json")]
    assert main([*words, "--sets", names[1]]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert list(found["sets"]) == names[:2]
    values = [each["distance"] for each in found["sets"].values()]
    assert found["mean"] == pytest.approx(sum(values) / 2) and f"+- {found['std']:.2f}" in capsys.readouterr().out
    assert main([*words, "--parts", "2"]) == 0
    found = json.loads((tmp_path / "r.json").read_text())["sets"]
    assert list(found) == [f"{names[0]}, part 1", f"{names[0]}, part 2"]
    assert [each["generated"]["clips"] for each in found.values()] == [2, 2]
    save_file({"features": normal((8, 9), 0)}, tmp_path / "f.safetensors")
    given = ["eval", str(tmp_path / "f.safetensors"), "--real", str(tmp_path / "f.safetensors"), "--parts", "2"]
    assert main(given) == 0
    assert re.search(r"distance of given statistics: 2 sets .*\n  distance  +\d", capsys.readouterr().out)
    for wrong, line in (
        (["--parts", "1"], "a deviation needs two sets"),
        (["--parts", "2", "--c3d", "x"], "--c3d does nothing with --parts"),
        (["--sets", names[1], "--inception", "x"], "--inception does nothing with --sets"),
    ):
        assert main([*words, *wrong]) == 2
        assert line in capsys.readouterr().err
