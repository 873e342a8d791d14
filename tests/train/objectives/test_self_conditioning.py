"""Self-conditioning: what the network is shown in sampling and in training, and which weights it starts from."""

from dataclasses import replace

import pytest
import torch
from awake_models import awake, awake_pipeline
from small_latte import T, X, Y, draw, text_model, warm
from small_runs import run, same, small, small_t2v, tensors

from latte import LattePipeline
from latte.diffusion.loss import diffusion_loss
from latte.diffusion.predictions import clean_of, factors_at
from latte.diffusion.schedule import linear_schedule, q_sample, training_schedule
from latte.fast.switch import fast_paths
from latte.models.denoiser import denoiser_of
from latte.models.latte import Latte
from latte.models.latte_t2v import LatteT2V
from latte.train import checkpoint
from latte.train.config import LatteTrainConfig
from latte.train.data.folders import open_clips
from latte.train.init import init_latte
from latte.train.objectives import denoising, objective
from latte.weights.convert_latte import state_for_original
from latte.weights.load import save_model
from latte.weights.published_export import published_config

WORDS = ["steps=4", "clips=4", "warmup=1", "schedule=constant"]
OWN = "model.self_condition=true"
TEXT = draw(5, 2, 3, 8)


def both_kinds():
    yield warm(self_condition=True), (Y,)
    text = LatteT2V(replace(text_model().config, self_condition=True)).eval()
    yield awake(text), (TEXT,)


@torch.no_grad()
def test_zeros_stand_for_no_estimate():
    for network, condition in both_kinds():
        none, zero, drawn = (
            network(torch.cat([X, *estimate], 2), T, *condition) for estimate in ([], [0 * X], [draw(9, *X.shape)])
        )
        assert torch.equal(none, zero) and (none - drawn).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"latents have shape \(2, 4, 8, 8, 8\); expected \(b, f, 4, h, w\)"):
        warm()(torch.cat([X, X], 2), T, Y)
    with pytest.raises(ValueError, match=r"expected \(b, f, 4 or 8, h, w\)"):
        warm(self_condition=True)(X[:, :, :3], T, Y)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_each_step_of_sampling_shows_the_estimate_of_the_last(scale, prediction):
    pipe = awake_pipeline(2)
    network = awake(Latte(replace(pipe.transformer.config, self_condition=True, prediction=prediction)))
    pipe = LattePipeline(network, pipe.vae)
    call = dict(class_labels=[0, 1], num_inference_steps=3, guidance_scale=scale, seed=0, batch_size=2)
    call |= dict(output_type="latent", progress=False)
    seen, made, forward = [], [], pipe.transformer.forward

    def recorded(x, t, y):
        seen.append((x, t))
        made.append(forward(x, t, y))
        return made[-1]

    pipe.transformer.forward = recorded
    with fast_paths(False):
        plain = pipe(**call).frames
    del pipe.transformer.forward
    assert len(seen) == 3 and len(seen[0][0]) == (4 if scale > 1 else 2)
    schedule, expected = training_schedule(prediction), torch.zeros(2, 4, 4, 2, 2)
    for (x, t), out in zip(seen, made):
        given, estimate = x.split(4, 2)
        torch.testing.assert_close(estimate[:2], expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(estimate[-2:], estimate[:2])
        a, s = factors_at(schedule.alpha_bar_at(t[:1]).item())
        state = given * (a + s) if prediction == "flow" else given
        expected = clean_of(prediction, out[:2, :, :4].double(), state[:2].double(), a, s).float()
    torch.testing.assert_close(pipe(**call).frames, plain, rtol=1e-4, atol=1e-4)


def test_a_weaker_model_need_not_be_self_conditioned():
    pipe, call = awake_pipeline(2), dict(class_labels=[0, 1], num_inference_steps=2, output_type="latent", seed=0)
    plain = pipe.transformer
    own = awake(Latte(replace(plain.config, self_condition=True)))
    for network, weaker in ((own, plain), (plain, own)):
        pipe.transformer = network
        pipe.enable_autoguidance(weaker, scale=2.0)
        guided = pipe(**call, progress=False).frames
        pipe.disable_autoguidance()
        assert not torch.allclose(guided, pipe(**call, guidance_scale=1.0, progress=False).frames, atol=1e-3)


def loss_and_gradient(config, step):
    made = objective(open_clips(config), config, torch.device("cpu"))
    made.prepare([range(4)], step)
    network = awake(made.network()).train()
    loss, _ = made(network, step, range(4))
    loss.backward()
    return loss.detach(), denoiser_of(network).patch_embed.weight.grad


@pytest.mark.parametrize("make", [small, small_t2v])
def test_half_of_the_steps_show_an_estimate_without_gradients(make, vae, monkeypatch):
    config = make(vae, *WORDS, OWN, "num_images=1")
    made = objective(open_clips(config), config, torch.device("cpu"))
    made.prepare([range(4)], 0)
    network = awake(made.network())
    batch = made.draw(network, 0, range(4))
    monkeypatch.setattr(denoising, "predicted_clean", lambda *_, **__: X)
    shown = [made.estimate(network, batch, step, {}) is X for step in range(200)]
    assert 70 < sum(shown) < 130  # 4 standard deviations
    for estimated in (False, True):
        monkeypatch.undo()
        step = shown.index(estimated)
        loss, gradient = loss_and_gradient(config, step)
        monkeypatch.setattr(denoising.Denoising, "estimate", lambda *_: None)
        without, _ = loss_and_gradient(config, step)
        assert (abs(loss - without) > 1e-4) == estimated
        assert (gradient.chunk(2, 1)[1].abs().max() > 1e-6) == estimated


def test_the_loss_is_that_of_the_network_that_sees_the_estimate():
    network, schedule, noise, index = (
        warm(self_condition=True),
        linear_schedule(),
        draw(8, *X.shape),
        torch.tensor([100, 700]),
    )
    x, estimate = q_sample(schedule, X, index, noise), draw(3, *X.shape)
    terms = diffusion_loss(network, X, index, noise, schedule, estimate=estimate, y=Y)
    out = network(torch.cat([x, estimate], 2), schedule.timesteps[index], Y)[:, :, :4]
    torch.testing.assert_close(terms["mse"], (out - noise).square().flatten(1).mean(1))


def test_a_stopped_run_resumes_bit_exactly(vae, tmp_path, monkeypatch):
    """With this seed, the first and the last of four steps show an estimate."""
    shown, predicted = [], denoising.predicted_clean
    monkeypatch.setattr(denoising, "predicted_clean", lambda *args, **y: shown.append(1) or predicted(*args, **y))
    counts = []
    for folder, steps in (("stopped", 2), ("stopped", 4), ("whole", 4)):
        run(small(vae, *WORDS, OWN, "seed=4", f"steps={steps}"), tmp_path / folder)
        counts.append(len(shown))
        shown.clear()
    assert counts == [1, 1, 2]
    assert same(*(tensors(checkpoint.latest(tmp_path / folder)) for folder in ("stopped", "whole")))


@torch.no_grad()
def test_weights_with_and_without_estimates_start_each_other(tmp_path, recwarn):
    plain, own = warm(), warm(self_condition=True)
    begun = warm(self_condition=True)
    init_latte(begun, str(save_model(plain, tmp_path / "plain")), list("abcde"))
    seen = torch.cat([X, draw(9, *X.shape)], 2)
    assert torch.equal(begun(seen, T, Y), plain(X, T, Y))
    dropped = warm()
    init_latte(dropped, str(save_model(own, tmp_path / "own")), list("abcde"))
    torch.testing.assert_close(dropped(X, T, Y), own(X, T, Y))
    said = " ".join(str(warning.message) for warning in recwarn.list)
    assert "it is not self-conditioned: at first, estimates have no effect" in said
    assert "it is self-conditioned, and this network is not" in said


def test_what_cannot_be_self_conditioned_is_refused():
    with pytest.raises(ValueError, match="the original Latte has no self_condition True"):
        state_for_original(warm(self_condition=True, num_classes=0))
    text = LatteT2V(replace(text_model().config, self_condition=True))
    with pytest.raises(ValueError, match="diffusers' Latte has no self-conditioning"):
        published_config(text)
    with pytest.raises(ValueError, match="a student is not self-conditioned"):
        LatteTrainConfig(vae="any", teacher="shapes", model={"self_condition": True})
