"""Tensor files: whether they hold videos is decided from their headers, without reading values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latte.cli import main
from latte.eval import tensor_files
from latte.eval.statistics import is_features
from latte.eval.tensor_files import find_video_tensor, holds_video_tensors
from latte.shapes.draw import make_clip
from latte.weights.torch_files import read_torch_file

VIDEOS = torch.from_numpy(np.stack([make_clip(5, i, frames=16, size=20).video for i in range(4)]))  # (n, f, 3, h, w)

FORMS = {
    "plain.pt": lambda path: torch.save(VIDEOS, path),
    "TABLE.PT": lambda path: torch.save({"videos": VIDEOS, "fps": 8}, path),
    "old.pth": lambda path: torch.save(VIDEOS, path, _use_new_zipfile_serialization=False),
    "view.pt": lambda path: torch.save(VIDEOS.repeat_interleave(2, 0)[::2], path),
    "UPPER.SAFETENSORS": lambda path: save_file({"videos": VIDEOS}, path),
}


@pytest.mark.parametrize("name", FORMS)
def test_videos_are_recognised_from_tensor_metadata(name, tmp_path, monkeypatch):
    path = tmp_path / name
    FORMS[name](path)
    if path.suffix != ".SAFETENSORS":
        content = read_torch_file(path, values=False)
        (tensor,) = (content,) if isinstance(content, torch.Tensor) else (content["videos"],)
        assert tensor.is_meta and tensor.shape == VIDEOS.shape
    assert torch.equal(find_video_tensor(path), VIDEOS)
    monkeypatch.setattr(tensor_files, "find_video_tensor", None)
    assert holds_video_tensors(path) and not is_features(path)


def test_other_tensors_are_not_videos(tmp_path):
    torch.save({"features": torch.zeros(3, 400)}, tmp_path / "features.pt")
    torch.save({str(i): torch.zeros(3, 3, 3, 3) for i in range(9)}, tmp_path / "network.pt")
    torch.save([VIDEOS], tmp_path / "list.pt")
    save_file({"features": torch.zeros(3, 4, 3, 8, 8)}, tmp_path / "features.safetensors")
    (tmp_path / "empty.pt").touch()
    cut = tmp_path / "cut.pt"
    torch.save(VIDEOS, cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    assert not any(holds_video_tensors(path) for path in tmp_path.iterdir())


def test_each_file_is_inspected_once_and_read_once(tmp_path, monkeypatch):
    sides, calls = [str(tmp_path / name) for name in ("real.pt", "made.pt")], []
    for side in sides:
        torch.save(VIDEOS, side)
    for name in ("stored_shapes", "read_untrusted"):
        whole = getattr(tensor_files, name)
        note = lambda path, name=name, whole=whole: calls.append((name, Path(path).name)) or whole(path)
        monkeypatch.setattr(tensor_files, name, note)
    out = tmp_path / "out.json"
    assert main(["eval", sides[1], "--real", sides[0], "--out", str(out)]) == 0
    assert json.loads(out.read_text())["generated"]["clips"] == 4
    read = [("read_untrusted", "made.pt"), ("read_untrusted", "real.pt")]
    assert sorted(calls) == [*read, ("stored_shapes", "made.pt")]
