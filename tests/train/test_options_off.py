"""Options of the training recipe: off, a run has the bits of one that is written out without them; on, it has others.

The options between the blocks have their own file, objectives/test_between_blocks.py.
"""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_runs import TINY_VAE, run, same, small
from traps import Reached, trapped

from latte.diffusion import loss, schedule
from latte.diffusion.loss import variational_bound
from latte.diffusion.randomness import generator, normal
from latte.diffusion.schedule import linear_schedule, q_sample
from latte.train import checkpoint, optimizer, step
from latte.train.data.clip_order import Draw
from latte.train.data.latents import open_data
from latte.train.objectives import autoencoder, consistency_distillation, denoising, moment_matching, objective
from latte.train.resolve import resolve

SLOTS = range(4)
CONSTANT = ["steps=3", "clips=4", "schedule=constant", "warmup=0"]
LATTE = [*CONSTANT, "timestep_std=0", "timestep_mean=0", "model.prediction=eps", "model.class_dropout_prob=0"]
LATTE += ["sample_latents=false", "fast=false"]  # the fast forms round differently
VAE = [*TINY_VAE, *CONSTANT, "num_frames=1", "precision=fp32"]
OPTIONS = {  # what is trained, words that turn an option on, and code that only this option uses
    "Muon": ("latte", ["optimizer=muon"], (optimizer, "Muon")),
    "trapezoid schedule": ("latte", ["schedule=trapezoid", "cooldown=1"], (step, "trapezoid")),
    "logit-normal timesteps": ("latte", ["timestep_std=1"], (torch, "sigmoid")),
    "flow": ("latte", ["model.prediction=flow"], (schedule, "flow_schedule")),
    "min-SNR": ("latte", ["loss_weighting=min-snr"], (loss, "min_snr_weight")),
    "self-conditioning": ("latte", ["model.self_condition=true"], (denoising, "predicted_clean")),
    "consistency distillation": ("latte", ["teacher={final}"], (consistency_distillation, "consistency_loss")),
    "moment matching": ("latte", ["teacher={final}", "distillation=moments"], (moment_matching, "state_between")),
    "equivariance": ("vae", ["equivariance_weight=0.5"], (autoencoder, "half_size")),
    "thumbnail": ("vae", ["thumbnail_weight=0.5"], (autoencoder, "thumbnails")),
    "frozen encoder": ("vae", ["init={final}", "freeze_encoder=true"], (autoencoder, "read_config")),
}


def config_of(kind, vae, *words):
    return small(vae, *LATTE, *words) if kind == "latte" else resolve("shapes-vae", [*VAE, *words])


def weights(folder):
    return load_file(checkpoint.latest(folder) / "model.safetensors")


def denoising_loss(made, network, number):
    """The squared error of the noise at uniform timesteps, and the bound that trains the variance."""
    x0, _, labels, _ = made.source.batch(number, SLOTS)
    noise = torch.stack([normal(x0.shape[1:], 0, number, slot, Draw.NOISE) for slot in SLOTS])
    randoms = [generator(0, number, slot, Draw.TIMESTEP) for slot in SLOTS]
    t = torch.stack([torch.randint(1000, (), generator=random) for random in randoms])
    linear = linear_schedule()
    x = q_sample(linear, x0, t, noise)
    eps, variance = network(x, t, labels).chunk(2, 2)
    bound = variational_bound(linear, x0, x, t, eps.detach(), variance)
    return ((noise - eps).square().flatten(1).mean(1) + bound).mean()


def reconstruction_loss(made, network, number):
    """The error of the pixels, and the divergence of the latents from a standard Gaussian."""
    images = made.batches.batch(number, SLOTS).videos.flatten(0, 1)
    mean, logvar = network.moments(images)
    noise = torch.cat([normal((1, *mean.shape[1:]), 0, number, slot, Draw.POSTERIOR) for slot in SLOTS])
    out = network.decode(mean + (0.5 * logvar).exp() * noise)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return F.l1_loss(out, images) + F.mse_loss(out, images) + made.config.kl_weight * divergence


@pytest.fixture(scope="module")
def plain(vae, tmp_path_factory):
    """The folder of two runs, latte/ and vae/, in which every option is off, and none reaches its own code."""
    root = tmp_path_factory.mktemp("plain")
    with trapped(*(place for _, _, place in OPTIONS.values())):
        for kind in ("latte", "vae"):
            run(config_of(kind, vae), root / kind)
    return root


@pytest.mark.parametrize(("kind", "written"), [("latte", denoising_loss), ("vae", reconstruction_loss)])
def test_a_run_without_options_matches_one_written_out(kind, written, vae, plain):
    """AdamW at a constant learning rate, to the bit."""
    config = config_of(kind, vae)
    torch.manual_seed(config.seed)
    made = objective(open_data(config), config, torch.device("cpu"))
    network = made.network().train()
    made.prepare([SLOTS], 0)
    adamw = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=0.0, fused=True)
    for number in range(config.steps):
        adamw.zero_grad()
        written(made, network, number).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adamw.step()
    assert same(weights(plain / kind), network.state_dict())


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_on_reaches_its_code_and_changes_the_weights(name, vae, plain, tmp_path):
    kind, words, place = OPTIONS[name]
    config = config_of(kind, vae, *(word.format(final=plain / kind / "final") for word in words))
    with trapped(place), pytest.raises(Reached):
        run(config, tmp_path / "trapped")
    run(config, tmp_path / "on")
    assert not same(weights(tmp_path / "on"), weights(plain / kind))
