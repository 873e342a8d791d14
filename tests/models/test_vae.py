"""The autoencoders against recorded values, and invariances of their results."""

import json

import pytest
import torch
from goldens import Golden, relative_error
from safetensors.torch import save_file

from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import load_vae, save_vae

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def published(name, folder, state=None):
    """The recorded model as a published folder."""
    golden = Golden(name)
    kind = "AutoencoderKLTemporalDecoder" if name == "vae_temporal" else "AutoencoderKL"
    (folder / "config.json").write_text(json.dumps({"_class_name": kind, **golden.config}))
    save_file(state or golden.weights, folder / "diffusion_pytorch_model.safetensors")
    return golden, load_vae(folder)


@pytest.mark.parametrize("name", ["vae", "vae_temporal"])
def test_outputs_match_the_reference(name, tmp_path):
    golden, vae = published(name, tmp_path)
    for ours, theirs in zip(vae.model.moments(golden.inputs["image"]), ("mean", "logvar")):
        assert relative_error(ours, golden.outputs[theirs]) < 1e-5, theirs
    z = golden.inputs["z"] * vae.config.scaling_factor
    if name == "vae":
        assert relative_error(vae.decode(z[:, None])[:, 0], golden.outputs["decode"]) < 1e-5
    else:
        assert relative_error(vae.decode(z[None])[0], golden.outputs["decode"]) < 1e-5
        two = vae.decode(z.unflatten(0, (2, 2)))
        assert relative_error(two.flatten(0, 1), golden.outputs["decode_2x2"]) < 1e-5


def test_parameter_counts_of_the_published_models():
    counts = {False: 83_653_863, True: 97_742_847}
    for temporal, count in counts.items():
        with torch.device("meta"):
            model = AutoencoderKL(VAEConfig(temporal_decoder=temporal))
        assert sum(p.numel() for p in model.parameters()) == count


def test_norms_have_the_published_epsilon():
    """The epsilon matters where an image is uniform: 1e-6, and 1e-5 over time."""
    model = AutoencoderKL(VAEConfig(block_out_channels=(32, 64), layers_per_block=1, temporal_decoder=True))
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, torch.nn.GroupNorm)}
    assert len(norms) == 10 + 22 and all(norm.num_groups == 32 for norm in norms.values())
    for name, norm in norms.items():
        assert norm.eps == (1e-5 if "temporal_res_block" in name else 1e-6), name


def test_old_key_names_are_converted(tmp_path):
    state = {}
    for name, tensor in Golden("vae").weights.items():
        for new, old in OLD.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        state[name] = tensor
    assert any(".query." in name for name in state)
    golden, vae = published("vae", tmp_path, state)
    assert relative_error(vae.model.decode(golden.inputs["z"]), golden.outputs["decode"]) < 1e-5


@pytest.mark.parametrize("name", ["vae", "vae_temporal"])
def test_chunks_and_batches_change_nothing(name, tmp_path):
    _, vae = published(name, tmp_path)
    video = torch.randn(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    latents = vae.encode(video)
    decoded = vae.decode(latents)
    assert torch.equal(vae.encode(video[1:])[0], latents[1]) and torch.equal(vae.decode(latents[1:])[0], decoded[1])
    largest = []
    for layer in vae.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _, args, out: largest.append(len(args[0])))
    for chunk in (1, 2):
        largest.clear()
        vae.set_chunk(chunk)
        torch.testing.assert_close(vae.encode(video), latents, rtol=1e-4, atol=1e-5)
        assert max(largest) == chunk
        largest.clear()
        torch.testing.assert_close(vae.decode(latents), decoded, rtol=1e-4, atol=1e-5)
        assert sum(n > chunk for n in largest) <= (2 if name == "vae_temporal" else 0)  # only conv_in, on the latents
    with pytest.raises(ValueError, match="0 frames at a time"):
        vae.set_chunk(0)


def test_the_temporal_decoder_sees_the_whole_clip_and_no_other(tmp_path):
    _, vae = published("vae_temporal", tmp_path)
    z = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    moved = z.clone()
    moved[0, 0] += 1
    change = (vae.decode(moved) - vae.decode(z)).abs().amax((2, 3, 4))
    assert (change[0] > 1e-6).all() and (change[1] == 0).all()


def test_posterior_sample_and_scaling(tmp_path):
    _, vae = published("vae", tmp_path)
    video, noise = torch.randn(1, 2, 3, 16, 16), torch.randn(1, 2, 4, 4, 4)
    mean, logvar = vae.posterior(video)
    expected = 0.18215 * (mean + (logvar / 2).exp() * noise)
    torch.testing.assert_close(vae.encode(video, noise), expected)
    torch.testing.assert_close(vae.encode(video), 0.18215 * mean)


def test_overflow_is_redone_in_float32(tmp_path):
    """Only where it happens: other videos of the batch are bit-identical, and everything keeps its precision."""
    _, vae = published("vae", tmp_path)
    z = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    z[1] *= 1e4
    exact, half = vae.decode(z), vae.half()
    with torch.no_grad():
        alone = half.decode(z[:1].half())
        with pytest.warns(UserWarning, match=r"overflowed in torch\.float16") as caught:
            both = half.decode(z.half())
    assert len(caught) == 1 and both.dtype == alone.dtype == torch.float16
    assert torch.equal(both[:1], alone)
    assert both.isfinite().all() and relative_error(both[1:], exact[1:]) < 0.01
    assert next(half.parameters()).dtype == torch.float16
    with pytest.raises(ValueError, match="not finite"):
        half.decode(torch.full((1, 1, 4, 4, 4), float("nan")))


def test_overflow_in_float32_is_an_error(tmp_path):
    _, vae = published("vae", tmp_path)
    far = torch.full((1, 1, 4, 4, 4), 1e38)
    with torch.no_grad(), pytest.raises(ValueError, match="the VAE overflowed in float32"):
        vae.decode(far)
    with torch.no_grad(), pytest.warns(UserWarning), pytest.raises(ValueError, match="the VAE overflowed in float32"):
        vae.bfloat16().decode(far)


def test_overflow_under_autocast_and_in_the_encoder(tmp_path):
    _, vae = published("vae", tmp_path)
    video = torch.randn(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        vae.model.encoder.conv_in.weight.mul_(1e5)
        exact = vae.encode(video)
        with torch.autocast("cpu", torch.float16), pytest.warns(UserWarning, match="float32"):
            mixed = vae.encode(video)
    assert mixed.isfinite().all() and relative_error(mixed, exact) < 0.01


def test_saving_round_trips_and_invalid_inputs_are_rejected(tmp_path):
    torch.manual_seed(0)
    small = VideoVAE(
        AutoencoderKL(VAEConfig(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4))
    )
    back = load_vae(save_vae(small, tmp_path / "small"))
    assert back.config == small.config and back.factor == 8
    video = torch.randn(1, 3, 3, 16, 24)
    assert torch.equal(back.encode(video), small.encode(video))
    assert back.decode(back.encode(video)).shape == video.shape
    with pytest.raises(ValueError, match="multiples of 8"):
        back.encode(video[..., :20])
    with pytest.raises(CheckpointError, match="not a model folder"):
        load_vae(tmp_path / "none")
    with pytest.raises(ValueError, match="groups do not divide"):
        VAEConfig(block_out_channels=(6, 12))
    with pytest.raises(ValueError, match="32 groups do not divide"):
        VAEConfig(block_out_channels=(8, 16), norm_num_groups=8, temporal_decoder=True)


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": ["a", 4]},
        {"block_out_channels": [4.0, 4]},
        {"block_out_channels": [True, 4]},
        {"block_out_channels": [[4]]},
        {"block_out_channels": "44"},
        {"block_out_channels": []},
        {"layers_per_block": 17},
        {"scaling_factor": 1e-5},
        {"scaling_factor": 1e5},
        {"scaling_factor": float("nan")},
    ],
)
def test_absurd_configuration_is_rejected(change, tmp_path):
    published("vae", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(CheckpointError, match=r"config\.json: .*(widths|layers|type list of int|scaling)"):
        load_vae(tmp_path)


@pytest.mark.parametrize("name", [3, None, [], {}])
def test_a_class_name_of_another_type_is_ignored(name):
    assert not VAEConfig.from_dict({"_class_name": name, "scaling_factor": 1}).temporal_decoder


def test_duplicate_names_are_rejected(tmp_path):
    state = Golden("vae").weights
    (new,) = (name for name in state if name.endswith("encoder.mid_block.attentions.0.to_q.bias"))
    with pytest.raises(CheckpointError, match=r"attentions\.0\.\w+\.bias' is there twice"):
        published("vae", tmp_path, {**state, new.replace("to_q", "query"): state[new] + 1})
    torch.save({**state, 5: state[new]}, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.bin: .*table of tensors"):
        load_vae(tmp_path)


def test_the_log_variance_is_bounded():
    model = AutoencoderKL(VAEConfig(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4))
    torch.nn.init.zeros_(model.quant_conv.weight)
    images = torch.zeros(1, 3, 16, 16)
    for bias, bound in ((-80.0, -30.0), (80.0, 20.0), (3.0, 3.0)):
        torch.nn.init.constant_(model.quant_conv.bias, bias)
        mean, logvar = model.moments(images)
        assert logvar.unique().tolist() == [bound] and mean.unique().tolist() == [bias]


def test_videos_of_another_shape_are_refused(tiny_vae):
    for shape in ((4, 3, 16, 16), (1, 2, 4, 16, 16), (1, 3, 2, 16, 16)):
        with pytest.raises(ValueError, match="video has shape"):
            tiny_vae.encode(torch.zeros(shape))
