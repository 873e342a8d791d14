"""Several protocols at once: each gives its own result, every clip is read once, and misfits are named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detector import sketch

from latte.cli import main
from latte.commands import eval as command
from latte.eval import frechet_video_distance as fvd_module
from latte.eval import fvd, fvd_by_protocol
from latte.eval import protocol_table as table_module
from latte.eval.clip_sets import ClipSet
from latte.eval.features import Detector
from latte.eval.frechet import Moments
from latte.eval.protocol import PROTOCOLS, Protocol, describe
from latte.eval.protocol_table import ProtocolTable
from latte.eval.video_order import in_order
from latte.shapes.draw import make_clip
from latte.video.write import write_video

RECORD = {"metric": "fvd", "name": "FVD", "network": "sketch", "sha256": "0"}
FIT = ("exact", "stylegan-v", "latte", "tf", "cd-fvd", "far")  # for real videos of 50 frames and generated ones of 16
made = []


def make(path: str, protocol: Protocol, *_: object) -> Detector:
    """Replaces I3D with a sketch that depends on the same settings as I3D's features."""
    made.append(protocol.name)
    scale = 1 + 100 * protocol.eps + (protocol.resize == "squash-tf1")
    record = RECORD | {"eps": protocol.eps, "resize": protocol.resize}
    return Detector(record, lambda clips: sketch(clips) * scale, "cpu", 9)


@pytest.fixture(autouse=True)
def sketched(monkeypatch):
    made.clear()
    for module in (fvd_module, table_module):
        monkeypatch.setattr(module, "i3d_detector", make)


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> tuple[Path, Path]:
    """Ten real videos of 50 frames, seven of one class and three of another, and eight generated ones of 16."""
    root = tmp_path_factory.mktemp("sides")
    for i in range(18):
        video = make_clip(9, i, frames=50 if i < 10 else 16, size=20).video
        name = root / ("real", "generated")[i >= 10] / ("Run" if i < 7 else "Walk" if i < 10 else "") / f"{i}.mkv"
        write_video(video // 2 if i < 10 else video, name)
    return root / "real", root / "generated"


def test_each_protocol_gives_the_result_it_gives_alone(sides, monkeypatch, tmp_path):
    read, own = [], ClipSet.read
    monkeypatch.setattr(ClipSet, "read", lambda self, clip: read.append(clip) or own(self, clip))
    table = fvd_by_protocol(*sides, i3d="i3d.pt", num_videos=4, seed=2, real_crop=24, features=tmp_path)
    assert [name.split(",")[0] for name in table.results] == list(FIT) and len(read) == len(set(read))
    assert made == [
        "exact, clips 4, cropped to 24 x 24",
        "tf, clips 4, cropped to 24 x 24",
        "cd-fvd, clips 4, cropped to 24 x 24",
    ]  # one per way of computing features
    once = len(read)
    alone = {name: fvd(*sides, i3d="i3d.pt", protocol=name, num_videos=4, seed=2, real_crop=24) for name in FIT}
    for name, wanted in alone.items():
        found = table.results[f"{name}, clips 4, cropped to 24 x 24"]
        assert found == replace(wanted, flicker=None)
    assert len(read) - once > 1.5 * once
    assert len({round(result.value, 6) for result in table.results.values()}) == len(FIT)
    read.clear()
    assert fvd_by_protocol(*sides, i3d="i3d.pt", num_videos=4, seed=2, real_crop=24, features=tmp_path) == table
    assert not read  # features come from the cache
    assert (
        "96 frames or more, which protocol latte-taichi" in table.left_out["latte-taichi, clips 4, cropped to 24 x 24"]
    )
    lines = str(table).splitlines()
    ends = {line.split(",")[0].strip(): line.split("  ")[-1] for line in lines[2:]}
    assert lines[1].endswith("  differs from exact in")
    assert ends["exact"] == "real frames cropped to 24 x 24"
    assert ends["cd-fvd"] == "real frames cropped to 24 x 24, batch norms with eps 1e-05"
    assert lines[0] == "FVD, sketch" and len(lines) == 3 + len(PROTOCOLS)
    row = next(line for line in lines if line.strip().startswith("latte, clips 4"))
    assert f" {alone['latte'].value:.2f} " in row and "4 / 4  real stride 3, real frames cropped to 24 x 24, gen" in row
    written = json.loads(json.dumps(table.to_dict()))
    assert written["protocols"]["far, clips 4, cropped to 24 x 24"]["distance"] == alone["far"].value
    assert set(written["left_out"]) == set(table.left_out)


def test_videos_in_memory_and_given_statistics(sides, tmp_path):
    arrays = [torch.from_numpy(make_clip(8, i, frames=50, size=20).video) for i in range(5)]
    table = fvd_by_protocol(sides[0], arrays, i3d="i3d.pt", protocols=["latte", PROTOCOLS["tf"]])
    assert table.results["latte"].value == fvd(sides[0], arrays, i3d="i3d.pt", protocol="latte").value
    moments = Moments.of(torch.randn(12, 9, generator=torch.Generator().manual_seed(0)))
    np.savez(tmp_path / "s.npz", mean=moments.mean.numpy(), cov=moments.cov.numpy(), n=12)
    table = fvd_by_protocol(tmp_path / "s.npz", sides[1], i3d="i3d.pt", protocols=["exact", "far"])
    assert table.results["exact"].value == fvd(tmp_path / "s.npz", sides[1], i3d="i3d.pt", protocol="exact").value
    assert "real_crop needs real videos" in table.left_out["far"]
    with pytest.raises(ValueError, match="have one protocol already: name videos on one side"):
        fvd_by_protocol(tmp_path / "s.npz", tmp_path / "s.npz")
    with pytest.raises(
        ValueError, match=r"no protocol can be followed; stylegan-v-128f: .*holds no video of 128 frames"
    ):
        fvd_by_protocol(*sides, i3d="i3d.pt", protocols=["stylegan-v-128f"])


def test_an_unreadable_clip_is_left_out_of_each_protocol(sides, tmp_path):
    for path in sides[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cut = tmp_path / "12.mkv"
    cut.write_bytes(cut.read_bytes()[:-3000])
    with pytest.warns(UserWarning, match=r"12\.mkv"):
        table = fvd_by_protocol(sides[0], tmp_path, i3d="i3d.pt", protocols=["exact", "latte"])
    with pytest.warns(UserWarning, match=r"12\.mkv"):
        wanted = fvd(sides[0], tmp_path, i3d="i3d.pt", protocol="latte")
    assert table.results["latte"].value == wanted.value and wanted.generated["clips"] == 7
    assert list(table.results["exact"].generated["unreadable"]) == ["12.mkv"]


def test_classes_take_turns():
    names = [f"{name}/{i}.avi" for name, count in (("a", 50), ("b", 3), ("c", 9)) for i in range(count)]
    found = in_order(names, "class", 0)
    assert sorted(found) == sorted(names) and found != in_order(names, "class", 1)
    assert [sum(name[0] == letter for name in found[:9]) for letter in "abc"] == [3, 3, 3]
    assert [sum(name[0] == letter for name in found[:13]) for letter in "abc"] == [5, 3, 5]
    flat = [f"{i}.avi" for i in range(9)]
    assert in_order(flat, "class", 3) == in_order(flat, "seed", 3) != in_order(flat, "name", 3)


def test_far_balances_classes_and_says_when_there_are_none(sides):
    found = fvd_by_protocol(*sides, i3d="i3d.pt", protocols=["far"], num_videos=2).results["far, clips 2"]
    assert found.real["sizes"] == {"256x256": 2}
    with pytest.warns(UserWarning, match="balances classes, but its videos are in one folder"):
        fvd_by_protocol(sides[0] / "Run", sides[1], i3d="i3d.pt", protocols=["far"], real_crop=24)


def test_protocol_descriptions():
    said = {name: describe(vars(protocol)) for name, protocol in PROTOCOLS.items()}
    assert said["exact"] == "clips drawn by seed and name, lossless videos only"
    assert said["tf"].startswith("videos in order of name, real clips from the first frame, generated clips from the")
    assert "resized at TensorFlow 1's positions, covariances by N - 1" in said["tf"]
    assert said["cd-fvd"] == "batch norms with eps 1e-05"
    assert said["far"].startswith("real stride 3, real frames cropped to 256 x 256, as many videos of each subfolder")
    assert len(set(said.values())) == len(said) and describe({"eps": None}) == "clips drawn by seed and name"


def test_the_command_prints_the_table(sides, tmp_path, capsys, monkeypatch):
    loaded = []
    monkeypatch.setattr(command, "shapes_detector", lambda device: loaded.append(1) or make("", PROTOCOLS["exact"]))
    words = ["eval", str(sides[1]), "--real", str(sides[0])]
    words += ["--protocol", "all", "--num-videos", "4", "--real-crop", "24"]
    assert main([*words, "--out", str(tmp_path / "t.json")]) == 0 and len(loaded) == 1
    said, written = capsys.readouterr().out, json.loads((tmp_path / "t.json").read_text())
    for name, result in written["protocols"].items():
        assert f"  {name} " in said and f"{result['distance']:.2f}" in said
    assert len(written["protocols"]) == len(FIT) and "real stride 3" in said
    for result in written["protocols"].values():  # as without --real-crop
        result["protocol"] |= {"real_crop": 0, "eps": None}
    lines = str(ProtocolTable.from_dict(written)).splitlines()
    assert [line.split()[0] for line in lines if line.endswith("  nothing")] == ["exact,", "cd-fvd,"]
    assert main(["info", str(tmp_path / "t.json")]) == 0
    described = capsys.readouterr().out
    assert [line.split() for line in described.splitlines()[2:]] == [line.split() for line in said.splitlines()[1:-1]]
    assert main(["eval", "--compare", str(tmp_path / "t.json"), str(tmp_path / "t.json")]) == 2
    found = capsys.readouterr().err
    assert found.count("\n") == 1 and "t.json: this holds results under several protocols: measure under one" in found
    for option, value in (("--c3d", "x"), ("--sets", "x"), ("--parts", "2"), ("--vjepa", "x")):
        assert main([*words, option, value]) == 2
        assert f"{option} does nothing with --protocol all" in capsys.readouterr().err
    words[1] = "shapes"
    assert main([*words, "--num-sampling-steps", "1"]) == 2
    assert "keep the model's with --samples FOLDER" in capsys.readouterr().err
