"""`latte bench eval`: the speed of FVD next to a plain implementation with the same features."""

import json

import pytest
import torch
from shape_videos import put_shapes

from latte.cli import main
from latte.eval.bench import eval_speed
from latte.eval.networks.fast_convolutions import PointwiseConv3d
from latte.eval.networks.i3d import I3D, Logits, Pool
from latte.video.read import count_frames


def test_the_benchmark_measures_ours_and_the_plain_implementation(tmp_path, capsys, monkeypatch):
    """With a small I3D instead of the real one, which takes half a minute."""

    class Small(I3D):
        """Two of I3D's convolutions, and its head."""

        def __init__(self):
            super().__init__()
            for name in list(self._modules)[3:-1]:
                delattr(self, name)
            self.logits = Logits(64, 8)
            self.MaxPool3d_2a_3x3 = Pool((1, 3, 3), (1, 16, 16))

        def stem(self, video: torch.Tensor) -> torch.Tensor:
            seen.add((video.shape[1], any(isinstance(module, PointwiseConv3d) for module in self.modules())))
            return super().stem(video)

    seen = set()
    monkeypatch.setattr(eval_speed, "I3D", Small)
    monkeypatch.setattr(eval_speed, "batch_size", lambda frames: 2)
    put_shapes(tmp_path / "real", 0, 2)
    words = ["bench", "eval", "--videos", str(tmp_path / "real"), "--clips", "2", "--repeats", "1", "--frames", "9"]
    assert main([*words, "--out", str(tmp_path / "speed.json")]) == 0
    written = json.loads((tmp_path / "speed.json").read_text())
    found = written["rows"]
    assert written["frames"] == 9 and seen == {(9, False), (9, True)}  # as defined, and optimised
    assert found["agreement"]["relative_error"] < 1e-4
    for name in ("decoding", "features"):
        assert found[name]["ratio"] == pytest.approx(found[name]["obvious"] / found[name]["seconds"])
    said = capsys.readouterr().out
    assert f"| distances | {1 / found['distance']['seconds']:.2f} |" in said
    row = found["decoding"]
    assert f"| clips decoded | {1 / row['seconds']:.2f} | {1 / row['obvious']:.2f} | {row['ratio']:.2f} |" in said
    assert count_frames(next(eval_speed.write_shape_videos(tmp_path, 1, 9, 32).glob("*.mp4"))) == 18
    assert main(["bench", "eval", "--clips", "0"]) == 2
    assert main(["bench", "eval", "--frames", "8"]) == 2
    assert "--frames 8: I3D takes 9 or more" in capsys.readouterr().err
