"""The report of `latte ablate` has correct numbers, and the sample scores behave as expected."""

import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ablation_grids import grid_of, write_scores

from latte.eval.ablate.report import settings_text, write_report
from latte.eval.ablate.runs import MEASUREMENTS, OLD_MEASUREMENTS
from latte.eval.ablate.scores import ClipGeometry, Samples, distance_scores, examiner_scores, real_clips
from latte.eval.ablate.tables import compare_arms, mean_and_deviation
from latte.shapes.clip_scores import score_clips
from latte.shapes.draw import make_clip
from latte.train.data.folders import open_clips


@pytest.mark.parametrize("measurements", [MEASUREMENTS, OLD_MEASUREMENTS])
def test_the_report_has_the_numbers_computed_by_hand(measurements, tmp_path):
    """Also for a folder from before the measurements file was renamed."""
    grid = grid_of(tmp_path, names=("temporal-position",), seeds=(0, 1, 2))
    numbers = {"sincos": [0.5, 0.625, 0.75], "rope": [0.25, 0.5, 0.5]}
    write_scores(grid, numbers, measurements)
    report, page = write_report(grid, {})
    text = report.read_text()
    for arm, row in numbers.items():
        cell = f"{statistics.mean(row):.3f} ± {statistics.stdev(row):.3f}"
        assert f"| {arm} | 3 | 2.00 | {1 - statistics.mean(row):.4f} ± {statistics.stdev(row):.4f} | {cell} |" in text
    leads = [a - b for a, b in zip(*numbers.values())]
    half = 4.303 * statistics.stdev(leads) / math.sqrt(3)
    assert f"motion {statistics.mean(leads):+.3f} ± {half:.3f}: holds" in text
    pictures = [grid.folder / name for name in re.findall(r"\((\S+\.png)\)", text)]
    assert len(pictures) == 2 and page.read_text().count("data:image/webp;base64,") == 2
    assert "http" not in page.read_text() and all(path.stat().st_size < 100_000 for path in pictures)


@pytest.mark.parametrize(
    ("better", "worse", "sign", "expected"),
    [
        ([3, 4, 5], [1, 1, 1], 1, (3.0, 4.303 / 3**0.5, "holds")),
        ([1, 1, 1], [3, 4, 5], 1, (-3.0, 4.303 / 3**0.5, "reversed")),
        ([1, 1, 1], [3, 4, 5], -1, (3.0, 4.303 / 3**0.5, "holds")),
        ([1, 4, 5], [1, 1, 9], 1, (-1 / 3, 4.303 * 3.5118846 / 3**0.5, "open")),
        ([1, 2], [1, 2], 1, (0.0, 0.0, "open")),
        ([5], [1], 1, (4.0, math.inf, "open")),
    ],
)
def test_verdicts(better, worse, sign, expected):
    lead, half, word = compare_arms(dict(enumerate(better)), dict(enumerate(worse)), sign)
    assert (lead, half) == pytest.approx(expected[:2]) and word == expected[2]


def test_comparisons_pair_seeds_that_both_arms_have():
    assert compare_arms({0: 5.0, 1: 2.0, 7: 9.0}, {1: 1.0, 0: 3.0}, 1)[0] == 1.5
    assert mean_and_deviation([2.0])[0] == 2.0 and math.isnan(mean_and_deviation([2.0])[1])


def test_longer_motions_are_scored_by_their_visible_part(tmp_path):
    """Every third frame of a three times longer motion is the motion itself; a partial clip is scored as partial."""
    base = grid_of(tmp_path).base
    whole = make_clip(0, 5, frames=base.num_frames, size=base.image_size)
    third = open_clips(base).clip(5, torch.Generator())
    assert np.array_equal(whole.video, ((third.video + 1) * 127.5).round().byte().numpy())
    for interval, least in ((1, 0.8), (2, 0.95), (3, 1.0)):
        geometry = ClipGeometry.of(replace(base, frame_interval=interval))
        clips = real_clips(geometry, 32)
        videos, labels = [clip.video for clip in clips], [clip.label for clip in clips]
        assert videos[0].shape == (base.num_frames, 3, base.image_size, base.image_size)
        assert score_clips(videos, labels, extent=geometry.extent)["motion_accuracy"] >= least
        assert interval > 1 or score_clips(videos, labels)["motion_accuracy"] < 0.3


def test_measures_of_samples(tmp_path):
    """Real clips have good scores and a small distance; with their frames shuffled they have neither."""
    geometry = ClipGeometry.of(grid_of(tmp_path).base)
    clips = real_clips(geometry, 16)
    videos = torch.stack([torch.from_numpy(clip.video) for clip in clips])
    near, far = (Samples(geometry, videos[:, order], clips) for order in (list(range(8)), [3, 6, 1, 0, 7, 2, 5, 4]))
    assert examiner_scores(near)["motion_accuracy"] == examiner_scores(far)["real_motion_accuracy"] == 1.0
    assert examiner_scores(far)["motion_accuracy"] < 0.3
    assert distance_scores(far)["shapes_distance"] > 2 * distance_scores(near)["shapes_distance"] > 0
    assert examiner_scores(near._replace(real=[])) == distance_scores(near._replace(real=[])) == {}


def test_documented_ablations_match_the_generated_text(tmp_path):
    lines = (Path(__file__).parents[3] / "docs/ablations/README.md").read_text().splitlines()
    grid = replace(grid_of(tmp_path), seeds=(0, 1, 2), num_videos=64)
    assert all(text in lines for text in settings_text(grid))
    for name, ablation in grid.ablations.items():
        assert f"## {ablation.title}" in lines
        assert f"`{name}`. The paper: {ablation.finding} {ablation.note}".rstrip() in lines
