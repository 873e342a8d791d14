"""The VAE loss against its parts, and what it takes from another VAE."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TINY_VAE, run, same, small, tensors

from latte import LattePipeline
from latte.diffusion.randomness import normal
from latte.train import checkpoint
from latte.train.data.clip_order import Draw
from latte.train.data.latents import open_data
from latte.train.export import LATENT_STEPS
from latte.train.latent_normalisation import standardise_latents
from latte.train.objectives.autoencoder import NEXT_TO_LATENTS, Reconstruction
from latte.train.resolve import resolve
from latte.weights.vae_folder import load_vae


def settings(*words):
    return resolve("shapes-vae", [*TINY_VAE, "precision=fp32", "num_frames=1", *words])


def objective(*words):
    config = settings(*words)
    return Reconstruction(open_data(config), config)


def mean(values):
    return float(values.detach().double().mean())


def squares(images):
    """Means over 2 x 2 squares, added up one by one."""
    return sum(images[..., y::2, x::2] for y in (0, 1) for x in (0, 1)) / 4


def details(images):
    """Left minus right, top minus bottom, and one diagonal minus the other, of 4 x 4 pixels in each corner of 8 x 8."""
    grey = squares(squares(images.mean(1)))
    (a, b), (c, d) = ([grey[:, y::2, x::2] for x in (0, 1)] for y in (0, 1))
    return torch.stack([(a + c) - (b + d), (a + b) - (c + d), (a + d) - (b + c)], 1) / 2


@pytest.mark.parametrize(
    ("equivariance", "thumbnail", "detail"),
    [(0, 0, 0), (0.5, 0, 0), (0, 0.25, 0), (0.5, 0.25, 0), (0, 0.25, 9)],
)
def test_the_loss_is_the_sum_of_its_parts(equivariance, thumbnail, detail):
    words = [f"thumbnail_scale={3 if detail else 4}", f"detail_scale={detail}"] if thumbnail else []
    words += ["model.latent_channels=7"] if detail else []
    made = objective("kl_weight=0.125", f"equivariance_weight={equivariance}", f"thumbnail_weight={thumbnail}", *words)
    network, slots = made.network(), range(3)
    made.prepare([slots], 0)
    found, logged = made(network, 0, slots)
    images = torch.cat([made.batches.batch(0, range(slot, slot + 1)).videos[0] for slot in slots])
    centre, logvar = network.moments(images)
    noise = torch.cat([normal((1, *centre.shape[1:]), made.config.seed, 0, slot, Draw.POSTERIOR) for slot in slots])
    latents = centre + (0.5 * logvar).exp() * noise
    error = network.decode(latents) - images
    divergence = mean(centre.square() + logvar.exp() - 1 - logvar) / 2
    expected = mean(error.abs()) + mean(error.square()) + 0.125 * divergence
    smaller = network.decode(squares(latents)) - squares(images)
    expected += equivariance * (mean(smaller.abs()) + mean(smaller.square()))
    eighth = squares(squares(squares(images)))
    if detail:
        wanted = torch.cat([3 * eighth, 9 * details(images)], 1)
        expected += thumbnail * mean((centre[:, :6] - wanted).square())
    else:
        expected += thumbnail * mean((centre[:, :3] - 4 * eighth).square())
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert logged["kl"].item() == pytest.approx(divergence, rel=1e-5)


DETAILED = ["thumbnail_weight=0.5", "model.latent_channels=6"]


@pytest.mark.parametrize(
    "words",
    [
        ["equivariance_weight=0.5"],
        ["thumbnail_weight=0.5"],
        ["thumbnail_scale=2", *DETAILED],
        ["detail_scale=9", *DETAILED],
        ["whiten_latents=true"],
        ["freeze_encoder=true"],
    ],
)
def test_each_option_changes_a_run_and_resumes_bit_exactly(words, tmp_path):
    words = [*words, "steps=4", "save_every=2"]
    if frozen := "freeze_encoder=true" in words:
        words.append(f"init={run(settings('steps=1'), tmp_path / 'first')}")
    run(settings(*words), tmp_path / "whole")
    run(settings(*words, "steps=2"), tmp_path / "parts")
    run(settings(*words), tmp_path / "parts")
    run(settings(*words[1:]), tmp_path / "off")
    folders = [tmp_path / name for name in ("whole", "parts", "off")]
    whole, parts, off = (load_file(folder / "final/model.safetensors") for folder in folders)
    assert same(whole, parts) and not same(whole, off)
    assert same(*(tensors(checkpoint.latest(folder)) for folder in folders[:2]))
    if frozen:
        configs = [json.loads((tmp_path / name / "final/config.json").read_text()) for name in ("whole", "parts")]
        assert configs[0] == configs[1] == json.loads((tmp_path / "first/final/config.json").read_text())


def test_a_vae_of_16x_compression_trains_resumes_and_serves_a_latte(tmp_path):
    words = ["model.block_out_channels=[4,8,8,8,8]", "image_size=32", "steps=3", "save_every=2"]
    whole = run(settings(*words), tmp_path / "whole")
    run(settings(*words, "steps=2"), tmp_path / "parts")
    assert same(*(load_file(f / "model.safetensors") for f in (whole, run(settings(*words), tmp_path / "parts"))))
    vae = load_vae(whole)
    latents = vae.encode(torch.zeros(1, 4, 3, 32, 32))
    assert vae.factor == 16 and latents.shape == (1, 4, 4, 2, 2) and vae.decode(latents).shape == (1, 4, 3, 32, 32)
    run(small(whole, "image_size=32", "steps=1", "model.patch_size=1"), tmp_path / "latte")
    pipe = LattePipeline.from_pretrained(tmp_path / "latte/final")
    made = pipe(class_labels=[0], num_inference_steps=1, output_type="uint8", progress=False).frames
    assert made.shape == (1, 4, 3, 32, 32) and pipe.transformer.config.input_size == 2


def test_final_latents_are_standardised_and_decode_like_the_averaged_weights(tmp_path):
    words = ["steps=2", "thumbnail_weight=10"]
    vae, made = load_vae(run(settings(*words), tmp_path)), objective(*words)
    made.prepare([range(4)], 0)
    videos = torch.cat([made.batches[step, range(4)].videos for step in range(LATENT_STEPS)])
    latents = vae.encode(videos).detach()
    assert latents.mean((0, 1, 3, 4)).abs().max() < 1e-4 and float(latents.std()) == pytest.approx(1, abs=1e-4)
    averaged = made.network()
    averaged.load_state_dict(load_file(checkpoint.latest(tmp_path) / "ema.safetensors"))
    images = videos.flatten(0, 1)
    mean, _ = averaged.moments(images)
    assert mean.mean((0, 2, 3)).abs().max() > 0.01
    assert (averaged.decode(mean) - vae.decode(latents).flatten(0, 1)).abs().max() < 1e-5


def test_whitened_latents_are_uncorrelated_and_decode_like_the_averaged_weights(tmp_path):
    """And their posterior has the variances of the mixed channels, as well as an affine layer can say."""
    words = ["steps=2", "thumbnail_weight=10"]
    plain = load_vae(run(settings(*words), tmp_path / "plain"))
    white = load_vae(run(settings(*words, "whiten_latents=true"), tmp_path / "white"))
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("plain", "white")))
    made = objective(*words)
    made.prepare([range(4)], 0)
    videos = torch.cat([made.batches[step, range(4)].videos for step in range(LATENT_STEPS)])
    with torch.no_grad():
        latents = white.encode(videos)
        (before, logvar), (mean, changed) = (vae.posterior(videos) for vae in (plain, white))
        error = (plain.decode(plain.encode(videos)) - white.decode(latents)).abs().max()
    rows = lambda z: z.movedim(2, -1).flatten(0, -2).double()
    centred = rows(before) - rows(before).mean(0)
    covariance = centred.T @ centred / (len(centred) - 1)
    assert not torch.allclose(torch.corrcoef(centred.T), torch.eye(4, dtype=torch.double), atol=0.05)
    assert torch.allclose(torch.cov(rows(latents).T), torch.eye(4, dtype=torch.double), atol=1e-4)
    assert rows(latents).mean(0).abs().max() < 1e-4 and error < 1e-4
    mix = torch.linalg.lstsq(centred, rows(mean)).solution
    assert torch.allclose(mix, mix.T, atol=1e-4)  # the whitening that changes latents least is symmetric
    assert torch.allclose(mix @ covariance @ mix, torch.eye(4, dtype=torch.double), atol=1e-4)
    expected = (rows(logvar).exp() @ mix.square()).log()
    assert (rows(changed) - expected).square().mean() < 0.1 * expected.var(0).mean()


def test_latents_that_depend_on_each_other_cannot_be_whitened():
    network = objective().network()
    with torch.no_grad():
        network.quant_conv.weight[1] = network.quant_conv.weight[0]
        network.quant_conv.bias[1] = network.quant_conv.bias[0]
    videos = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with pytest.raises(ValueError, match="whiten_latents: a channel of the latents is constant or depends on the"):
        standardise_latents(network, [videos], whiten=True)


def test_a_frozen_encoder_keeps_the_latents(tmp_path):
    words = [f"init={run(settings('steps=2'), tmp_path / 'first')}", "freeze_encoder=true", "steps=2"]
    run(settings(*words), tmp_path / "second")
    first, second = (load_vae(tmp_path / name / "final") for name in ("first", "second"))
    video = torch.rand(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = first.encode(video)
    assert torch.equal(latents, second.encode(video))
    assert not torch.equal(first.decode(latents), second.decode(latents))


def test_changing_latent_channels_reinitialises_the_layers_next_to_the_latents(tmp_path):
    first = run(settings("steps=1"), tmp_path)
    wider = objective(f"init={first}", "model.latent_channels=6").network().state_dict()
    fresh = objective("model.latent_channels=6").network().state_dict()
    before = load_vae(first).model.state_dict()
    anew = {name for name in wider if name.startswith(NEXT_TO_LATENTS)}
    assert {name for name in wider if wider[name].shape != before[name].shape} <= anew
    assert all(torch.equal(wider[name], before[name]) for name in wider.keys() - anew)
    assert all(wider[name].shape == fresh[name].shape for name in anew)


REFUSED = {
    ("equivariance_weight=0.5", "image_size=24"): "equivariance_weight halves the latents, .* odd side of 3",
    ("thumbnail_weight=0.1", "model.latent_channels=2"): "latents with a channel for each colour: .* is 2; set it to 3",
    (
        "thumbnail_weight=0.1",
        "detail_scale=9",
        "model.latent_channels=5",
    ): "each colour and detail: .* is 5; set it to 6",
    ("freeze_encoder=true",): "name it with init=FOLDER",
    ("freeze_encoder=true", "thumbnail_weight=0.1"): "thumbnail_weight does nothing with freeze_encoder",
}


@pytest.mark.parametrize("words", REFUSED)
def test_settings_that_do_not_fit_the_latents_are_rejected(words):
    with pytest.raises(ValueError, match=REFUSED[words]):
        objective(*words).network()


def test_a_frozen_encoder_needs_the_same_channels(tmp_path):
    words = [f"init={run(settings('steps=1'), tmp_path)}", "freeze_encoder=true", "model.latent_channels=6"]
    with pytest.raises(ValueError, match="of another shape"):
        objective(*words).network()


def test_the_statistics_of_the_latents_have_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("latte.progress.SHORT_SECONDS", 0.0)
    run(settings("steps=1"), tmp_path)
    assert "statistics of the latents: 1 of 16 steps, " in capsys.readouterr().err
