"""The feature network for the built-in shapes, clip corruptions, and a distance that must grow with them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import SMALL, TINY_FEATURES

from latte.cli import main
from latte.diffusion.randomness import generator
from latte.eval.bench import feature_check
from latte.eval.exam import HELD_OUT
from latte.eval.features import batch_size, features_of
from latte.eval.frechet import Moments, distance
from latte.eval.networks.shape_features import (
    HEADS,
    SHIPPED,
    ShapeFeatures,
    ShapeFeaturesConfig,
    load_shape_features,
    shape_features,
    shapes_detector,
)
from latte.shapes.corruptions import CORRUPTIONS, blurred, corrupted, faster, frozen, shuffled, slower
from latte.shapes.draw import COLOURS, MOTIONS, SHAPES, make_clip
from latte.train.data.folders import open_clips
from latte.train.objectives import objective
from latte.train.objectives.shape_recognition import clip_targets
from latte.train.previews import preview
from latte.train.resolve import resolve
from latte.video.pixels import from_uint8
from latte.weights.shared_parts import BUNDLED
from latte.weights.tensors import CheckpointError


def clips_of(seed, count, **shape):
    return [make_clip(seed, i, **shape) for i in range(count)]


def stacked(clips):
    return torch.stack([torch.from_numpy(clip.video) for clip in clips])


@pytest.fixture(scope="module")
def network():
    return load_shape_features()


@pytest.fixture(scope="module")
def held_out():
    return clips_of(HELD_OUT, 256)


def test_the_heads_match_the_dataset_attributes():
    tables = {"motion": MOTIONS, "shape": SHAPES, "colour": COLOURS, "damage": CORRUPTIONS}
    assert all(HEADS[name] == len(table) for name, table in tables.items())
    answers = [clip_targets(clip) for clip in clips_of(0, 300, size=32)]
    for name in ("track", "tempo"):
        values = torch.stack([answer[name] for answer in answers])
        assert values.shape[1] == HEADS[name] and values.mean().abs() < 0.1 and 0.8 < values.std() < 1.2, name
    for motion in MOTIONS:  # tempo is relative to other clips of the same motion
        tempo = [answer["tempo"] for answer in answers if answer["motion"] == MOTIONS.index(motion)]
        assert torch.stack(tempo).mean().abs() < 0.8, motion


def test_the_shipped_network_recognises_held_out_clips(network, held_out):
    known = feature_check.score_heads(network, held_out[:128])
    least = {"motion": 0.95, "shape": 0.6, "colour": 0.95, "track": 0.9, "tempo": 0.5}
    assert known.keys() == least.keys()
    assert all(known[name] > share for name, share in least.items()), known


def test_the_shipped_files_are_small_and_complete():
    folder = BUNDLED / SHIPPED
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert resolve(str(folder / "training.yaml"), []) == resolve(SHIPPED, [])
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == resolve(SHIPPED, []).steps


def test_features_do_not_depend_on_the_other_clips(network, held_out):
    videos = stacked(held_out[:5])
    features = shape_features(network, videos, 4)
    assert features.shape == (5, 32) and features.dtype == torch.float32
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5)):
        assert torch.equal(shape_features(network, videos[rows], 4), features[rows])
    assert torch.allclose(shape_features(network, videos, 2), features, atol=1e-4)
    assert torch.equal(network.train().features(from_uint8(videos)), network.eval().features(from_uint8(videos)))


def test_the_detector_accepts_clips_of_any_size(network, held_out):
    detector = shapes_detector(torch.device("cpu"))
    videos = stacked(held_out[:3])
    assert "FVD" not in detector.record["metric"] and len(detector.record["sha256"]) == 64
    (found,) = features_of([detector], iter(videos), 16)
    assert torch.equal(found, shape_features(network, videos, batch_size(16)))
    large = stacked(clips_of(HELD_OUT, 3, size=128))
    near, far = (detector.features([*clips]) for clips in (large, videos.flip(1)))
    real = detector.features([*videos])
    assert ((near - real).norm(dim=1) < (far - real).norm(dim=1)).all()
    assert torch.equal(detector.features([videos[0], large[1]])[0], detector.features([videos[0], large[2]])[0])


def test_whitening_changes_features_but_not_predictions():
    torch.manual_seed(0)
    network, videos = ShapeFeatures(ShapeFeaturesConfig((4, 8), 6)), torch.randn(64, 4, 3, 16, 16)
    with torch.no_grad():
        before, answers = network.features(videos), network(videos)
        network.whiten(before)
        after, answers_after = network.features(videos), network(videos)
    assert torch.allclose(after.T.cov(correction=0), torch.eye(6), atol=1e-4) and after.mean(0).abs().max() < 1e-4
    assert (before.T.cov() - torch.eye(6)).abs().max() > 0.1
    assert all(torch.allclose(answers[name], answers_after[name], atol=1e-5) for name in HEADS)


@pytest.mark.parametrize("shape", [(1, 1, 3, 8, 8), (2, 9, 3, 48, 80), (1, 24, 3, 96, 96)])
def test_clips_of_any_size_have_features(network, shape):
    features = shape_features(network, torch.randint(256, shape, dtype=torch.uint8, generator=generator(0)), 2)
    assert features.shape == (shape[0], 32) and features.isfinite().all()


def test_invalid_inputs_are_rejected(network, tmp_path):
    for wrong in (torch.zeros(1, 2, 3, 8, 8), torch.zeros(2, 3, 8, 8).byte(), torch.zeros(0, 2, 3, 8, 8).byte()):
        with pytest.raises(ValueError, match="expected uint8 videos"):
            shape_features(network, wrong)
    with pytest.raises(CheckpointError, match="unknown key 'variant'"):
        load_shape_features("shapes")
    for widths, say in (((), "1 to 8 widths"), ((4, 6), "multiple of 4"), ((4, 0), "1 to 8 widths")):
        with pytest.raises(ValueError, match=say):
            ShapeFeaturesConfig(widths)
    assert ShapeFeatures(ShapeFeaturesConfig((4, 8), 5)).features(torch.zeros(1, 4, 3, 16, 16)).shape == (1, 5)


def test_the_train_command_produces_a_loadable_network(tmp_path, capsys):
    words = [*TINY_FEATURES, "steps=40", "global_batch_size=8", "log_every=10", "sample_every=40", "learning_rate=1e-2"]
    assert main(["train", "--config", SHIPPED, "--run", str(tmp_path), "--device", "cpu", *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"] and HEADS.keys() <= lines[0].keys()
    assert sum(lines[0][name] for name in HEADS) == pytest.approx(lines[0]["loss"], rel=1e-5)
    assert (tmp_path / "samples/step-0000040.png").is_file()
    assert load_shape_features(tmp_path).config == ShapeFeaturesConfig((4, 8), 8)


def test_preview_captions_are_the_networks_predictions(network):
    config = resolve(SHIPPED, ["global_batch_size=4"])
    seen = objective(open_clips(config), config, torch.device("cpu"))
    videos, captions = preview(seen, network)
    numbers = [seen.order.index(0, slot) for slot in range(4)]
    said, asked = [caption.split() for caption in captions], [make_clip(0, i).caption.split() for i in numbers]
    sure = lambda words: [*words[:2], *words[3:]]  # the shape is less certain
    assert [sure(words) for words in said] == [sure(words) for words in asked]
    assert {words[2] for words in said} <= SHAPES.keys()
    assert torch.equal(videos, torch.stack([torch.from_numpy(make_clip(0, i).video) for i in numbers]))


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ("data=videos", "data is 'videos', not 'shapes'"),
        ("vae=shapes/vae", "unknown key 'vae' for kind=features"),
        ("init=shapes", "unknown key 'init' for kind=features"),
        ("num_workers=2", "unknown key 'num_workers' for kind=features"),
        ("model.depth=2", "unknown key 'depth'"),
    ],
)
def test_ineffective_settings_are_rejected(change, say, tmp_path, capsys):
    words = ["train", "--config", SHIPPED, "--run", str(tmp_path / "run"), *SMALL, change]
    assert main(words) == 2
    assert say in capsys.readouterr().err


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_deterministic_per_seed_and_clip(name, held_out):
    videos = stacked(held_out[:3])
    spoilt = corrupted(videos, name, 0.7)
    assert spoilt.shape == videos.shape and spoilt.dtype == torch.uint8 and (spoilt != videos).any()
    assert torch.equal(corrupted(videos, name, 0), videos)
    assert torch.equal(corrupted(videos[1:], name, 0.7, first=1), spoilt[1:])
    at_random = name in ("noise", "frozen frames", "shuffled frames")
    assert torch.equal(corrupted(videos, name, 0.7, seed=1), spoilt) != at_random
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must be from 0 to 1"):
            corrupted(videos, name, strength)
    with pytest.raises(ValueError, match="unknown corruption 'nois'; use one of noise, blur"):
        corrupted(videos, "nois", 0.5)


def test_corruptions_do_what_they_say():
    count = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, 3, 16, 16)  # a frame's value is its index
    shown = lambda spoil, strength, seed=0: spoil(count, strength, generator(seed))[:, 0, 0, 0].tolist()
    assert shown(slower, 1.0) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]
    assert shown(faster, 1.0) == [0, 2, 4, 6, 8, 10, 12, 14, 15, 15, 15, 15, 15, 15, 15, 15]
    assert shown(frozen, 1.0) == [0] * 16
    still = lambda frames: {i for i in range(1, 16) if frames[i] == frames[i - 1]}
    assert set() < still(shown(frozen, 0.3)) < still(shown(frozen, 0.6)) and still(shown(frozen, 0.6)) < set(
        range(1, 16)
    )
    for strength, moved in ((0.1, 2), (0.5, 8), (1.0, 16)):
        frames = shown(shuffled, strength)
        assert sorted(frames) == list(range(16)) and sum(frame != i for i, frame in enumerate(frames)) == moved
    grey = torch.full((1, 8, 3, 64, 64), 128, dtype=torch.uint8)
    assert (corrupted(grey, "noise", 0.5).float() - 128).std() == pytest.approx(32, rel=0.01)
    assert torch.equal(corrupted(grey, "blur", 1.0), grey)
    edge = torch.where(torch.arange(64) < 32, 0, 200).byte().expand(2, 3, 64, 64)
    slope = blurred(edge, 1.0, generator(0))[0, 0, 5].float().diff()
    place = torch.arange(63)
    middle = (slope * place).sum() / slope.sum()
    assert (slope * (place - middle) ** 2).sum() / slope.sum() == pytest.approx(16, rel=0.05)  # sigma: 4 of 64 pixels


@pytest.fixture(scope="module")
def real(network, held_out):
    """The moments of half of the real clips, and the largest distance between two random halves."""
    features, half = shape_features(network, stacked(held_out)), len(held_out) // 2
    order = [torch.randperm(len(features), generator=generator(0, i)) for i in range(20)]
    floor = max(distance(Moments.of(features[rows[:half]]), Moments.of(features[rows[half:]])) for rows in order)
    return Moments.of(features[:half]), floor


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_distance_grows_with_every_corruption(name, network, held_out, real):
    videos, (moments, floor) = stacked(held_out[len(held_out) // 2 :]), real
    spoilt = [shape_features(network, corrupted(videos, name, strength)) for strength in (0.6, 1.0)]
    far = [distance(moments, Moments.of(features)) for features in spoilt]
    assert floor < far[0] < far[1], (floor, far)


def test_sampling_from_a_feature_network_gives_a_one_line_error(capsys):
    assert main(["sample", SHIPPED, "--out", "/nowhere"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_benchmark_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(feature_check, "STRENGTHS", (0.5, 1.0))
    words = ["bench", "features", "--num-videos", "16", "--device", "cpu", "--out", str(tmp_path / "scores.json")]
    assert main(words) == 0
    scores, out = json.loads((tmp_path / "scores.json").read_text()), capsys.readouterr().out
    assert scores["damage"].keys() == CORRUPTIONS.keys() and f"{scores['damage']['noise'][1]:.2f}" in out
    assert scores["real against real"]["low"] < scores["real against real"]["mean"] < scores["damage"]["noise"][0]
    assert scores["held-out clips"].keys() == clip_targets(make_clip(0, 0)).keys()
    for wrong, say in ((["--num-videos", "1"], "it must be 2 or more"), (["--out", str(tmp_path)], "not a file")):
        assert main([*words[:2], *wrong]) == 2
        assert say in capsys.readouterr().err
