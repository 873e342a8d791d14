"""Metrics that need published weights, with random ones: golden values, hand-written references, invalid files."""

import math
from hashlib import sha256

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_weights import random_state, smooth_videos

from latte.eval.networks import published_weights, shape_features
from latte.eval.networks.c3d import C3D
from latte.eval.networks.c3d_weights import class_probabilities, load_c3d, prepare
from latte.eval.networks.fast_convolutions import WinogradConv3d
from latte.eval.networks.inception import Inception, resize_tf1
from latte.eval.networks.inception_weights import frame_features, load_inception
from latte.eval.networks.published_weights import PUBLISHED, find_weights
from latte.eval.video_inception_score import (
    SCORE_PROTOCOLS,
    group_scores,
    score_probabilities,
)
from latte.weights import arrays
from latte.weights.arrays import read_arrays
from latte.weights.tensors import CheckpointError


def test_weights_are_found_or_the_error_says_where_to_get_them(tmp_path):
    for name, (file, url, use) in PUBLISHED.items():
        for path in (None, tmp_path, tmp_path / "gone.pt"):
            with pytest.raises(CheckpointError) as told:
                find_weights(name, path)
            said = str(told.value)
            assert f"{use} needs {file}: get it from {url}, and give its path" in said and "\n" not in said
        (tmp_path / file).write_bytes(name.encode())
        found = find_weights(name, tmp_path)
        assert found == find_weights(name, str(tmp_path / file)) and found.path == tmp_path / file
        assert found.sha256 == sha256(name.encode()).hexdigest()
    with pytest.raises(CheckpointError, match="no path is given; LPIPS needs"):
        find_weights("alexnet", None)


def test_weights_are_hashed_lazily_and_once(tmp_path, monkeypatch):
    hashed = []
    for module in (published_weights, shape_features):
        own = module.digest
        monkeypatch.setattr(module, "digest", lambda path, own=own: hashed.append(path) or own(path))
    (tmp_path / PUBLISHED["alexnet"].file).write_bytes(b"0")
    found = find_weights("alexnet", tmp_path)
    assert not hashed and found.sha256 == found.sha256 and hashed == [found.path]
    shape_features.shapes_detector(torch.device("cpu"))
    assert len(hashed) == 2


# torch-fidelity 0.4.0, FeatureExtractorInceptionV3: every 400th feature of these frames with these weights
INCEPTION = [
    [0.363, 0.24811, 0.17471, 0.34627, 0.32252, 0.02108],
    [0.24195, 0.20392, 0.1752, 0.31102, 0.28641, 0.00805],
    [0.28808, 0.22539, 0.1902, 0.36457, 0.35354, 0.01323],
]


def test_inception_matches_torch_fidelity(tmp_path):
    state = random_state(Inception())
    assert len(state) == 566
    file = tmp_path / PUBLISHED["inception"].file
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, file)
    network, videos = load_inception(tmp_path), smooth_videos(1, 3, 40, 56)
    features = frame_features(videos, network)
    assert features.shape == (3, 2048) and features.dtype == torch.float32 and not network.training
    assert torch.allclose(features[:, ::400], torch.tensor(INCEPTION), atol=2e-5)
    assert torch.allclose(frame_features(videos, network, batch_size=2), features, rtol=1e-4, atol=1e-6)
    for wrong in (videos.float(), videos[0], videos[:, :, :1], videos[:, :0]):
        with pytest.raises(ValueError, match=r"expected uint8 videos \(b, f, 3, h, w\)"):
            frame_features(wrong, network)
    torch.save({"fc.weight": state["fc.weight"]}, file)
    with pytest.raises(CheckpointError, match=r"6726825d.pth: 471 tensors missing, first Conv2d_1a_3x3.bn.bias"):
        load_inception(file)


def test_resizing_matches_tensorflow_1():
    ramp = torch.tensor([[0.0, 10.0, 30.0]])
    assert resize_tf1(ramp, 1, 6).tolist() == [[0, 5, 10, 20, 30, 30]]  # at 0, 1/2, 1, 3/2, 2 and, held, 5/2
    assert torch.equal(resize_tf1(ramp.T, 0, 6), resize_tf1(ramp, 1, 6).T) and torch.equal(resize_tf1(ramp, 1, 3), ramp)


def test_c3d_has_the_shapes_of_the_published_one():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in C3D().state_dict().items()}
    widths = {"1a": (3, 64), "2a": (64, 128), "3a": (128, 256), "3b": (256, 256), "4a": (256, 512)}
    widths |= {name: (512, 512) for name in ("4b", "5a", "5b")}
    expected = {f"conv{name}": (b, a, 3, 3, 3) for name, (a, b) in widths.items()}
    expected |= {"fc6": (4096, 512 * 4 * 4), "fc7": (4096, 4096), "fc8": (101, 4096)}
    assert {name.removesuffix(".weight"): shape for name, shape in shapes.items() if "weight" in name} == expected
    assert sum(map(math.prod, shapes.values())) == 78_409_573


@pytest.fixture(scope="module")
def c3d_files(tmp_path_factory):
    """A narrow C3D with Chainer's parameter names, and a mean clip."""
    folder = tmp_path_factory.mktemp("c3d")
    state = random_state(C3D(2, 8))
    state["fc8.weight"] /= 100  # classes of different probabilities, none of them certain
    words = {name.replace(".weight", "/W").replace(".bias", "/b"): value.numpy() for name, value in state.items()}
    np.savez(folder / PUBLISHED["c3d"].file, **words)
    mean = np.random.RandomState(0).uniform(80, 120, (3, 16, 128, 171))
    np.savez(folder / PUBLISHED["c3d-mean"].file, mean=mean.astype(np.float32))
    return folder, state, mean


def chainer_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Chainer 4's resize_images on (h, w), pixel by pixel."""
    rows, columns = (np.linspace(0, n - 1, num=size) for n in image.shape)
    out = np.empty((size, size))
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            a, b = int(y), int(x)
            c, d = min(a + 1, image.shape[0] - 1), min(b + 1, image.shape[1] - 1)
            top = image[a, b] * (1 - x % 1) + image[a, d] * (x % 1)
            out[i, j] = top * (1 - y % 1) + (image[c, b] * (1 - x % 1) + image[c, d] * (x % 1)) * (y % 1)
    return out


def test_class_probabilities_match_tgan2(c3d_files):
    folder, state, mean = c3d_files
    network, cube = load_c3d(folder, folder, width=2, hidden=8)
    elsewhere, _ = load_c3d(folder, folder, width=2, hidden=8, device="meta")
    kinds = [[isinstance(module, WinogradConv3d) for module in model.modules()] for model in (network, elsewhere)]
    assert [sum(kind) for kind in kinds] == [8, 0]
    videos = smooth_videos(3, 16, 40, 56)
    x = prepare(videos, cube)
    red = chainer_resize(videos[1, 5, 0].double().numpy(), 112) - mean[2, 5, 8:120, 8:120]  # red is last
    assert x.shape == (3, 3, 16, 112, 112) and np.abs(x[1, 2, 5].numpy() - red).max() < 1e-3
    for name in ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"):
        x = F.relu(F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
        if name in ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b"):
            x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), value=-math.inf)
            x = F.max_pool3d(x, (1 if name == "conv1a" else 2, 2, 2))
    assert x.shape[2:] == (1, 4, 4)
    for name in ("fc6", "fc7", "fc8"):
        x = F.linear(x.flatten(1), state[f"{name}.weight"], state[f"{name}.bias"])
        x = x if name == "fc8" else F.relu(x)
    found = class_probabilities(videos, network, cube)
    assert found.dtype == torch.float64 and torch.allclose(found, x.double().softmax(1), rtol=1e-3)
    assert torch.allclose(class_probabilities(videos, network, cube, batch_size=2), found, rtol=1e-3)
    assert (found[0] - found[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="clips of 16 frames, not 8"):
        class_probabilities(videos[:, :8], network, cube)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_invalid_c3d_files_are_rejected(c3d_files, tmp_path, monkeypatch):
    folder, _, _ = c3d_files
    with pytest.raises(CheckpointError, match=r"ucf\.npz: 21 tensors of another shape, first conv1a\.bias"):
        load_c3d(folder, folder)
    file, whole = tmp_path / "a.npz", (folder / PUBLISHED["c3d"].file).read_bytes()
    np.savez(file, other=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"does not hold an array mean \(3, 16, 128, 171\)"):
        load_c3d(folder, file, width=2, hidden=8)
    np.savez(file, a=np.array([Trap(tmp_path / "ran")], dtype=object))
    with pytest.raises(CheckpointError, match=r"not an \.npz of plain arrays"):
        read_arrays(file)
    assert not (tmp_path / "ran").exists()
    np.savez(file, a=np.array([1.0, np.inf]))
    with pytest.raises(CheckpointError, match="a holds values that are not finite"):
        read_arrays(file)
    for bad in (whole[: len(whole) // 2], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], b""):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            read_arrays(file)
    monkeypatch.setattr(arrays, "MOST_ARRAY_BYTES", 5000)
    with pytest.raises(CheckpointError, match="more than 5000 are not read"):
        read_arrays(folder / PUBLISHED["c3d"].file)
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_arrays(tmp_path / "gone.npz")


def test_scores_of_certain_and_uniform_predictions():
    certain = F.one_hot(torch.arange(60) % 20, 101).double()
    assert group_scores(certain, 1).item() == pytest.approx(20)
    assert torch.allclose(group_scores(certain, 6), torch.full((6,), 10.0, dtype=torch.float64))  # ten classes in each
    assert group_scores(torch.full((7, 101), 1 / 101), 1).item() == pytest.approx(1)
    half = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    assert group_scores(half, 1).item() == pytest.approx(2 * 0.75**0.75 * 0.25**0.25)
    with pytest.raises(ValueError, match="2 clips cannot be scored in 3 groups"):
        group_scores(half, 3)


def test_inception_score_protocols():
    rows = np.random.RandomState(0).dirichlet(np.full(101, 0.05), 20480)
    rows[::7] = rows[::7].mean(0)  # unevenly mixed, so order matters

    def scores(p: np.ndarray, groups: int) -> list[float]:
        parts = [p[i * len(p) // groups : (i + 1) * len(p) // groups] + 1e-20 for i in range(groups)]
        return [np.exp(np.mean(np.sum(q * (np.log(q) - np.log(np.mean(q, 0))), 1))) for q in parts]

    by_tgan2 = [scores(loop, 1)[0] for loop in np.split(rows, 10)]
    found = score_probabilities(torch.from_numpy(rows), "tgan2")
    assert found.to_dict() == {
        "mean": pytest.approx(np.mean(by_tgan2)),
        "std": pytest.approx(np.std(by_tgan2)),
        "protocol": "tgan2",
        "videos": 20480,
        "groups": 10,
        "shuffled": False,
        "metric": "inception score",
        "sha256": None,
        "mean_sha256": None,
    }
    few = rows[:2048].copy()
    np.random.RandomState(42).shuffle(few)
    found = score_probabilities(torch.from_numpy(rows), "stylegan-v")
    assert found.mean == pytest.approx(np.mean(scores(few, 10)), rel=1e-9)
    assert found.std == pytest.approx(np.std(scores(few, 10)), rel=1e-9)
    assert found.mean < scores(few, 1)[0] - 0.1  # of the same clips in smaller groups
    with pytest.raises(ValueError, match="of stylegan-v needs 2048 clips; there are 2047"):
        score_probabilities(torch.from_numpy(rows[:2047]), "stylegan-v")
    with pytest.raises(ValueError, match="no protocol 'openai' of the inception score: there are tgan2, stylegan-v"):
        score_probabilities(torch.from_numpy(rows), "openai")
    assert set(SCORE_PROTOCOLS) == {"tgan2", "stylegan-v"}
