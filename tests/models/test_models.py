"""The networks: properties that hold for every variant and configuration option."""

import numpy as np
import pytest
import torch
from small_latte import TINY, T, X, Y, draw, warm
from torch.utils._python_dispatch import TorchDispatchMode

from latte.models import attention as attention_module
from latte.models.attention import AxialAttention, rotate
from latte.models.block import AdaLN
from latte.models.denoiser import Condition
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig

OPTIONS = [{"variant": v} for v in (1, 2, 3, 4)] + [
    {"conditioning": "tokens"},
    {"temporal_pos": "rope"},
    {"tubelet": 2},
    {"variant": 4, "temporal_pos": "rope", "conditioning": "tokens"},
]
NAMES = ["-".join(f"{k}={v}" for k, v in option.items()) for option in OPTIONS]
every_option = pytest.mark.parametrize("option", OPTIONS, ids=NAMES)


def place(at: int, stride: float, dim: int) -> np.ndarray:
    """DiT's sin-cos position of a row or a column: dim / 2 numbers."""
    angles = at * stride / 10000 ** (np.arange(dim // 4) / (dim // 4))
    return np.concatenate([np.sin(angles), np.cos(angles)])


@pytest.mark.parametrize("text", [False, True])
def test_tokens_are_float32_under_autocast(text):
    shape = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "caption_channels": 8}
    model = LatteT2V(LatteT2VConfig(**shape, sample_size=8, video_length=2)) if text else Latte(LatteConfig(**TINY))
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(1, 2, 4, 8, 8)
        assert model.embed_patches(x).dtype == torch.bfloat16
        assert model.embed(x, Condition(x, x)).dtype == torch.float32


@pytest.mark.parametrize(("text", "stride"), [(False, (1, 1)), (True, (4 / 3, 4 / 5))])
def test_spatial_positions_for_other_sizes(text, stride):
    """For 3 x 5 patches where the model has 4 x 4: columns first; LatteT2V stretches both to its own side."""
    shape = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "caption_channels": 8}
    shape |= {"sample_size": 8, "patch_size": 2, "video_length": 4}
    model = LatteT2V(LatteT2VConfig(**shape)) if text else Latte(LatteConfig(**TINY))
    torch.nn.init.zeros_(model.patch_embed.weight)
    torch.nn.init.zeros_(model.patch_embed.bias)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    model(torch.randn(1, 4, 4, 6, 10), T[:1], torch.randn(1, 3, 8) if text else Y[:1])
    wanted = [np.concatenate([place(c, stride[1], 48), place(r, stride[0], 48)]) for r in range(3) for c in range(5)]
    assert seen[0].shape == (1, 4, 15, 48)
    assert np.allclose(seen[0][0, 2].detach().numpy(), np.array(wanted), atol=1e-5)


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
def test_samples_of_a_batch_are_independent(option):
    model = warm(**option)
    torch.testing.assert_close(model(X[1:], T[1:], Y[1:]), model(X, T, Y)[1:], rtol=1e-4, atol=1e-5)


@every_option
def test_gradient_checkpointing_computes_twice_and_changes_no_number(option):
    model, images = warm(**option).train(), 0 if "tubelet" in option else 2
    calls, results = [], []
    model.blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for recompute in (False, True):
        model.zero_grad()
        model.gradient_checkpointing = recompute
        out = model(X, T, Y, num_images=images)
        out.square().mean().backward()
        results.append([out, *(parameter.grad.clone() for parameter in model.parameters())])
        assert len(calls) == (3 if recompute else 1) * (2 if images else 1)  # clip and images pass separately
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_option
def test_half_precision(option, dtype):
    exact, half = warm(**option), warm(**option).to(dtype)
    out = half(X, T, Y)
    assert out.dtype == dtype and (out - exact(X, T, Y)).norm() < 0.03 * exact(X, T, Y).norm()


@every_option
def test_any_frame_count_and_size(option):
    model = warm(**option)
    assert model(draw(3, 1, 6, 4, 12, 4), T[:1], Y[:1]).shape == (1, 6, 8, 12, 4)


def test_layers_marked_as_full_precision():
    layers = [name for name, layer in warm().named_modules() if getattr(layer, "full_precision", False)]
    modulations = [f"blocks.{i}.modulation" for i in range(4)]
    assert layers == ["condition.time", *modulations, "final_modulation", "final_linear"]
    shape = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 24, "caption_channels": 8}
    model = LatteT2V(LatteT2VConfig(**shape))
    layers = [name for name, layer in model.named_modules() if getattr(layer, "full_precision", False)]
    assert layers == ["time", "time_modulation", "final_linear"]


def test_unconditional_and_fixed_variance():
    model = warm(num_classes=0, learn_sigma=False)
    assert model(X, T).shape == X.shape
    assert len(warm(class_dropout_prob=0.0).condition.label.weight) == TINY["num_classes"]


@every_option
def test_without_temporal_attention_frames_are_independent_images(option):
    model = warm(**option)
    condition = model.class_condition(model.condition(T, Y))
    out = model.denoise(X, condition, temporal=False)
    q = model.tubelet
    parts = [model.denoise(X[:, i : i + q], condition, temporal=False) for i in range(0, X.shape[1], q)]
    torch.testing.assert_close(out, torch.cat(parts, 1), rtol=1e-4, atol=1e-5)
    assert (model.denoise(X, condition) - out).abs().max() > 1e-4


@pytest.mark.parametrize("option", [o for o in OPTIONS if "tubelet" not in o])
def test_still_images_skip_temporal_attention(option):
    """In a joint batch the clip does not depend on the images, nor an image on the rest of the batch."""
    model, stills = warm(**option), draw(4, 2, 2, 4, 8, 8)
    y = torch.cat([Y[:, None], torch.tensor([[0, 2], [3, 4]])], 1)
    joint = model(torch.cat([X, stills], 1), T, y, num_images=2)
    torch.testing.assert_close(joint[:, :4], model(X, T, Y), rtol=1e-4, atol=1e-5)
    other = model(torch.cat([X + 1, stills.flip(1)], 1), T, torch.cat([y[:, :1], y[:, 1:].flip(1)], 1), num_images=2)
    torch.testing.assert_close(joint[:, 4:], other[:, 4:].flip(1), rtol=1e-4, atol=1e-5)


def test_rotary_positions_are_relative():
    q, k = (draw(seed, 1, 1, 1, 2, 8).expand(1, 5, 1, 2, 8) for seed in (5, 6))
    q, k = rotate(q, k)
    scores = torch.einsum("bishe,bjshe->hij", q, k)
    for offset in range(-3, 4):
        diagonal = scores.diagonal(offset, 1, 2)
        torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal))
    assert scores[:, 0].diff(dim=1).abs().min() > 1e-3  # and they do depend on the distance
    torch.testing.assert_close(q[:, 0], draw(5, 1, 1, 1, 2, 8)[:, 0])


def test_rope_rotates_only_queries_and_keys_of_temporal_attention():
    seen = []
    for kind in ("spatial", "temporal"):
        for rope in (False, True):
            torch.manual_seed(0)
            attention = AxialAttention(16, 2, kind, rope)
            attention.attend = lambda q, k, v: (seen.append((q, k, v)), v)[1]
            attention(draw(7, 1, 5, 3, 16))
    plain, same, straight, turned = seen
    assert all(map(torch.equal, plain, same))
    assert torch.equal(straight[2], turned[2])
    assert not torch.allclose(straight[0], turned[0]) and not torch.allclose(straight[1], turned[1])


def test_variants_are_built_as_the_paper_says():
    kinds = {v: [block.kinds for block in warm(variant=v).blocks] for v in (1, 2, 3, 4)}
    assert kinds == {1: ["s", "t", "s", "t"], 2: ["s", "s", "t", "t"], 3: ["st"] * 4, 4: ["|"] * 4}
    split, x = warm(variant=4).blocks[0].attns[0], draw(8, 1, 4, 6, 48)
    assert (split.spatial.heads, split.temporal.heads) == (2, 2)
    torch.testing.assert_close(split(x), split.spatial(x) + split.temporal(x))


@pytest.mark.parametrize(("variant", "before"), [(1, 1), (2, 2), (3, 0), (4, 0)])
def test_temporal_position_is_added_once_before_the_first_block_that_needs_it(variant, before):
    model, seen = warm(variant=variant), []
    inputs = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    add_position = model.add_temporal_position
    model.add_temporal_position = lambda x: (seen.append(len(inputs)), add_position(x))[1]
    model(X, T, Y)
    assert seen == [before]


def test_attention_with_many_heads_is_split(monkeypatch):
    q, k, v = (draw(seed, 2, 7, 5, 4) for seed in (1, 2, 3))
    whole = attention_module.attend(q, k, v)
    monkeypatch.setattr(attention_module, "MAX_HEADS_PER_CALL", 3)
    torch.testing.assert_close(attention_module.attend(q, k, v), whole)


class Operations(TorchDispatchMode):
    """Records the operators that a network dispatches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_attention_copies_no_layout(kind):
    attention, x = AxialAttention(16, 2, kind), draw(7, 2, 5, 3, 16)
    with torch.no_grad(), Operations() as seen:
        attention(x)
    assert not {"clone", "copy_", "_to_copy", "contiguous"} & set(seen.names), seen.names


@every_option
def test_forward_never_syncs_and_projects_conditioning_once_per_sample(option):
    model, rows = warm(**option), []
    for module in model.modules():
        if isinstance(module, AdaLN):
            module.linear.register_forward_hook(lambda _, args, out: rows.append(args[0].shape[:-1].numel()))
    with torch.no_grad(), Operations() as seen:
        model(X, T, Y)
    assert not {"_local_scalar_dense", "nonzero", "item", "is_nonzero"} & set(seen.names)
    assert set(rows) <= {len(X)}


def test_frames_of_a_tubelet_are_in_order():
    model = warm(tubelet=2)
    with torch.no_grad():
        model.upsample.weight.zero_()
        for frame in range(2):
            model.upsample.weight[:, :, frame, 0, 0] = (frame + 1) * torch.eye(8)
        model.upsample.bias.zero_()
        out = model(X, T, Y)
    torch.testing.assert_close(out[:, 1::2], 2 * out[:, ::2])
    assert out[:, 0].abs().max() > 0 and not torch.allclose(out[:, 0], out[:, 2])


@every_option
def test_compiles_without_graph_breaks(option):
    """In evaluation mode."""
    torch.compiler.reset()
    model = warm(**{"depth": 2 if option.get("variant", 1) < 3 else 1, **option})
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(X, T, Y), model(X, T, Y))


@pytest.mark.parametrize(
    "option", [{}, {"variant": 3}, {"variant": 4, "conditioning": "tokens", "temporal_pos": "rope"}]
)
def test_training_compiles_without_graph_breaks(option):
    """With images and recomputation, and every kind of block, modulation and position."""
    torch.compiler.reset()
    model = warm(**{"depth": 1 if option else 2, **option}).train()
    model.gradient_checkpointing = True
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(X, T, Y, 1), model(X, T, Y, 1))
