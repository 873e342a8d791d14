"""Latte configurations: published sizes, initial weights, and rejected values."""

import pytest
import torch
from small_latte import TINY, T, X, Y, warm

from latte.models.denoiser import check_latents
from latte.models.latte import Latte, LatteConfig


def test_sizes_of_the_initial_weights():
    model = Latte(LatteConfig(**{**TINY, "hidden_size": 192, "num_classes": 300, "mlp_ratio": 2.0}))
    assert model.blocks[0].mlp.fc1.out_features == 384
    qkv = model.blocks[0].attns[0].qkv.weight
    bound = (6 / (192 + 3 * 192)) ** 0.5
    assert 0.98 * bound < qkv.abs().max() <= bound
    for table in (model.condition.label.weight, model.condition.time.mlp[0].weight, model.condition.time.mlp[2].weight):
        assert table.std().item() == pytest.approx(0.02, rel=0.05)


def test_num_images_must_be_less_than_the_number_of_frames():
    for batch, frames in ((1, 4), (9, 4)):
        x, t = torch.zeros(batch, frames, 4, 2, 2), torch.zeros(batch)
        check_latents(x, t, (4,), 2, num_images=3)
        for many in (4, -1):
            with pytest.raises(ValueError, match=f"num_images is {many} of 4 frames"):
                check_latents(x, t, (4,), 2, num_images=many)


def test_the_largest_sizes_by_default():
    assert LatteConfig(num_frames=16, input_size=2048).input_size == 2048
    with pytest.raises(ValueError, match="make 67174416 values, which are too many"):
        LatteConfig(num_frames=16, input_size=2049)


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("S/2", 0, 32_585_120),
        ("B/2", 0, 129_755_936),
        ("L/2", 0, 457_094_176),
        ("XL/2", 0, 673_994_912),
        ("XL/4", 0, 673_939_712),
        ("XL/8", 0, 674_548_352),
        ("XL/2", 101, 674_112_416),
    ],
)
def test_parameters_of_the_published_sizes(name, classes, count):
    """The published files also hold two position tables, of (32 / patch)^2 and 16 rows, which are computed here."""
    config = LatteConfig.from_name(f"Latte-{name}", num_classes=classes)
    with torch.device("meta"):
        own = sum(p.numel() for p in Latte(config).parameters())
    assert own + ((32 // config.patch_size) ** 2 + 16) * config.hidden_size == count


def test_depths_of_variants_3_and_4():
    depths = [LatteConfig.from_name(f"Latte-{size}/2", v).depth for v in (3, 4) for size in ("S", "B", "L", "XL")]
    assert depths == [10, 10, 20, 23] * 2
    for name in ("Latte-M/2", "Latte-S/3", "Latte-S"):
        with pytest.raises(ValueError, match="expected Latte-"):
            LatteConfig.from_name(name)


@pytest.mark.parametrize(
    ("x", "y", "say"),
    [
        (X[..., :7], Y, "cannot be cut into patches of 2 x 2"),
        (X[..., :0], Y, "cannot be cut into patches"),
        (X[:, :, :3], Y, "expected \\(b, f, 4, h, w\\)"),
        (X, None, "class-conditional"),
        (X, Y[:1], "class-conditional"),
        (X, Y.float(), "whole numbers"),
    ],
)
def test_wrong_input_is_rejected(x, y, say):
    with pytest.raises(ValueError, match=say):
        warm()(x, T, y)


def test_wrong_calls_are_rejected():
    for t in (T[0], T[:1], T[:, None]):
        with pytest.raises(ValueError, match="one per sample"):
            warm()(X, t, Y)
    with pytest.raises(ValueError, match="unconditional"):
        warm(num_classes=0)(X, T, Y)
    with pytest.raises(ValueError, match="tubelets of 2"):
        warm(tubelet=2)(X[:, :3], T, Y)
    for option, images in (({"tubelet": 2}, 2), ({}, 4), ({}, -1)):
        with pytest.raises(ValueError, match="num_images"):
            warm(**option)(X, T, Y, num_images=images)


@pytest.mark.parametrize(
    ("option", "say"),
    [
        ({"variant": 5}, "variant"),
        ({"depth": 3}, "even depth"),
        ({"depth": 3, "variant": 2}, "even depth"),
        ({"hidden_size": 50}, "heads"),
        ({"variant": 4, "num_heads": 3}, "odd"),
        ({"conditioning": "film"}, "conditioning"),
        ({"temporal_pos": "learned"}, "temporal_pos"),
        ({"prediction": "x0"}, "prediction"),
    ],
)
def test_wrong_configuration_is_rejected(option, say):
    with pytest.raises(ValueError, match=say):
        LatteConfig(**{**TINY, **option})
