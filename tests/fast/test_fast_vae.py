"""The fast paths of the VAE against the readable one: the same values, also after weights change."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from goldens import relative_error

from latte.eval.bench.vae_speed import vae_calls
from latte.fast.group_norm import norm_affine
from latte.fast.onednn import choose_products, onednn_is_faster
from latte.fast.switch import fast_paths
from latte.fast.upsample import difference_kernel, double_by_differences, double_by_phases, phase_kernel
from latte.fast.vae_layers import FastResample, FastResnetBlock, fast_vae, kernel_of, prepare, restore
from latte.fast.winograd import conv_1d, conv_2d, kernel_1d, kernel_2d
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.models.vae_blocks import ResnetBlock
from latte.weights.vae_folder import load_vae, save_vae

WIDE = VAEConfig(block_out_channels=(64, 96), layers_per_block=1)


@pytest.fixture(autouse=True)
def narrow_layers_too(monkeypatch):
    """Makes small networks take every path, on every processor."""
    monkeypatch.setattr("latte.fast.vae_layers.MIN_WORK", 0)
    monkeypatch.setattr("latte.fast.vae_layers.MIN_CHANNELS", 64)


def wide_vae(**changes):
    torch.manual_seed(0)
    vae = VideoVAE(AutoencoderKL(VAEConfig(**{**vars(WIDE), **changes}))).eval().requires_grad_(False)
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if name.endswith("mix_factor"):
                weight.fill_(0.3)
            elif "norm" in name:
                weight.add_(torch.randn_like(weight) / 4)
    return vae


def both_ways(function):
    with fast_paths(True):
        fast = function()
    with fast_paths(False):
        return fast, function()


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (4, 20), (9, 14), (1, 3), (33, 70), (130, 6)])
def test_convolution_by_tiles(size):
    torch.manual_seed(1)
    x, conv = torch.randn(1, 5, *size), torch.nn.Conv2d(5, 7, 3, padding=1)
    residual = torch.randn(*size, 7)
    with torch.no_grad():
        expected = conv(F.silu(x))[0].permute(1, 2, 0)
        out = torch.full((*size, 7), torch.nan)
        for added in (None, residual):
            fill = lambda part, target: target.copy_(F.silu(part))
            conv_2d(x[0].permute(1, 2, 0).contiguous(), kernel_2d(conv.weight), conv.bias, out, fill, added)
            assert relative_error(out, expected if added is None else expected + added) < 2e-6


@pytest.mark.parametrize("frames", [1, 3, 4, 6, 16])
@pytest.mark.parametrize("pixels", [1, 700])
def test_convolution_over_time_by_tiles(frames, pixels):
    torch.manual_seed(1)
    x, conv = torch.randn(frames, pixels, 5), torch.nn.Conv1d(5, 7, 3, padding=1)
    residual = torch.randn(frames, pixels, 7)
    with torch.no_grad():
        expected = conv(x.permute(1, 2, 0)).permute(2, 0, 1)
        out = torch.full((frames, pixels, 7), torch.nan)
        for added in (None, residual):
            conv_1d(x, kernel_1d(conv.weight), conv.bias, out, lambda part, target: target.copy_(part), added)
            assert relative_error(out, expected if added is None else expected + added) < 2e-6


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (40, 30)])
def test_convolution_of_a_doubled_image(size):
    torch.manual_seed(1)
    x, conv = torch.randn(2, 6, *size), torch.nn.Conv2d(6, 4, 3, padding=1)
    with torch.no_grad():
        expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        out = torch.full((2 * size[0], 2 * size[1], 4), torch.nan)
        for image, wanted in zip(x, expected):
            double_by_differences(image.permute(1, 2, 0).contiguous(), difference_kernel(conv.weight), conv.bias, out)
            assert relative_error(out.permute(2, 0, 1), wanted) < 2e-6
        assert relative_error(double_by_phases(x, phase_kernel(conv.weight), conv.bias), expected) < 2e-6


def test_group_norm_of_values_far_from_zero():
    torch.manual_seed(1)
    x, norm = torch.randn(5000, 64) * torch.rand(64) + 300, torch.nn.GroupNorm(8, 64)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    factor, shift = norm_affine(x.double(), norm.double())
    exact = norm(x.double().t()[None])[0].t()
    assert relative_error(x.double() * factor + shift, exact) < 1e-12
    norm.float()
    factor, shift = norm_affine(x, norm)
    assert relative_error(x.double() * factor.double() + shift.double(), exact) < 1e-4  # rounding of the shift
    assert relative_error(factor.double(), (exact[1] - exact[0]) / (x.double()[1] - x.double()[0])) < 1e-6


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_fast_vae_matches_the_readable_network(temporal, size):
    vae = prepare(wide_vae(temporal_decoder=temporal))
    video = torch.randn(1, 3, 3, *(2 * side for side in size), generator=torch.Generator().manual_seed(1))
    latents = torch.randn(2, 3, 4, *size, generator=torch.Generator().manual_seed(2))
    for function in (lambda: vae.decode(latents), lambda: torch.cat(vae.posterior(video))):
        fast, plain = both_ways(function)
        assert relative_error(fast, plain) < 1e-5 and not torch.equal(fast, plain)
    alone = vae.decode(latents[1:])
    assert torch.equal(alone[0], vae.decode(latents)[1])
    vae.set_chunk(1)
    torch.testing.assert_close(vae.decode(latents[1:]), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_the_readable_network(dtype):
    vae = prepare(wide_vae())
    latents = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    exact = vae.decode(latents)
    vae.to(dtype)
    fast, plain = both_ways(lambda: vae.decode(latents))
    assert fast.dtype == dtype and fast.shape == plain.shape
    assert relative_error(fast.float(), exact) < 1.2 * relative_error(plain.float(), exact) + 1e-4


def test_overflow_is_redone_in_float32_by_the_fast_path():
    vae = prepare(wide_vae())
    latents = 1e6 * torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    exact = vae.decode(latents)
    vae.half()
    with pytest.warns(UserWarning, match="float32"):
        half = vae.decode(latents)
    assert relative_error(half.float(), exact) < 0.01 and next(vae.parameters()).dtype == torch.float16


def test_changed_weights_are_noticed():
    """However they change, even in ways that PyTorch's version counter misses."""
    vae = prepare(wide_vae())
    latents = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    block = vae.model.decoder.mid_block.resnets[0]
    before = vae.decode(latents)
    other = {name: value + torch.randn_like(value) / 9 for name, value in vae.state_dict().items()}
    changes = [
        lambda: block.conv1.weight.data.mul_(3),
        lambda: block.conv2.weight.data[3, 4, 1].zero_(),
        lambda: vae.model.decoder.up_blocks[0].upsamplers[0].conv.weight.numpy().__imul__(2),
        lambda: vae.load_state_dict(other),
        lambda: vae.half().float(),
        lambda: block.conv1.weight.view(-1, 2).copy_(block.conv1.weight.view(-1, 2).flip(1)),
        lambda: setattr(block, "conv1", torch.nn.Conv2d(96, 96, 3, padding=1).requires_grad_(False)),
    ]
    for change in changes:
        change()
        fast, plain = both_ways(lambda: vae.decode(latents))
        assert relative_error(fast, plain) < 1e-5 and not torch.equal(fast, before)
        before = fast
    kept = kernel_of(block.conv1, kernel_2d)
    assert kernel_of(block.conv1, kernel_2d) is kept  # cached
    with choose_products(not onednn_is_faster()):
        if torch.backends.mkldnn.is_available():
            assert kernel_of(block.conv1, kernel_2d) is not kept


def test_fast_layers_are_attached_and_restored():
    vae = wide_vae()
    keys, kinds = list(vae.state_dict()), [type(module) for module in vae.modules()]
    with pytest.raises(RuntimeError, match="stop"), fast_vae(vae):
        assert isinstance(vae.model.decoder.mid_block.resnets[0], FastResnetBlock) and list(vae.state_dict()) == keys
        raise RuntimeError("stop")
    assert [type(module) for module in vae.modules()] == kinds
    with fast_vae(prepare(vae)):
        pass
    assert type(vae.model.decoder.up_blocks[0].upsamplers[0]) is FastResample  # as before the `with` statement
    for same in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        assert list(same.state_dict()) == keys and type(same.model.encoder.mid_block.resnets[0]) is FastResnetBlock
    assert [type(module) for module in restore(vae).modules()] == kinds


def test_cases_left_to_the_readable_network(monkeypatch):
    vae = prepare(wide_vae())
    latents = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    with fast_paths(False):
        plain = vae.decode(latents)
    monkeypatch.setenv("LATTE_FAST", "0")
    assert torch.equal(vae.decode(latents), plain)
    monkeypatch.delenv("LATTE_FAST")
    vae.requires_grad_(True)
    decoded = vae.decode(latents)
    decoded.sum().backward()
    assert torch.equal(decoded, plain) and all(p.grad is not None for p in vae.model.decoder.parameters())
    vae.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        fast, slow = both_ways(lambda: vae.decode(latents))
        assert torch.equal(fast, slow)
    seen = []
    for layer in vae.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(vae.decode(latents), plain) and seen


class Doubled(torch.nn.Module):
    """A layer that wraps another, as adapters do."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight, self.bias = inner, inner.weight, inner.bias
        self.in_channels, self.out_channels = inner.in_channels, inner.out_channels

    def forward(self, x):
        return 2 * self.inner(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda block: setattr(block, "conv2", Doubled(block.conv2)),
        lambda block: setattr(block, "norm1", torch.nn.Identity()),
        lambda block: setattr(block.conv2, "padding_mode", "circular"),
        lambda block: setattr(block.conv1, "forward", torch.zeros_like),
    ],
)
def test_modified_layers_keep_their_own_computation(change):
    latents = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    vae = prepare(wide_vae())
    before = vae.decode(latents)
    change(vae.model.decoder.mid_block.resnets[0])
    fast, plain = both_ways(lambda: vae.decode(latents))
    assert relative_error(fast, plain) < 1e-5 and relative_error(fast, before) > 1e-3


def test_a_loaded_vae_is_fast_and_saved_unchanged(tmp_path):
    vae = wide_vae()
    loaded = load_vae(save_vae(prepare(vae), tmp_path / "vae"))
    assert type(loaded.model.decoder.mid_block.resnets[0]) is FastResnetBlock
    assert issubclass(FastResnetBlock, ResnetBlock)
    for name, weight in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_kernels_are_freed_with_the_network():
    from latte.fast.vae_layers import _kernels

    before = len(_kernels)
    vae = prepare(wide_vae())
    vae.decode(torch.randn(1, 1, 4, 8, 8))
    assert len(_kernels) > before
    del vae
    assert len(_kernels) == before


def test_benchmark_calls_agree_between_both_forms():
    for name, plain, fast in vae_calls(WIDE, 1, 16):
        assert relative_error(fast(), plain()) < 1e-5 and not torch.equal(fast(), plain()), name
