"""Flow models: the scheduler follows from the network, and every sampler and plan accepts them."""

from itertools import pairwise

import pytest
import torch
from awake_models import SIZE, VAE, awake
from goldens import relative_error

from latte import LattePipeline
from latte.cli import main
from latte.diffusion.randomness import normal
from latte.files import read_json
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.vae import AutoencoderKL, VideoVAE
from latte.plans.rules import repeat
from latte.scheduler import ALL, Scheduler
from latte.weights.published_export import scheduler_config

FLOW = Scheduler("ddim", "trailing", flow=True)
START = normal((4, 4, 2, 2), 3, 0, 0)[None]  # the noise of the first video of seed 3


def flow_pipeline(scheduler=None, **changes):
    network = awake(Latte(LatteConfig(**{"num_classes": 8, "prediction": "flow", **SIZE, **changes})))
    return LattePipeline(network, VideoVAE(awake(AutoencoderKL(VAE))), scheduler=scheduler)


def make(pipe, **options):
    asked = {"num_inference_steps": 4, "output_type": "latent", "seed": 3, "progress": False}
    return pipe([5], **asked | options).frames


def on_the_path(noise):
    """A state at the last timestep, scaled as on the linear path."""
    return noise * (0.9995**2 + 0.0005**2) ** 0.5


def test_sampling_matches_eulers_method():
    pipe = flow_pipeline()
    x, ends = on_the_path(START), [0.9995, 0.7495, 0.4995, 0.2495, 0.0]
    with torch.no_grad():
        for here, there in pairwise(ends):
            t = torch.full((2,), round(1000 * here - 0.5))
            both = pipe.transformer(torch.cat([x, x]), t, torch.tensor([5, 8]))[:, :, :4]
            x = x + (there - here) * (both[1:] + 3 * (both[:1] - both[1:]))
    assert pipe.scheduler == FLOW
    assert relative_error(make(pipe, guidance_scale=3.0), x.transpose(1, 2)) < 1e-4


@pytest.mark.parametrize("sampler", ALL)
def test_every_sampler_keeps_a_stationary_flow(sampler):
    """Where the velocity is 0, a state of the linear path stays where it is; fresh noise moves it."""
    pipe = flow_pipeline()
    pipe.transformer.forward = lambda x, t, y: torch.zeros_like(torch.cat([x, x], 2))
    end = make(pipe, sampler=sampler)
    still = on_the_path(START).transpose(1, 2)
    drawn, most = sampler in ("ddpm", "euler_ancestral", "kdpm2_ancestral"), 1e-3 if sampler == "deis" else 1e-4
    assert end.isfinite().all() and (relative_error(end, still) < most) != drawn  # deis ends at the lowest timestep
    if sampler == "ddim":
        pipe.enable_plan(lambda exact: repeat(exact, 2, "clean"))
        assert relative_error(make(pipe), still) < 1e-4


def test_cfg_zeros_first_steps_keep_the_state_of_the_linear_path():
    """The state of the linear path, not x, which v = 0 would keep."""
    all_steps = {"guidance_method": "cfg-zero", "guidance_options": {"zero_steps": 4}, "guidance_scale": 3.0}
    assert relative_error(make(flow_pipeline(), **all_steps), on_the_path(START).transpose(1, 2)) < 1e-4


def test_the_shift_changes_the_sampled_timesteps(tmp_path):
    plain, shifted, seen = (
        flow_pipeline(),
        flow_pipeline(Scheduler(timestep_spacing="trailing", flow=True, shift=3.0)),
        [],
    )
    watch = lambda pipe, step, t, tensors: seen.append(t)
    assert not torch.equal(make(plain), make(shifted, callback_on_step_end=watch))
    assert seen == pytest.approx([999, *(1000 * 3 * u / (1 + 2 * u) - 0.5 for u in (0.7495, 0.4995, 0.2495))], abs=1e-3)
    shifted.save_pretrained(tmp_path / "shifted")
    again = LattePipeline.from_pretrained(tmp_path / "shifted")
    assert again.scheduler == shifted.scheduler and torch.equal(make(again), make(shifted))


def test_shift_on_the_command_line(tmp_path, capsys):
    flow_pipeline().save_pretrained(tmp_path / "flow")
    flow_pipeline(prediction="eps").save_pretrained(tmp_path / "eps")
    words = ["--classes", "3", "--n", "1", "--steps", "2", "--shift", "3", "--out"]
    assert main(["sample", str(tmp_path / "flow"), *words, str(tmp_path / "out")]) == 0
    assert read_json(tmp_path / "out/samples.json")["scheduler"]["shift"] == 3.0
    assert main(["sample", str(tmp_path / "eps"), *words, str(tmp_path / "none")]) == 2
    assert "which predicts no flow: leave it out" in capsys.readouterr().err


def test_the_schedule_follows_from_the_prediction(tmp_path):
    pipe = flow_pipeline()
    pipe.save_pretrained(tmp_path / "flow")
    assert not (tmp_path / "flow/scheduler").exists()
    again = LattePipeline.from_pretrained(tmp_path / "flow")
    assert again.scheduler == FLOW and torch.equal(make(again), make(pipe))
    for wrong in (
        lambda: flow_pipeline(Scheduler("heun")),
        lambda: LattePipeline.from_pretrained(tmp_path / "flow", scheduler=Scheduler()),
    ):
        with pytest.raises(ValueError, match="predicts 'flow' needs a scheduler with flow=True"):
            wrong()
    for prediction in ("eps", "v"):
        with pytest.raises(ValueError, match=f"predicts '{prediction}' needs a scheduler with flow=False"):
            flow_pipeline(FLOW, prediction=prediction)
    pipe.scheduler = Scheduler("heun")
    with pytest.raises(ValueError, match="needs a scheduler with flow=True"):
        make(pipe)
    shape = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "caption_channels": 8}
    text = LattePipeline(LatteT2V(LatteT2VConfig(**shape, prediction="flow")))
    assert text.scheduler == FLOW and LattePipeline(LatteT2V(LatteT2VConfig(**shape))).scheduler == Scheduler()
    with pytest.raises(ValueError, match="has no scheduler for a flow"):
        scheduler_config(text.scheduler, "flow")
    with pytest.raises(ValueError, match="prediction is 'velocity'; it must be one of 'eps', 'v', 'flow'"):
        LatteT2VConfig(prediction="velocity")
