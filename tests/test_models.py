"""The networks: properties that hold for every variant and every option of the configuration."""

import shutil

import pytest
import torch

from latte.models.attention import AxialAttention
from latte.models.latte import Latte, LatteConfig

TINY = dict(depth=4, hidden_size=48, num_heads=4, input_size=8, num_frames=4, num_classes=5)
OPTIONS = [{"variant": v} for v in (1, 2, 3, 4)] + [
    {"conditioning": "tokens"},
    {"temporal_pos": "rope"},
    {"tubelet": 2},
    {"variant": 4, "temporal_pos": "rope", "conditioning": "tokens"},
]
NAMES = ["-".join(f"{k}={v}" for k, v in option.items()) for option in OPTIONS]
every_option = pytest.mark.parametrize("option", OPTIONS, ids=NAMES)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, T, Y = draw(0, 2, 4, 4, 8, 8), torch.tensor([3, 977]), torch.tensor([1, 5])


def warm(**option) -> Latte:
    """A model whose every weight counts: a fresh one gives zeros."""
    model = Latte(LatteConfig(**{**TINY, **option})).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.data = 0.1 * draw(i, *parameter.shape)
    return model


@every_option
def test_fresh_model_gives_zeros_and_fresh_blocks_are_the_identity(option):
    model = Latte(LatteConfig(**{**TINY, **option}))
    assert torch.equal(model(X, T, Y), torch.zeros(2, 4, 8, 8, 8))
    if model.config.conditioning == "adaln":
        tokens = draw(1, 2, 4, 16, 48)
        assert torch.equal(model.blocks[0](tokens, draw(2, 2, 1, 48)), tokens)


@every_option
def test_every_token_sees_every_other(option):
    model, moved = warm(**option), X.clone()
    moved[:, 0, :, 0, 0] += 1
    change = model(moved, T, Y) - model(X, T, Y)
    assert change[:, -1, :, -1, -1].abs().min() > 1e-7


@every_option
def test_timestep_class_and_time_order_matter(option):
    model = warm(**option)
    out = model(X, T, Y)
    assert (model(X, T + 1, Y) - out).abs().max() > 1e-5
    assert (model(X, T, torch.tensor([2, 5])) - out)[0].abs().max() > 1e-5
    swapped = model(X.flip(1), T, Y).flip(1)
    assert (swapped - out).abs().max() > 1e-5


@every_option
def test_samples_of_a_batch_do_not_mix(option):
    model = warm(**option)
    torch.testing.assert_close(model(X[1:], T[1:], Y[1:]), model(X, T, Y)[1:], rtol=1e-4, atol=1e-5)


@every_option
def test_gradient_checkpointing_changes_no_number(option):
    model = warm(**option).train()
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        model.gradient_checkpointing = recompute
        model(X, T, Y).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(map(torch.equal, *gradients))


@every_option
def test_any_frame_count_and_size(option):
    model = warm(**option)
    assert model(draw(3, 1, 6, 4, 12, 4), T[:1], Y[:1]).shape == (1, 6, 8, 12, 4)


def test_unconditional_and_fixed_variance():
    model = warm(num_classes=0, learn_sigma=False)
    assert model(X, T).shape == X.shape
    assert len(warm(class_dropout_prob=0.0).condition.label.weight) == TINY["num_classes"]


@pytest.mark.parametrize("option", [o for o in OPTIONS if "tubelet" not in o])
def test_still_images_pass_no_time(option):
    """In a joint batch the clip is as it is without images, and an image as in a batch of its own."""
    model, stills = warm(**option), draw(4, 2, 2, 4, 8, 8)
    y = torch.cat([Y[:, None], torch.tensor([[0, 2], [3, 4]])], 1)
    joint = model(torch.cat([X, stills], 1), T, y, num_images=2)
    torch.testing.assert_close(joint[:, :4], model(X, T, Y), rtol=1e-4, atol=1e-5)
    other = model(torch.cat([X + 1, stills.flip(1)], 1), T, torch.cat([y[:, :1], y[:, 1:].flip(1)], 1), num_images=2)
    torch.testing.assert_close(joint[:, 4:], other[:, 4:].flip(1), rtol=1e-4, atol=1e-5)


def test_rotary_positions_are_relative():
    attention = AxialAttention(16, 2, "temporal", rope=True)
    x = draw(5, 1, 3, 2, 16).repeat(1, 2, 1, 1)[:, :5]
    weights = torch.zeros(1, 5, 2, 16)
    weights[:, 1:4] = x[:, 1:4]
    shifted = torch.roll(weights, 1, dims=1)
    keep = attention(weights[:, 1:4])
    torch.testing.assert_close(attention(shifted[:, 2:5]), keep)
    assert (AxialAttention.forward(attention, x) - attention(x.flip(1)).flip(1)).abs().max() > 1e-4


def test_parameters_of_the_published_sizes():
    """Against the reference's state dict less its position tables (262,144 + ... of spec: computed here)."""
    published = {"S": 32_585_120, "B": 129_755_936, "L": 457_094_176, "XL": 673_994_912}
    for size, count in published.items():
        config = LatteConfig.named(f"Latte-{size}/2")
        with torch.device("meta"):
            own = sum(p.numel() for p in Latte(config).parameters())
        assert own + (256 + 16) * config.hidden_size == count
    assert [LatteConfig.named(f"Latte-{s}/2", v).depth for v in (3, 4) for s in ["S", "B", "L", "XL"]] == [
        10,
        10,
        20,
        23,
    ] * 2


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_compiles_whole(variant):
    model = warm(variant=variant)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X, T, Y), model(X, T, Y))


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler for inductor")
def test_compiled_by_inductor_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = warm(variant=3, depth=1)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(X, T, Y), model(X, T, Y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "say"),
    [
        (X[..., :7], Y, "cannot be cut into patches of 2 x 2"),
        (X[:, :, :3], Y, "expected \\(b, f, 4, h, w\\)"),
        (X, None, "class-conditional"),
        (X, Y[:1], "class-conditional"),
    ],
)
def test_wrong_input_is_told(x, y, say):
    with pytest.raises(ValueError, match=say):
        warm()(x, T, y)


@pytest.mark.parametrize(
    ("option", "say"),
    [
        ({"variant": 5}, "variant"),
        ({"depth": 3}, "even depth"),
        ({"hidden_size": 50}, "heads"),
        ({"variant": 4, "num_heads": 3}, "odd"),
        ({"conditioning": "film"}, "conditioning"),
        ({"temporal_pos": "learned"}, "temporal_pos"),
    ],
)
def test_wrong_configuration_is_told(option, say):
    with pytest.raises(ValueError, match=say):
        LatteConfig(**{**TINY, **option})
