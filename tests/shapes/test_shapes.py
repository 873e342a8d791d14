"""The built-in clips and their examiner, which is right about acceptable clips and detects every kind of corruption."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from latte import LattePipeline
from latte.eval.exam import reconstruct, score_table
from latte.models.latte import Latte, LatteConfig
from latte.shapes.clip_scores import score_clips
from latte.shapes.draw import COLOURS, MOTIONS, SHAPES, coverage, make_clip
from latte.shapes.examiner import count_objects, examine
from latte.weights.find_models import find_model
from latte.weights.vae_folder import load_vae

CLIPS = [make_clip(5, i) for i in range(400)]  # training uses seed 0
FEW = CLIPS[:48]
OPPOSITE = dict(zip(MOTIONS, ("right", "left", "down", "up", "anticlockwise", "clockwise", "shrinking", "growing")))


def redraw(clip, colours, centre=None):
    """Redraw a clip on its background, with `colours` broadcast to (f, 3, h, w) and optionally another centre."""
    alpha = coverage(clip.shape, clip.trajectory if centre is None else centre, clip.radius, 64)[:, None]
    return ((1 - alpha) * clip.video[:1, :, :1, :1] + alpha * colours).round().astype(np.uint8)


def colour_levels(colour):
    return np.reshape(COLOURS[colour], (3, 1, 1))


def degraded(clip, rng):
    """Blurred, noisy and blocky, like the output of a weak autoencoder."""
    out = clip.video.astype(float)
    for axis in (2, 3, 2, 3):
        out = 0.25 * np.roll(out, 1, axis) + 0.5 * out + 0.25 * np.roll(out, -1, axis)
    blocks = np.kron(rng.normal(0, 4, (len(out), 3, 8, 8)), np.ones((8, 8)))
    return (out + rng.normal(0, 6, out.shape) + blocks).clip(0, 255).round().astype(np.uint8)


def jittering(clip, rng):
    """With the centre of each frame off by up to a pixel in x and y."""
    return redraw(clip, colour_levels(clip.colour), clip.trajectory + rng.uniform(-1, 1, (16, 2)))


def grey(clip, rng):
    return redraw(clip, rng.uniform(100, 240))


def pale(clip, rng):
    """With about a third of the saturation."""
    mean = clip.video.mean(1, keepdims=True)
    return (mean + 0.35 * (clip.video - mean)).round().astype(np.uint8)


def two_coloured(clip, rng):
    """With another colour on one side of a line through the centre."""
    other = rng.choice([colour for colour in COLOURS if colour != clip.colour])
    (y, x), way = np.mgrid[:64, :64] + 0.5, rng.normal(size=2)
    sides = np.stack([(x - cx) * way[0] + (y - cy) * way[1] > 0 for cx, cy in clip.trajectory])
    return redraw(clip, np.where(sides[:, None], colour_levels(clip.colour), colour_levels(other)))


def flickering(clip, rng):
    """With another colour in every fourth frame."""
    other = rng.choice([colour for colour in COLOURS if colour != clip.colour])
    turn = (np.arange(16) % 4 == 0)[:, None, None, None]
    return redraw(clip, np.where(turn, colour_levels(other), colour_levels(clip.colour)))


def frozen(clip, rng):
    return clip.video[np.minimum(np.arange(16), 9)]


def swapped(clip, rng):
    order = np.arange(16)
    pair = rng.choice(16, 2, replace=False)
    order[pair] = order[pair[::-1]]
    return clip.video[order]


def neighbours_swapped(clip, rng):
    order, i = np.arange(16), rng.integers(15)
    order[[i, i + 1]] = i + 1, i
    return clip.video[order]


def displaced(clip, rng):
    """With one frame off by 10 px in a random direction."""
    angle, centre = rng.uniform(0, 2 * np.pi), clip.trajectory.copy()
    centre[rng.integers(16)] += 10 * np.array([np.cos(angle), np.sin(angle)])
    return redraw(clip, colour_levels(clip.colour), centre)


def with_second_object(clip, rng):
    """With a second object, away from the first, in 7 of 16 frames."""
    video, colour, shape = clip.video.astype(float), colour_levels(rng.choice(list(COLOURS))), rng.choice(list(SHAPES))
    for frame in rng.choice(16, 7, replace=False):
        places = rng.uniform(8, 56, (100, 2))
        apart = np.linalg.norm(places - clip.trajectory[frame], axis=1) > clip.radius[frame] + 9
        alpha = coverage(shape, places[apart][:1], rng.uniform(5, 7, 1), 64)
        video[frame] += alpha[0] * (colour - video[frame])
    return video.round().astype(np.uint8)


def backwards(clip, rng):
    return clip.video[::-1]


def shuffled(clip, rng):
    return clip.video[rng.permutation(16)]


def still(clip, rng):
    return np.repeat(clip.video[:1], 16, 0)


def empty(clip, rng):
    return np.broadcast_to(clip.video[:1, :, :1, :1], clip.video.shape)


def untrained(vae_name):
    """A shipped VAE behind an untrained model."""
    vae = load_vae(find_model(vae_name))
    channels = vae.config.latent_channels
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, in_channels=channels, input_size=8, num_classes=8)
    return LattePipeline(Latte(config), vae, class_names=list(MOTIONS))


def judged(clips, change):
    rng = np.random.default_rng(0)
    return [examine(change(clip, rng)) for clip in clips]


def scored(videos, clips):
    return score_clips(videos, [clip.label for clip in clips], clips)


def test_clips_are_determined_by_seed_and_index():
    again, other = make_clip(5, 7), make_clip(6, 7)
    assert np.array_equal(again.video, CLIPS[7].video) and not np.array_equal(other.video, CLIPS[7].video)
    assert CLIPS[0].video.shape == (16, 3, 64, 64) and CLIPS[0].video.dtype == np.uint8
    assert {clip.motion for clip in CLIPS} == set(MOTIONS)
    assert {clip.shape for clip in CLIPS} == set(SHAPES) and {clip.colour for clip in CLIPS} == set(COLOURS)
    asked = make_clip(5, 7, motion="growing")
    assert (asked.motion, asked.shape, asked.colour) == ("growing", again.shape, again.colour)
    assert asked.caption == f"a {again.colour} {again.shape} growing"


def test_the_shape_stays_inside_the_frame():
    for clip in CLIPS:
        low, high = clip.trajectory.min(0) - clip.radius.max(), clip.trajectory.max(0) + clip.radius.max()
        assert (low > 0).all() and (high < 64).all(), clip.caption
    circle = next(clip for clip in CLIPS if clip.shape == "circle" and clip.motion == "left")
    assert examine(circle.video).trajectory == pytest.approx(circle.trajectory, abs=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_drawing_only_the_box_around_a_shape_changes_nothing(shape):
    y, x = np.mgrid[:64, :64] + 0.5
    for cx, cy, r in np.random.default_rng(0).uniform((-5, -5, 0.5), (69, 69, 25), (50, 3)):
        full = np.clip(0.5 - SHAPES[shape](x - cx, y - cy, r), 0, 1)
        assert np.array_equal(coverage(shape, np.array([[cx, cy]]), np.array([r]), 64)[0], full)


def test_examiner_is_right_on_real_clips():
    scores = scored([clip.video for clip in CLIPS[:200]], CLIPS[:200])
    assert scores["all_right"] >= 0.99 and scores["trajectory_error"] < 0.1
    assert scores["colour_constancy"] == scores["shape_constancy"] == 1.0 and set(scores["by_motion"]) == set(MOTIONS)


def test_examiner_is_right_on_reconstructions_by_the_shipped_vae():
    pipe = untrained("shapes/vae")
    clips = CLIPS[:24]
    videos = reconstruct(pipe, torch.stack([torch.from_numpy(clip.video) for clip in clips]))
    scores = scored(list(videos.numpy()), clips)
    assert scores["all_right"] >= 0.97 and scores["trajectory_error"] < 0.3 and scores["shape_constancy"] == 1.0


@pytest.mark.parametrize("change", [degraded, jittering])
def test_examiner_accepts_imperfect_clips(change):
    clips, rng = CLIPS[:96], np.random.default_rng(0)
    scores = scored([change(clip, rng) for clip in clips], clips)
    assert scores["all_right"] >= 0.97 and scores["shape_constancy"] >= 0.998


@pytest.mark.parametrize("change", [grey, pale, two_coloured, flickering])
def test_an_invalid_colour_is_reported_as_none(change):
    found = judged(FEW, change)
    assert np.mean([f.colour == "none" for f in found]) > 0.95
    assert np.mean([f.motion == clip.motion for f, clip in zip(found, FEW)]) > 0.95  # the motion is still right
    expected = 0.75 if change is flickering else 0.0
    assert np.mean([f.colour_constancy for f in found]) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("motion", ["left", "shrinking", "growing"])
@pytest.mark.parametrize(("before", "after"), [("square", "star"), ("star", "triangle"), ("square", "circle")])
def test_a_changing_outline_lowers_shape_constancy(before, after, motion):
    clip = next(clip for i in range(50) if (clip := make_clip(5, i, motion)).shape == before)
    for changed in (1, 4, 7):
        other = redraw(replace(clip, shape=after), colour_levels(clip.colour))
        found = examine(np.concatenate([clip.video[:-changed], other[-changed:]]))
        # for circles and squares, up to two small frames count as both
        assert found.shape_constancy == pytest.approx(1 - changed / 16, abs=1 / 16 if after == "circle" else 0)
        assert found.colour == clip.colour


def rounded(frame):
    """A frame (3, h, w) whose shape was blurred and cut at its own area, as a weak VAE draws small shapes."""
    frame = torch.from_numpy(frame).float()
    background = frame[:, :1, :1]
    inside = (frame - background).abs().amax(0)
    weights = torch.exp(-(torch.arange(-4, 5).float() ** 2) / 2)
    kernel = weights[:, None] * weights / weights.sum() ** 2
    blurred = torch.nn.functional.conv2d(inside[None, None], kernel[None, None], padding=4)[0, 0]
    colour = frame.flatten(1)[:, inside.argmax()]
    level = blurred.flatten().topk(int((inside > 20).sum())).values[-1]
    return torch.where(blurred >= level, colour[:, None, None], background).byte().numpy()


def test_small_rounded_frames_do_not_lower_shape_constancy():
    """A small star may be drawn so round that a circle overlaps it better."""
    stars = [clip for i in range(20) if (clip := make_clip(6, i, "growing")).shape == "star"][:2]
    for clip in stars:
        video = clip.video.copy()
        video[:2] = [rounded(frame) for frame in video[:2]]
        assert examine(np.repeat(video[:1], 16, 0)).shape == "circle"
        assert examine(video).shape_constancy == 1.0


@pytest.mark.parametrize("change", [frozen, swapped, neighbours_swapped, displaced, shuffled, still])
def test_an_invalid_motion_is_reported_as_none(change):
    found = judged(FEW, change)
    assert np.mean([f.motion == "none" and np.isnan(f.fit_error) for f in found]) > 0.95
    assert np.mean([f.colour == clip.colour for f, clip in zip(found, FEW)]) > 0.95


def test_a_clip_played_backwards_moves_the_opposite_way():
    found = judged(FEW, backwards)
    assert [f.motion for f in found] == [OPPOSITE[clip.motion] for clip in FEW]


def test_a_second_object_is_counted():
    found = judged(FEW, with_second_object)
    assert np.mean([f.count == 2 for f in found]) > 0.95
    assert all(f.count == 1 for f in judged(FEW, backwards))


def test_winding_objects_are_counted():
    mask = np.zeros((3, 64, 64), bool)
    mask[0, 4:60:4] = True  # bars connected at alternating ends: one object
    for i, row in enumerate(range(4, 56, 4)):
        mask[0, row : row + 4, -1 if i % 2 else 0] = True
    mask[1, 4:60:8] = True
    mask[2, 10:20, 10:20] = mask[2, 20:30, 20:30] = mask[2, 50:53, 50:53] = (
        True  # corners do not connect; the last is a speck
    )
    assert count_objects(mask).tolist() == [1, 7, 2]


def test_an_empty_clip_shows_nothing():
    found = judged(FEW[:1], empty)[0]
    assert (found.motion, found.colour, found.shape, found.count) == ("none", "none", "none", 0)
    assert np.isnan(found.trajectory).all() and found.colour_constancy == found.shape_constancy == 0


def test_scores_are_valid_json_even_if_no_clip_was_judged():
    nothing = empty(CLIPS[0], None)
    for truths in (None, CLIPS[:1]):
        scores = score_clips([nothing], [0], truths)
        assert json.loads(json.dumps(scores, allow_nan=False))["trajectory_error"] is None
        assert scores["colour_shares"]["none"] == 1 and scores["colour_entropy"] == 0
    samples = score_clips([nothing], [CLIPS[0].label])
    lines = score_table({"real clips": scored([CLIPS[0].video], CLIPS[:1]), "samples": samples})
    assert [line.split()[-1] for line in lines.splitlines()[1:3]] == ["1", "0.000"]
    assert f"  {CLIPS[0].motion} " in lines and lines.splitlines()[-1].split()[-1] == "-"


@pytest.mark.parametrize("video", [np.zeros((16, 64, 64, 3)), np.zeros((16, 3, 64, 32), np.uint8), b""])
def test_wrong_input_is_rejected(video):
    with pytest.raises(ValueError, match="uint8"):
        examine(video)
