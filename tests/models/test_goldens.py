"""Forward, loss and sampling against values recorded from the original: tests/goldens/README.md."""

import pytest
import torch
from goldens import Golden, load, relative_error

from latte.diffusion.guidance import guided
from latte.diffusion.loss import diffusion_loss
from latte.diffusion.samplers import SAMPLERS
from latte.diffusion.schedule import linear_schedule, q_sample, respace, spaced_timesteps


@pytest.mark.parametrize("name", ["latte_uncond", "latte_class"])
def test_forward(name, tmp_path):
    golden = Golden(name)
    out = load(golden, tmp_path)(golden.inputs["x"], golden.inputs["t"], golden.inputs.get("y"))
    assert relative_error(out, golden.outputs["out"]) < 1e-5


def test_guided_forward(tmp_path):
    golden = Golden("latte_class")
    half = len(golden.inputs["cfg_x"]) // 2
    x, t, y = (golden.inputs[name] for name in ("cfg_x", "cfg_t", "cfg_y"))
    out = guided(load(golden, tmp_path), y[:half], y[half:], 4.0)(x[:half], t[:half])
    assert relative_error(out, golden.outputs["cfg_out"][:half]) < 1e-5


def test_joint_image_video_forward(tmp_path):
    golden = Golden("latte_joint")
    y = torch.cat([golden.inputs["y"][:, None], golden.inputs["y_image"]], 1)
    out = load(golden, tmp_path)(golden.inputs["x"], golden.inputs["t"], y, num_images=2)
    assert relative_error(out, golden.outputs["out"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "sampler", "spacing"),
    [("ddpm", "ddpm", "25"), ("ddim", "ddim", "ddim20"), ("ddim_respaced", "ddim", "20")],
)
def test_sampling_loops(name, sampler, spacing, tmp_path):
    golden, model = Golden("sampling"), load(Golden("latte_class"), tmp_path)
    half = len(golden.inputs["y"]) // 2
    z, noise, y = golden.inputs[f"{name}.z"], golden.inputs[f"{name}.noise"], golden.inputs["y"]
    schedule = respace(linear_schedule(), spacing)
    executed = golden.outputs[f"{name}.timesteps"].tolist()
    assert sorted(executed) == schedule.timesteps.tolist()
    denoise = guided(model, y[:half], y[half:], golden.config["cfg_scale"])
    *_, sample = SAMPLERS[sampler](denoise, z, schedule, noise.__getitem__)
    assert relative_error(sample, golden.outputs[f"{name}.sample"]) < 1e-4


def test_schedule_and_loss(tmp_path):
    golden, schedule = Golden("training_loss"), linear_schedule()
    for name, ours in {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
    }.items():
        assert relative_error(ours, golden.outputs[name]) < 1e-12, name
    for spacing in ("10,15,20", "1000", "250", "50", "ddim50"):
        assert spaced_timesteps(spacing).tolist() == golden.outputs[f"respace.{spacing}"].tolist()
    x0, t, noise = (golden.inputs[name] for name in ("x0", "t", "noise"))
    assert relative_error(q_sample(schedule, x0, t, noise), golden.outputs["x_t"]) < 1e-6
    terms = diffusion_loss(load(Golden("latte_uncond"), tmp_path), x0, t, noise, schedule)
    for name in ("loss", "mse", "vb"):
        assert relative_error(terms[name], golden.outputs[name]) < 1e-5, name
