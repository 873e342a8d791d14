"""Precision, recall, density and coverage: small worked examples, and sets of known kinds."""

import json
from dataclasses import replace

import pytest
import torch

from latte.eval import FVDResult, manifold_scores
from latte.eval.manifold import radii
from latte.eval.statistics import FeatureSet
from latte.eval.video_comparison import compare_given


def points(*values):
    return torch.tensor([[value] for value in values], dtype=torch.float64)


def scores(*sides, **options):
    return tuple(manifold_scores(*sides, **options).values())


def draws(seed, count, width=8):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_worked_example_on_a_line():
    """With k = 1 the real balls are [-1, 1], [0, 2], [1, 5], the generated ones [1.5, 2.5], [2, 3], [2.5, 17.5]."""
    real, generated = points(0, 1, 3), points(2, 2.5, 10)
    assert radii(real, 1, 2).tolist() == [1, 1, 2] and radii(generated, 1, 2).tolist() == [0.5, 0.5, 7.5]
    found = manifold_scores(real, generated, neighbours=1)
    # 2 lies in two real balls, at the edge of one; 2.5 in one; 10 in none. Only the real 3 lies in a generated one.
    assert found == pytest.approx({"precision": 2 / 3, "recall": 1 / 3, "density": (2 + 1 + 0) / 3, "coverage": 2 / 3})
    # with k = 2 the real balls are [-3, 3], [-1, 3], [0, 6], the generated ones [-6, 10], [-5, 10], [2, 18]
    found = manifold_scores(real, generated, neighbours=2)
    assert found == pytest.approx({"precision": 2 / 3, "recall": 1, "density": (3 + 3 + 0) / (2 * 3), "coverage": 1})


def test_an_outlier_raises_precision_but_not_density():
    """The figure of Naeem et al.: generated features near one real outlier lie only in its ball."""
    real = torch.cat([draws(0, 60, 2) / 10, torch.tensor([[9.0, 0.0]]).double()])
    generated = torch.tensor([[9.0, 0.0]]).double() + draws(1, 50, 2)
    found = manifold_scores(real, generated)
    assert found["precision"] == 1 and found["recall"] <= 1 / 61
    assert found["density"] == pytest.approx(1 / 5) and found["coverage"] == pytest.approx(1 / 61)


def test_scores_of_identical_disjoint_and_rescaled_sets():
    real = draws(0, 300)
    assert scores(real, real) == (1, 1, pytest.approx(6 / 5), 1)  # each lies in its own ball, and in five on average
    assert scores(real, real + 100) == (0, 0, 0, 0)
    alike = manifold_scores(real, draws(1, 300))
    assert alike["precision"] == pytest.approx(alike["recall"], abs=0.1)
    assert alike["density"] == pytest.approx(1, abs=0.1) and alike["coverage"] == pytest.approx(1 - 2**-5, abs=0.03)
    centred = manifold_scores(real, draws(1, 300) / 4)  # good, but not diverse
    assert centred["precision"] == 1 and centred["density"] > 1.5
    assert centred["recall"] < 0.1 and centred["coverage"] < 0.7
    wide = manifold_scores(real, 3 * draws(1, 300))  # diverse, but bad
    assert wide["precision"] < 0.3 and wide["density"] < 0.1 and wide["recall"] > 0.9


def test_blocks_and_order_do_not_matter():
    real, generated = draws(0, 70), draws(1, 50).float()
    for block in (7, 64):
        assert scores(real, generated, block=block) == scores(real, generated)
    assert scores(real.flip(0), generated.flip(0)) == scores(real, generated)
    assert scores(real, generated)[:2] == scores(generated, real)[1::-1]


def test_invalid_inputs_are_rejected():
    few = draws(0, 5)
    for real, generated, neighbours, say in (
        (few, draws(1, 9), 5, r"5 nearest neighbours need more features .* not \[5, 8\] and \[9, 8\]"),
        (few, draws(1, 9, 4), 1, r"expected features \(n, d\) and \(m, d\), not \[5, 8\] and \[9, 4\]"),
        (few, few / 0, 1, "not finite"),
        (few, few, 0, "neighbours is 0"),
    ):
        with pytest.raises(ValueError, match=say):
            manifold_scores(real, generated, neighbours)


def test_comparing_features_includes_manifold_scores():
    real, generated = draws(0, 60), draws(1, 50)
    result = compare_given(FeatureSet({}, real, given=True), FeatureSet({}, generated, given=True))
    assert result.manifold == manifold_scores(real, generated)
    assert FVDResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert f"{result.manifold['precision']:.3f}   {result.manifold['recall']:.3f}" in str(result)
    moments = compare_given(FeatureSet({}, real), FeatureSet({}, FeatureSet({}, generated).moments(False)))
    few = compare_given(FeatureSet({}, real), FeatureSet({}, generated[:5]))
    assert moments.manifold is few.manifold is None and "precision" not in str(moments)
    with pytest.raises(ValueError, match="manifold is missing or damaged"):
        FVDResult.from_dict(replace(result, manifold={"precision": 1.0}).to_dict())
