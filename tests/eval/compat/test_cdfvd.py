"""cd-fvd's API as documented: results computed by hand, and warnings where it deviates from common practice."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from random_weights import random_state

from latte.cli import main
from latte.eval.compat import fvd
from latte.eval.compat import fvd as fvd_module
from latte.eval.compat.feature_stats import FeatureStats
from latte.eval.networks.videomae import VideoMAE
from latte.eval.networks.videomae_weights import read_videomae
from latte.shapes.draw import make_clip
from latte.video.write import write_video
from latte.weights.tensors import CheckpointError

SIZES = {"width": 8, "depth": 1, "heads": 2, "hidden": 12, "side": 28}
WEIGHTS = "vit_g_hybrid_pt_1200e_ssv2_ft.pth"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with a small VideoMAE under the published name, and no CUDA."""
    torch.save({"module": random_state(VideoMAE(**SIZES))}, tmp_path / WEIGHTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(fvd_module, "read_videomae", lambda path, device: read_videomae(path, device, **SIZES))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def videos(first: int, count: int) -> np.ndarray:
    """uint8 (n, 16, 20, 20, 3)."""
    return np.stack([make_clip(3, i, frames=16, size=20).video for i in range(first, first + count)]).transpose(
        0, 1, 3, 4, 2
    )


def features(videos: np.ndarray) -> np.ndarray:
    """By hand: pixels in [0, 1], frames resized without keeping the aspect ratio, then the network."""
    frames = torch.from_numpy(videos).permute(0, 1, 4, 2, 3).flatten(0, 1) / 255
    small = F.interpolate(frames, (28, 28), mode="bilinear", align_corners=False).unflatten(0, (len(videos), 16))
    with torch.no_grad():
        return read_videomae(Path(WEIGHTS), torch.device("cpu"), **SIZES)(small).numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """cd-fvd's formula: eigenvalues of the product of covariances, which are divided by N."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x.T, ddof=0)) for x in (a.astype(float), b.astype(float)))
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * root)


def make(**options) -> "fvd.cdfvd":
    with pytest.warns(UserWarning, match="there is no cuda here: computing on the CPU"):
        return fvd.cdfvd("videomae", ckpt_path=None, **options)


def test_fvd_of_two_arrays(folder):
    evaluator = make()
    a, b = videos(0, 12), videos(20, 10)
    assert (evaluator.n_real, evaluator.n_fake, evaluator.seed, evaluator.device) == ("full", 2048, 42, "cpu")
    found = evaluator.compute_fvd(real_videos=a, fake_videos=b)
    assert isinstance(found, float) and found == pytest.approx(frechet(features(a), features(b)), rel=1e-4)
    mean, cov = evaluator.real_stats.get_mean_cov()
    assert evaluator.real_stats.num_items == 12 and mean.shape == (8,) and cov.shape == (8, 8)
    with pytest.warns(UserWarning, match="videos of earlier calls are counted, too, as in cd-fvd"):
        evaluator.compute_fvd(a, b)
    assert evaluator.real_stats.num_items == 24
    evaluator.empty_real_stats()
    evaluator.empty_fake_stats()
    evaluator.add_real_stats(a)
    evaluator.add_fake_stats(b)
    assert evaluator.compute_fvd_from_stats() == pytest.approx(found, rel=1e-9)
    evaluator.save_real_stats("real.pkl")
    with pytest.raises(ValueError, match=r"expected an array of uint8 videos \(n, f, h, w, 3\), not float64"):
        evaluator.add_real_stats(a / 255)
    with pytest.warns(UserWarning, match="float16 is slow on a CPU: computing in float32"):
        other = make(device="cuda", half_precision=True)
    assert torch.equal(other.features(b), evaluator.features(b))
    other.model_dtype = torch.float16  # as on a GPU
    other.load_real_stats("real.pkl")
    other.add_fake_stats(b)
    half = other.compute_fvd_from_stats()
    assert half == pytest.approx(found, rel=0.2) and half != pytest.approx(found, rel=1e-6)
    evaluator.offload_model_to_cpu()


def test_statistics_use_cd_fvds_file_format(folder):
    evaluator = make(compute_feats=True, n_real=9)
    evaluator.add_real_stats(videos(0, 12))
    assert evaluator.real_stats.is_full() and evaluator.real_stats.get_all().shape == (9, 8)
    assert np.allclose(evaluator.real_stats.get_all(), features(videos(0, 9)), atol=1e-5)
    evaluator.save_real_stats("s.pkl")
    held = pickle.loads(Path("s.pkl").read_bytes())
    assert held["num_items"] == held["max_items"] == 9 and np.allclose(held["raw_mean"], features(videos(0, 9)).sum(0))
    assert main(["eval", "s.pkl", "--real", "s.pkl"]) == 0
    again = FeatureStats.load("s.pkl")
    assert np.array_equal(again.raw_cov, evaluator.real_stats.raw_cov) and again.capture_all
    assert evaluator.compute_fvd_from_stats(fake_stats=again) == pytest.approx(0, abs=1e-9)
    evaluator.empty_real_stats()
    with pytest.raises(ValueError, match="there are no features yet: compute, add or load some"):
        evaluator.compute_fvd_from_stats(fake_stats=again)
    Path("t.pkl").write_bytes(pickle.dumps({"num_items": 3}))
    with pytest.raises(CheckpointError, match=r"t\.pkl holds no statistics of cd-fvd: capture_all is missing"):
        evaluator.load_real_stats("t.pkl")


def test_a_file_of_arrays_is_repeated_until_there_are_enough(folder):
    np.save("a.npy", videos(0, 5))
    evaluator = make(n_fake=12)
    loader = evaluator.load_videos("a.npy", data_type="video_numpy", batch_size=2)
    assert [tuple(batch["video"].shape) for batch in loader] == [(2, 3, 16, 20, 20)] * 2 + [(1, 3, 16, 20, 20)]
    assert evaluator.compute_real_stats(loader) is evaluator.real_stats and evaluator.real_stats.num_items == 5
    with pytest.warns(
        UserWarning, match="5 fake videos were gone through 3 times, as cd-fvd does until there are n_fake"
    ):
        evaluator.compute_fake_stats(evaluator.load_videos("a.npy", batch_size=2))
    rows = np.concatenate([features(videos(0, 5))] * 3)[:12]
    assert evaluator.fake_stats.num_items == 12
    assert np.allclose(evaluator.fake_stats.get_mean_cov()[0], rows.mean(0), atol=2e-2)
    with pytest.raises(ValueError, match="the loader of fake videos is empty"):
        make().compute_fake_stats([])
    np.save("b.npy", videos(0, 2) / 255)
    with pytest.raises(ValueError, match=r"b\.npy: expected uint8 videos \(n, f, h, w, 3\), not float64"):
        evaluator.load_videos("b.npy")


def test_folders_of_videos_as_in_the_quickstart(folder):
    for i in range(4):
        write_video(torch.from_numpy(make_clip(3, i, frames=24, size=20).video[..., :12]), Path(f"real/{i}.mkv"))
    write_video(torch.from_numpy(make_clip(3, 9, frames=8, size=20).video), Path("real/short.mkv"))
    evaluator = make(n_fake=8)
    with pytest.warns(UserWarning, match="1 video is too short and left out; cd-fvd takes the next one twice"):
        loader = evaluator.load_videos("real/", resolution=16, batch_size=3)
    one, two = list(loader), list(loader)
    assert len(loader) == 2 and [len(batch["video"]) for batch in one] == [3, 1]
    assert not torch.equal(one[0]["video"], two[0]["video"])  # a new order and new clips
    with pytest.warns(UserWarning, match="too short"):
        again = evaluator.load_videos("real/", 16, 16, 1, "video_folder", 0, 3)
    assert torch.equal(next(iter(again))["video"], one[0]["video"])
    clip = torch.from_numpy(make_clip(3, 0, frames=24, size=20).video[..., :12]) / 255.0
    wide = F.interpolate(clip, (27, 16), mode="bilinear", align_corners=False, antialias=True)[..., 5:21, :]
    drawn = torch.cat([batch["video"] for batch in (*one, *two)]).transpose(1, 2)
    starts = [i for i in range(9) if (drawn - wide[i : i + 16]).abs().flatten(1).amax(1).min() < 1e-6]
    assert starts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert evaluator.compute_fake_stats(loader).num_items == 8
        with pytest.raises(ValueError, match="holds no video files of 99 frames or more: 5 were looked at"):
            evaluator.load_videos("real/", sequence_length=99)
    Path("real/short.mkv").unlink()
    with pytest.warns(UserWarning, match="clips of video files have 6 frames, one in 3 of 16 consecutive ones"):
        loader = evaluator.load_videos("real/", 16, sample_every_n_frames=3, data_type="video_folder")
    assert next(iter(loader))["video"].shape == (4, 3, 6, 16, 16)


def test_folders_of_frames(folder):
    frames = np.asarray(make_clip(3, 1, frames=40, size=20).video)[..., :14].transpose(0, 2, 3, 1)
    for i, frame in enumerate(frames):
        Path("f/v").mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(f"f/v/frame_{i:03d}.png")
    loader = make().load_videos("f", resolution=9, sequence_length=8, sample_every_n_frames=2, data_type="image_folder")
    video = next(iter(loader))["video"][0].permute(1, 2, 3, 0)
    wanted = [
        np.asarray(Image.fromarray(frame[3:17]).resize((9, 9), Image.Resampling.LANCZOS)) / 255 for frame in frames
    ]
    apart = [np.abs(video.numpy() - np.stack(wanted[i : i + 16 : 2])).max() for i in range(24)]
    assert video.shape == (8, 9, 9, 3) and min(apart) < 1e-6


def test_published_statistics_are_located_or_reported_missing(folder):
    evaluator = make(n_real=4)
    name = "videomae_ucf101_4_res128_len16_skip1_seed0.pkl"
    with pytest.raises(CheckpointError, match=rf"{name} is not in .*: get it from https://content-debiased.*/{name}"):
        evaluator.load_videos("ucf101", resolution=128, data_type="stats_pkl")
    evaluator.add_real_stats(videos(0, 4))
    evaluator.save_real_stats(name)
    evaluator.empty_real_stats()
    with pytest.raises(ValueError, match="there are no real statistics: load some, or give a loader"):
        evaluator.compute_real_stats(None)
    assert evaluator.load_videos("ucf101", resolution=128, data_type="stats_pkl") is None
    assert evaluator.compute_real_stats(None) is None and evaluator.real_stats.num_items == 4
    with pytest.raises(ValueError, match="data_type is 'frames'; it must be video_numpy, video_folder"):
        evaluator.load_videos("ucf101", data_type="frames")
    with pytest.raises(ValueError, match="model is 'r3d'; it must be videomae or i3d"):
        fvd.cdfvd("r3d")
    Path(WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"CD-FVD needs vit_g_hybrid_pt_1200e_ssv2_ft\.pth: get it from"):
        fvd.cdfvd("videomae", device="cpu")


def test_i3d_uses_cd_fvds_batch_norm_eps(monkeypatch):
    asked = []
    monkeypatch.setattr(fvd_module, "read_i3d", lambda path, eps: asked.append((path, eps)) or torch.nn.Linear(1, 1))
    monkeypatch.setattr(fvd_module, "optimize_for_inference", lambda network, device: network)
    counted = lambda model, clips, resize: torch.full((len(clips), 2), len(resize))
    monkeypatch.setattr(fvd_module, "i3d_features", counted)
    Path("i3d_pretrained_400.pt").touch()
    with pytest.warns(UserWarning, match=r"eps 1e-05 in its batch norms, where DeepMind's graph.*has 0\.001"):
        evaluator = fvd.cdfvd("i3d", device="cpu")
    assert asked == [(Path("i3d_pretrained_400.pt"), 1e-5)]
    assert evaluator.features(videos(0, 3)).tolist() == [[6, 6]] * 3
