"""Recorded values through the trainer's own path: from the latents in a step's slots to its loss."""

import pytest
import torch
from goldens import Golden, load, relative_error

from latte.diffusion.schedule import linear_schedule
from latte.train.data.folders import open_clips
from latte.train.data.latents import Latents
from latte.train.objectives import ClassConditional, denoising
from latte.train.resolve import resolve


class Given:
    """A source of given latents and labels."""

    def __init__(self, x0, labels):
        self.x0, self.labels = x0, labels

    def batch(self, step, slots):
        some = slice(slots.start, slots.stop)
        return Latents(self.x0[some], torch.ones_like(self.x0[some]), self.labels[some], [])


def objective(vae, x0, labels, t, noise, monkeypatch, *changes):
    """The trainer's objective with its random quantities given."""
    words = [f"vae={vae}", "sample_latents=false", "image_size=16", "num_frames=4", "clips=4", *changes]
    config = resolve("shapes", [*words, "model.class_dropout_prob=0.0"])
    made = ClassConditional(open_clips(config), config)
    made.source, made.drop_rate, made.prediction = Given(x0, labels), lambda network: 0.0, lambda network: "eps"
    monkeypatch.setattr(denoising, "normal", lambda shape, seed, step, slot, what: noise[slot])
    drawn = iter(t)
    made.draw_index = lambda random: next(drawn)
    return made


@pytest.mark.parametrize("units", [1, 2])
def test_the_loss_matches_recorded_values(units, vae, tmp_path, monkeypatch):
    golden = Golden("training_loss")
    x0, t, noise = (golden.inputs[name] for name in ("x0", "t", "noise"))
    network, many = load(Golden("latte_uncond"), tmp_path), len(x0)
    loss = objective(vae, x0, torch.zeros(many, 1, dtype=torch.long), t, noise, monkeypatch)
    parts = [range(i * many // units, (i + 1) * many // units) for i in range(units)]
    sums = dict.fromkeys(("loss", "mse", "vb"), 0.0)
    for slots in parts:
        value, terms = loss(network, 0, slots)
        assert float(value.detach()) == pytest.approx(float(terms["loss"]))
        for name in sums:
            sums[name] += float(terms[name]) * len(slots) / many
    for name, total in sums.items():
        assert total == pytest.approx(float(golden.outputs[name].mean()), rel=1e-5)


def test_the_joint_forward_pass_matches_recorded_values(vae, tmp_path, monkeypatch):
    """The labels of a clip and its images reach the network as recorded, and the loss covers all their frames."""
    golden = Golden("latte_joint")
    x, t = golden.inputs["x"], golden.inputs["t"]
    labels = torch.cat([golden.inputs["y"][:, None], golden.inputs["y_image"]], 1)
    scale = linear_schedule().alphas_cumprod[t].sqrt().float().view(-1, 1, 1, 1, 1)
    network, seen = load(golden, tmp_path), []
    network.register_forward_hook(lambda _, args, out: seen.append(out))
    loss = objective(vae, x / scale, labels, t, torch.zeros_like(x), monkeypatch, "num_images=2")
    _, terms = loss(network, 0, range(len(x)))
    assert relative_error(seen[0], golden.outputs["out"]) < 1e-5
    eps = golden.outputs["out"][:, :, : x.shape[2]]
    assert float(terms["mse"]) == pytest.approx(float(eps.square().mean()), rel=1e-5)
