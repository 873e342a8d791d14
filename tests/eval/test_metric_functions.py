"""Metrics as functions: all kinds of input agree, results print and load, and bad inputs are named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detector import CALLS, sketch
from safetensors.torch import save_file

import latte.eval
from latte.eval import FVDResult, fid, flicker, fvd, inception_score, kvd, lpips, psnr, shapes_distance, ssim
from latte.eval import frechet_inception_distance as fid_module
from latte.eval import frechet_video_distance as fvd_module
from latte.eval import video_inception_score as score_module
from latte.eval.array_clips import choose_array_clips
from latte.eval.clip_sets import choose_clips
from latte.eval.features import Detector
from latte.eval.frechet import Moments
from latte.eval.protocol import PROTOCOLS, adjusted
from latte.eval.statistics import FeatureSet
from latte.shapes.draw import make_clip
from latte.video.read import read_video
from latte.video.write import write_video
from latte.weights.tensors import CheckpointError

RECORD = {"metric": "fvd", "name": "FVD", "network": "sketch", "sha256": "0", "eps": 1e-3, "resize": "squash"}
SKETCH = Detector(RECORD, sketch, "cpu", 9)


@pytest.fixture(autouse=True)
def sketched(monkeypatch):
    """A detector of nine features in place of I3D; without a path to weights, I3D's own error."""
    own = fvd_module.i3d_detector
    monkeypatch.setattr(fvd_module, "i3d_detector", lambda path, *rest: SKETCH if path else own(path, *rest))


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders of twelve 20-frame videos; a clip has 16 frames."""
    root = tmp_path_factory.mktemp("sides")
    for i in range(24):
        video = make_clip(9, i, frames=20, size=20).video
        name = root / ("real", "generated")[i // 12] / f"{i % 12:06d}.mkv"
        write_video(video // 2 if i < 12 else video, name)
    return root / "real", root / "generated"


@pytest.fixture(scope="module")
def arrays(sides) -> tuple[torch.Tensor, torch.Tensor]:
    """The same videos, uint8 (12, 20, 3, 20, 20)."""
    return tuple(torch.stack([read_video(path)[0] for path in sorted(side.iterdir())]) for side in sides)


def features_of_side(side: Path, name: str) -> torch.Tensor:
    clips = choose_clips(side, PROTOCOLS["exact"], name, 0)
    return sketch(list(clips.stream(clips.clips)))


def test_videos_in_files_and_in_memory_give_the_same_result(sides, arrays):
    wanted = fvd(*sides, i3d="i3d.pt", protocol="exact")
    assert float(wanted) == wanted.value > 100 and wanted.metric == "fvd" and wanted.protocol["name"] == "exact"
    listed = [sorted(side.iterdir()) for side in sides]
    last = [array.permute(0, 1, 3, 4, 2).numpy() for array in arrays]
    for given in (listed, arrays, last, map(list, arrays), [(clip for clip in array) for array in last]):
        found = fvd(*given, i3d="i3d.pt", protocol="exact")
        assert (found.value, found.floor, found.kernel, found.flicker) == (
            wanted.value,
            wanted.floor,
            wanted.kernel,
            wanted.flicker,
        )
    assert fvd(sides[0], arrays[1], i3d="i3d.pt", protocol="exact").value == wanted.value
    assert fvd(*map(str, sides), i3d="i3d.pt").value == wanted.value
    few = fvd(*arrays, i3d="i3d.pt", num_videos=5, seed=3, real_crop=8)
    assert few.value == fvd(*sides, i3d="i3d.pt", num_videos=5, seed=3, real_crop=8).value != wanted.value
    assert few.protocol["name"] == "exact, clips 5, cropped to 8 x 8, any codec" and few.real["sizes"] == {"8x8": 5}


@pytest.mark.parametrize("protocol", ["exact", "stylegan-v"])
def test_clips_in_memory_and_in_files_are_bit_identical(protocol, sides, arrays):
    protocol = adjusted(protocol, clips=7, real_crop=12)
    for side, array, name in zip(sides, arrays, ("real", "generated")):
        files, memory = choose_clips(side, protocol, name, 1), choose_array_clips(array, protocol, name, 1)
        assert [(clip.name, clip.start) for clip in files.clips] == [(clip.name, clip.start) for clip in memory.clips]
        assert any(clip.start for clip in files.clips) == (name == "real" or protocol.name.startswith("exact"))
        for one, other in zip(files.stream(files.clips), memory.stream(memory.clips)):
            assert one.equal(other) and one.stride() == other.stride()


def test_features_and_statistics_can_replace_videos(sides, tmp_path):
    wanted = fvd(*sides, i3d="i3d.pt")
    real, generated = (features_of_side(side, name) for side, name in zip(sides, ("real", "generated")))
    moments = Moments.of(real)
    np.savez(tmp_path / "statistics.npz", mean=moments.mean, cov=moments.cov, n=12)
    np.savez(tmp_path / "features.npz", features=real.numpy())
    save_file({"features": real}, tmp_path / "real.safetensors")
    (tmp_path / "folder").mkdir()
    for i, part in enumerate(real.split(5)):
        save_file({"features": part}, tmp_path / f"folder/{i}.safetensors")
    files = [tmp_path / name for name in ("statistics.npz", "features.npz", "real.safetensors", "folder")]
    for given in (*files, str(files[0]), real, real.numpy(), FeatureSet({"clips": 12}, moments)):
        mixed, both = fvd(given, sides[1], i3d="i3d.pt"), fvd(given, generated)
        assert mixed.value == pytest.approx(wanted.value, rel=1e-9) == both.value
        assert (both.metric, both.protocol) == ("given", None) and mixed.metric == "fvd"
        assert any("taken as given" in caveat for caveat in mixed.caveats)
        for option in (
            {"protocol": "latte"},
            {"num_videos": 10},
            {"real_crop": 128},
            {"bn_eps": 1e-5},
            {"features": "f"},
        ):
            with pytest.raises(ValueError, match="does nothing with features or statistics on both sides"):
                fvd(given, generated, **option)
        statistics = given is files[0] or isinstance(given, FeatureSet | str)
        assert (mixed.kernel is None) == (mixed.floor is None) == statistics
    assert fvd(files[0], files[0]).seed is None and fvd(real, generated, seed=4).seed == 4


def test_cached_features_are_not_computed_again(sides, arrays, tmp_path):
    for given in (sides, arrays):
        wanted = fvd(*given, i3d="i3d.pt", features=tmp_path)
        CALLS.clear()
        assert fvd(*given, i3d="i3d.pt", features=str(tmp_path)) == wanted and not CALLS


def test_a_result_prints_and_loads(sides):
    result = fvd(*sides, i3d="i3d.pt", protocol="stylegan-v", seed=2)
    written = json.loads(json.dumps(result.to_dict()))
    assert FVDResult.from_dict(written) == result and FVDResult.from_dict(written).to_dict() == written
    assert list(written)[:8] == ["metric", "protocol", "detector", "device", "seed", "real", "generated", "distance"]
    said = str(result)
    assert said.startswith("FVD: 12 generated clips, 12 real clips") and f"{result.value:.2f}" in said
    assert "real-vs-real floor" in said and "protocol stylegan-v, seed 2, sketch" in said
    assert said.count("  note: ") == len(result.caveats) > 0
    for name in ("kernel", "floor", "flicker"):
        assert getattr(result, name) is not None
        fewer = FVDResult.from_dict({key: value for key, value in written.items() if key != name})
        assert getattr(fewer, name) is None and name not in fewer.to_dict()


OLD = """{"metric": "shapes_distance",
"protocol": {"name": "exact, clips 4", "frames": 16, "clips": 4, "resize": "squash"},
"detector": {"metric": "shapes_distance", "name": "shapes distance (not FVD)", "network": "shapes-features, sha256 0"},
"device": "cpu AVX2", "seed": 0, "real": {"folder": "a", "clips": 4, "fingerprint": "0"},
"generated": {"folder": "b", "clips": 4, "codecs": {"ffv1": 4}}, "distance": 240.42,
"infinite": {"value": 2.0, "low": 1.0, "high": 3.0}, "floor": {"value": 32.35, "low": 31.44, "high": 33.26},
"kernel": {"value": 278.8, "error": 120.0},
"caveats": ["real from other real is of 2 against 2 clips, scaled to the numbers compared"],
"versions": {"latte": "0.1.0", "torch": "2.13.0"}, "flicker": {"real": 0.99, "generated": 0.98},
"fid": {"value": 12.5, "frames": {"real": 64, "generated": 64}, "metric": "fid", "sha256": "0"},
"inception_score": {"mean": 3.0, "std": 0.1, "protocol": "stylegan-v", "videos": 2048, "groups": 10, "shuffled": true,
"metric": "inception score", "sha256": "0", "mean_sha256": "1"}}"""


def test_results_of_earlier_versions_load():
    values = json.loads(OLD)
    result = FVDResult.from_dict(values)
    assert result.to_dict() == values and list(result.to_dict()) == list(values)
    assert (float(result), float(result.fid), float(result.inception_score)) == (240.42, 12.5, 3.0)
    for line in (
        "95 %: 1.00 to 3.00",
        "FID of 64 frames",
        "inception score (stylegan-v)",
        "note: real from other real",
    ):
        assert line in str(result)


@pytest.mark.parametrize(
    ("real", "options", "line"),
    [
        ("none", {}, "no folder of videos at none"),
        (["none.mkv", "other.mkv"], {}, "no video at"),
        ([], {}, "the list of videos is empty: name at least two files"),
        (iter([]), {}, "the list of videos is empty: name at least two files"),
        (torch.zeros(0, 16, 3, 8, 8).byte(), {}, "the array of real videos holds no video of 16 frames or more"),
        (3, {}, "the real videos are a int: expected a folder"),
        (["a.mkv", 3], {}, "real video 0: expected an array, not str"),
        (["a.mkv", "a.mkv"], {}, "is listed twice: name each video once"),
        (torch.zeros(4, 16, 3, 8, 8), {}, r"expected uint8 \(f, 3, h, w\) or \(f, h, w, 3\), not float32"),
        (torch.zeros(16, 3, 8, 8).byte(), {}, r"expected uint8 \(n, f, 3, h, w\) or"),
        (torch.zeros(4, 8, 3, 8, 8).byte(), {}, "no video of 16 frames or more, which protocol exact"),
        (torch.zeros(1, 16, 3, 8, 8).byte(), {}, "there is one real clip, 000000.mkv: each side needs two"),
        (torch.zeros(4, 7), {}, "the real features have 7 numbers, those of the FVD have 9"),
        (torch.zeros(4, 9).log(), {}, "the real features: expected finite features"),
        ("none.npz", {}, "none.npz: there is no such file"),
        ("none.safetensors", {}, "none.safetensors: there is no such file"),
        (None, {"protocol": "lattte"}, "no protocol is called 'lattte'; there are exact"),
        (None, {"num_videos": 1}, "num_videos is 1: each side needs two clips or more"),
        (None, {"device": "abacus"}, "abacus"),
        (torch.zeros(4, 9), {"real_crop": 8}, "real_crop needs real videos"),
    ],
)
def test_bad_inputs_give_a_one_line_error(real, options, line, sides):
    with pytest.raises((ValueError, OSError), match=line) as told:
        fvd(sides[0] if real is None else real, sides[1], i3d="i3d.pt", **options)
    assert "\n" not in str(told.value)


def test_missing_weights_are_named_with_their_source(sides):
    for metric in (fvd, kvd):
        with pytest.raises(CheckpointError, match=r"FVD needs i3d_torchscript\.pt: get it from https://huggingface"):
            metric(*sides)
    for call, needed in (
        (lambda: fid(*sides), "FID of frames needs weights-inception"),
        (lambda: inception_score(sides[0]), "inception score of UCF101 needs conv3d_deepnetA_ucf"),
        (lambda: lpips(*sides), "LPIPS needs alexnet"),
    ):
        with pytest.raises(CheckpointError, match=needed):
            call()


def test_kvd_equals_the_kernel_distance_of_fvd(sides, arrays):
    found = kvd(*sides, i3d="i3d.pt")
    assert found == fvd(*arrays, i3d="i3d.pt").kernel == kvd(*arrays, i3d="i3d.pt") and float(found) == found.value
    moments = FeatureSet({"clips": 12}, Moments.of(torch.randn(12, 9)))
    with pytest.raises(ValueError, match="the real side is statistics: a kernel distance needs videos or features"):
        kvd(moments, sides[1], i3d="i3d.pt")


def test_the_shapes_distance_needs_no_weights(sides, arrays):
    found = shapes_distance(*sides)
    assert found.metric == "shapes_distance" and "not FVD" in str(found)
    assert shapes_distance(*arrays).value == found.value


def test_fid_and_inception_score_take_the_same_inputs(sides, arrays, monkeypatch):
    per_frame = Detector({"metric": "fid", "sha256": "0"}, lambda clips: torch.stack([frame_means(c) for c in clips]))
    monkeypatch.setattr(fid_module, "inception_detector", lambda path, device: per_frame)
    found = fid(*sides)
    assert found == fid(*arrays) and float(found) > 0 and found.frames == {"real": 192, "generated": 192}
    frames = []
    for array, name in zip(arrays, ("real", "generated")):
        clips = choose_array_clips(array, PROTOCOLS["exact"], name, 0)
        frames.append(torch.cat([frame_means(clip) for clip in clips.stream(clips.clips)]))
    assert fid(*frames).value == pytest.approx(found.value, rel=1e-9)
    record = {"sha256": "0", "mean_sha256": "1"}
    classes = Detector(record, lambda clips: sketch(clips).double().softmax(1))
    monkeypatch.setattr(score_module, "c3d_detector", lambda path, mean, device: classes)
    monkeypatch.setitem(score_module.SCORE_PROTOCOLS, "stylegan-v", score_module.ScoreProtocol(12, 2, True))
    score = inception_score(sides[1])
    assert score == inception_score(arrays[1]) and float(score) >= 1 and score.sha256 == "0"
    with pytest.raises(ValueError, match="inception score of tgan2 needs 20480 clips; there are 12"):
        inception_score(arrays[1], protocol="tgan2")


def frame_means(clip: torch.Tensor) -> torch.Tensor:
    """Features (f, 3) of a clip's frames."""
    return clip.double().mean((2, 3))


def test_fidelity_of_folders_lists_and_arrays(sides, arrays, tmp_path):
    listed = [sorted(side.iterdir()) for side in sides]
    last = [array.permute(0, 1, 3, 4, 2).numpy() for array in arrays]
    for metric in (psnr, ssim):
        wanted = metric(*arrays)
        for given in (sides, map(str, sides), listed, last):
            assert metric(*given) == pytest.approx(wanted, rel=1e-9)
    assert flicker(sides[0]) == pytest.approx(flicker(arrays[0]), rel=1e-12) == flicker(listed[0])
    for bad, line in (
        ((listed[0], listed[1][:3]), "12 videos and 3 references are not pairs"),
        ((sides[0], arrays[1]), "expected two folders, two lists of video files, or two arrays"),
        ((arrays[0].float(), arrays[1]), "expected uint8 videos"),
        ((arrays[0], arrays[1][:3]), "cannot be compared"),
        (([arrays[0]], [arrays[1]]), "video 0 of the list: expected the path of a file, not Tensor"),
    ):
        with pytest.raises(ValueError, match=line):
            psnr(*bad)
    (tmp_path / "empty").mkdir()
    for bad, line in (
        ([arrays[0]], "video 0 of the list: expected the path of a file, not Tensor"),
        (3, "expected a folder, a list of video files, or an array of videos, not int"),
        ([], "the list of videos is empty"),
        (tmp_path / "empty", "empty holds no videos"),
    ):
        with pytest.raises(ValueError, match=line):
            flicker(bad)


def test_importing_the_package_loads_no_torch_and_shadows_no_function():
    words = "import sys, latte.eval; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True)
    modules = {path.stem for path in Path(latte.eval.__file__).parent.glob("*.py")}
    assert not modules & set(latte.eval.__all__)  # otherwise importing the module would shadow the function
    assert all(callable(getattr(latte.eval, name)) for name in latte.eval.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'fdv'"):
        latte.eval.fdv  # noqa: B018
