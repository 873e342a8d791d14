"""`latte eval` of a model with --real: comparing samples in memory or from files gives the same result."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shape_videos import put_shapes

from latte.cli import main
from latte.models.latte import Latte, LatteConfig
from latte.weights.load import save_model


@pytest.fixture(scope="module")
def real_videos(tmp_path_factory) -> Path:
    return put_shapes(tmp_path_factory.mktemp("real"), 0, 12)


@pytest.fixture
def folder_of_shapes(tmp_path, vae) -> Path:
    """An untrained model of three classes that makes videos of 16 frames."""
    torch.manual_seed(0)
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=16, num_classes=3)
    save_model(Latte(config), tmp_path / "model")
    shutil.copytree(vae, tmp_path / "model/vae")
    return tmp_path / "model"


def test_a_model_is_sampled_and_compared_in_one_go(real_videos, folder_of_shapes, tmp_path, capsys):
    """In memory and from files: the same clips, so the same numbers; cached features are reused."""
    found = []
    words = ["eval", str(folder_of_shapes), "--real", str(real_videos), "--num-videos", "4", "--batch-size", "4"]
    words += ["--num-sampling-steps", "2", "--out", str(tmp_path / "r.json")]
    for more in (["--features", str(tmp_path / "f")], ["--samples", str(tmp_path / "s")], ["--seed", "1"]):
        assert main([*words, *more]) == 0
        found.append(json.loads((tmp_path / "r.json").read_text()))
    assert found[0]["distance"] == pytest.approx(found[1]["distance"], rel=1e-4)
    assert found[0]["generated"]["clips"] == 4 and "sha256" in found[0]["generated"]["made_by"]
    assert found[0]["distance"] != found[2]["distance"]
    more = [*words[:5], "7", *words[6:], "--samples", str(tmp_path / "s")]
    assert main(more) == 0 and main([*words, "--samples", str(tmp_path / "s")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["distance"] == found[1]["distance"]  # of a set that has grown
    assert len(list((tmp_path / "s").glob("*.mkv"))) == 7
    assert main([*words, "--prompts", "setup.cfg"]) == 2
    assert "is not a text-to-video model; leave out --prompts" in capsys.readouterr().err
    np.savez(tmp_path / "real.npz", mean=np.zeros(32), cov=np.eye(32), n=9)
    words[3] = str(tmp_path / "real.npz")
    assert main([*words, "--protocol", "stylegan-v-128f"]) == 2
    assert "makes videos of 16 frames; protocol stylegan-v-128f, clips 4 needs more" in capsys.readouterr().err
    assert main(["eval", str(real_videos), "--real", str(real_videos), "--samples", str(tmp_path / "s")]) == 2
    assert "--samples does nothing with" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{}, {"generated_stride": 2}])
def test_clips_of_a_longer_model_are_the_same_with_and_without_files(change, real_videos, tmp_path, vae, monkeypatch):
    """With a seeded start, and with a stride."""
    from latte.eval import protocol as module
    from latte.eval.protocol import PROTOCOLS

    torch.manual_seed(0)
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=40)
    save_model(Latte(config), tmp_path / "model")
    shutil.copytree(vae, tmp_path / "model/vae")
    adjusted = module.adjusted
    monkeypatch.setattr(module, "adjusted", lambda name, **words: replace(adjusted(name, **words), **change))
    words = ["eval", str(tmp_path / "model"), "--real", str(real_videos), "--num-videos", "6", "--batch-size", "2"]
    words += ["--num-sampling-steps", "1", "--out", str(tmp_path / "r.json")]
    found = []
    for more in ([], ["--samples", str(tmp_path / "s")]):
        assert main([*words, *more]) == 0
        found.append(json.loads((tmp_path / "r.json").read_text())["distance"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    monkeypatch.setitem(PROTOCOLS, "exact", replace(PROTOCOLS["exact"], generated_start="zero"))
    assert main(words) == 0
    assert json.loads((tmp_path / "r.json").read_text())["distance"] != pytest.approx(found[0], rel=1e-4)
