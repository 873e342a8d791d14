"""The class-conditional pipeline: what each video depends on, every option, and error messages."""

import json
import shutil

import numpy as np
import pytest
import torch
from awake_models import SIZE, awake, awake_pipeline, write_model
from goldens import relative_error

from latte import LattePipeline
from latte.diffusion.gaussian import predict_x0
from latte.diffusion.predictions import split_output
from latte.diffusion.randomness import normal
from latte.diffusion.schedule import linear_schedule, respace
from latte.models.latte import Latte, LatteConfig
from latte.scheduler import ALL
from latte.shapes.draw import MOTIONS
from latte.weights.tensors import CheckpointError


@pytest.fixture(scope="module")
def pipe():
    return awake_pipeline(len(MOTIONS), list(MOTIONS))


@pytest.fixture(scope="module")
def vae(pipe):
    return pipe.vae


@pytest.fixture(scope="module")
def unconditional():
    return awake_pipeline()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    return write_model(pipe, tmp_path_factory.mktemp("model"))


def make(pipe, labels=(0, 3, 5, 3, 7), **options):
    return pipe(list(labels), **{"num_inference_steps": 3, "output_type": "latent", "seed": 4, **options}).frames


def test_a_video_does_not_depend_on_the_rest_of_the_call(pipe):
    for options in ({}, {"sampler": "ddpm"}, {"eta": 1.0}):
        five = make(pipe, batch_size=2, **options)
        assert torch.equal(make(pipe, (0, 3, 5), batch_size=2, **options), five[:3])
        assert torch.equal(make(pipe, (0, 3, 5, 3, 7, 1, 2), batch_size=2, **options)[:5], five)
        for batch_size in (1, 3, 5):
            assert relative_error(make(pipe, batch_size=batch_size, **options), five) < 1e-5, batch_size
    assert not torch.equal(five[1], five[3])  # one class, two slots


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"guidance_scale": 1.0},
        {"guidance_interval": (500, 1000)},
        {"num_inference_steps": 4},
        {"num_inference_steps": "ddim5"},
        {"eta": 0.5},
        *({"sampler": name} for name in ALL if name not in ("ddim", "euler")),  # euler equals ddim
    ],
)
def test_every_option_changes_the_video(pipe, change):
    plain, other = make(pipe, (2,)), make(pipe, (2,), **change)
    assert plain.shape == other.shape and not torch.allclose(plain, other)


def test_a_model_folder_sets_the_sampling_defaults(pipe, folder, tmp_path):
    """Steps, guidance and DDIM's eta; the arguments of a call take precedence."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    own = {"guidance_scale": 3.0, "guidance_interval": [500, 1000], "num_inference_steps": 3, "eta": 0.5}
    (copy / "sampling.json").write_text(json.dumps(own))
    there = LattePipeline.from_pretrained(copy)
    call = lambda pipe, **options: pipe([2], output_type="latent", **options).frames
    same = lambda a, b: torch.allclose(a, b, rtol=1e-4, atol=1e-3)  # weights loaded from a file lie elsewhere in memory
    assert same(call(there), call(pipe, **own))
    for change in ({"eta": 0.0}, {"num_inference_steps": 4}, {"guidance_scale": 2.0}, {"guidance_interval": (0, 1000)}):
        assert same(call(there, **change), call(pipe, **{**own, **change}))
        assert not same(call(there, **change), call(there))
    other = {**own, "eta": 0.0, "sampler": "dpm_multistep"}  # which has no eta
    assert same(call(there, sampler="dpm_multistep"), call(pipe, **other))


def test_sizes_and_output_types(pipe, unconditional):
    assert make(pipe, (1,)).shape == (1, 4, 4, 2, 2)
    assert make(pipe, (1,), num_frames=6, height=32, width=48).shape == (1, 4, 6, 4, 6)
    byte = make(pipe, (1, 2), output_type="uint8")
    assert byte.shape == (2, 4, 3, 16, 16) and byte.dtype == torch.uint8
    assert torch.equal((make(pipe, (1, 2), output_type="pt") * 255).round().byte(), byte)
    array = make(pipe, (1, 2), output_type="np")
    assert array.shape == (2, 4, 16, 16, 3) and np.array_equal((array * 255).round(), byte.permute(0, 1, 3, 4, 2))
    pictures = make(pipe, (1, 2), output_type="pil")
    assert np.array_equal(np.asarray(pictures[1][3]), byte[1, 3].permute(1, 2, 0))
    latents = make(pipe, (1, 2))
    assert torch.equal(pipe.decode(latents.transpose(1, 2), "uint8"), byte)
    several = unconditional(num_videos=3, num_inference_steps=2, output_type="uint8", batch_size=2)
    assert several.frames.shape == (3, 4, 3, 16, 16)
    for given, count in (
        ({}, 1),
        ({"num_videos_per_prompt": 2}, 2),
        ({"num_videos": 2, "num_videos_per_prompt": 2}, 4),
    ):
        assert len(unconditional(num_inference_steps=1, output_type="latent", batch_size=4, **given).frames) == count


def test_guidance_scale_one_is_the_unguided_model(pipe):
    label = torch.tensor([6])
    seen = []
    pipe([6], num_inference_steps=2, guidance_scale=1.0, output_type="latent", callback_on_step_end=seen_by(seen))
    assert [(step, t) for step, t, _ in seen] == [(0, 999), (1, 0)]
    x, t = seen[0][2], torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        noise, _ = split_output(pipe.transformer(x, t, label), 4)
    expected = predict_x0(respace(linear_schedule(), "2"), x, t, noise)
    assert torch.allclose(seen[1][2], expected, atol=1e-5)


def seen_by(rows):
    return lambda pipe, step, t, values: rows.append((step, t, values["latents"].transpose(1, 2).clone()))


def test_classes_by_name_or_number(pipe):
    assert torch.equal(make(pipe, ("left", "3")), make(pipe, (0, 3)))
    third = make(pipe, (3,))
    for label in (3, "3", np.int64(3), torch.tensor(3)):
        one = pipe(class_labels=label, num_inference_steps=3, output_type="latent", seed=4).frames
        assert torch.equal(one, third)
    for labels in (range(2), np.arange(2), torch.arange(2)):
        some = pipe(class_labels=labels, num_inference_steps=3, output_type="latent", seed=4).frames
        assert torch.equal(some, make(pipe, (0, 1)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_labels": None}, "8 classes: give class_labels"),
        ({"class_labels": []}, "class_labels is empty"),
        ({"class_labels": ["sideways"]}, "0 left, 1 right"),
        ({"class_labels": [8]}, "no class 8;"),
        (
            {"class_labels": None, "prompt": "a dog"},
            r"no class 'a dog' \(given as prompt, but this model takes classes\)",
        ),
        ({"class_labels": [-1]}, "no class -1"),
        ({"class_labels": ["--1"]}, "no class '--1'"),
        ({"height": 20}, "height is 20; this model needs a multiple of 16"),
        ({"num_frames": -2}, "num_frames is -2; it must be a whole number, from 1 to 65536"),
        ({"sampler": "eular"}, "not one of ddpm, ddim"),
        ({"output_type": "mp4"}, "not one of pil, np"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be a whole number, from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001; it must be"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"eta": -1}, "eta is -1"),
        ({"eta": "x"}, "eta is 'x'"),
        ({"eta": float("inf")}, "eta is inf"),
        ({"eta": 1, "sampler": "ddpm"}, "applies only to ddim"),
        ({"height": 0}, "height is 0"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 10**20}, "num_frames is 1000"),
        ({"num_videos": 10**9}, "num_videos is 1000000000"),
        ({"seed": -1}, "seed is -1"),
        ({"first": -1}, "first is -1"),
    ],
)
def test_wrong_calls_are_rejected(pipe, options, words):
    with pytest.raises(ValueError, match=words):
        pipe(**{"class_labels": [1], "output_type": "latent", **options})


def test_wrong_calls_of_other_models_are_rejected(unconditional, pipe):
    with pytest.raises(ValueError, match="unconditional: give num_videos, not a prompt"):
        unconditional([1])
    with pytest.raises(ValueError, match="num_videos is 0"):
        unconditional(num_videos=0)
    with pytest.raises(ValueError, match=r"name its folder with --vae \(in Python: vae, or output_type='latent'\)$"):
        LattePipeline(pipe.transformer)([1])
    latents = pipe([1], num_inference_steps=2, output_type="latent", progress=False).frames
    with pytest.raises(ValueError, match="no VAE to decode these latents with"):
        LattePipeline(pipe.transformer).decode(latents, "np")
    certain = LattePipeline(awake(Latte(LatteConfig(num_classes=8, class_dropout_prob=0.0, **SIZE))))
    with pytest.raises(ValueError, match="cannot be guided"):
        make(certain, guidance_scale=4.0)
    assert torch.equal(make(certain), make(certain, guidance_scale=1.0))
    with pytest.raises(ValueError, match="the VAE has 4 latent"):
        LattePipeline(Latte(LatteConfig(in_channels=8, **SIZE)), pipe.vae)
    broken = LattePipeline(awake(Latte(LatteConfig(**SIZE))), pipe.vae)
    torch.nn.init.constant_(broken.transformer.final_linear.bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        broken(num_inference_steps=1)


def test_a_v_prediction_model_is_sampled_as_one(pipe):
    """One step from pure noise: x0 = sqrt(abar) x - sqrt(1 - abar) v."""
    other = LattePipeline(Latte(LatteConfig(num_classes=8, prediction="v", **SIZE)), pipe.vae)
    other.transformer.load_state_dict(pipe.transformer.state_dict())
    seen = []
    other([6], num_inference_steps="1", guidance_scale=1.0, output_type="latent", callback_on_step_end=seen_by(seen))
    start, t, abar = normal((4, 4, 2, 2), 0, 0, 0)[None], torch.tensor([0]), linear_schedule().alphas_cumprod[0].float()
    with torch.no_grad():
        v, _ = split_output(other.transformer(start, t, torch.tensor([6])), 4)
    torch.testing.assert_close(seen[0][2], abar.sqrt() * start - (1 - abar).sqrt() * v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ALL)
def test_every_sampler_supports_v_prediction(pipe, sampler):
    """v = 0 means that the noise is sqrt(1 - abar) x: the two equivalent models give the same samples."""
    models = [Latte(LatteConfig(num_classes=8, prediction=kind, **SIZE)) for kind in ("eps", "v")]
    spread = lambda t: (1 - linear_schedule().alpha_bar_at(t)).sqrt().float().view(-1, 1, 1, 1, 1)
    models[0].forward = lambda x, t, y: torch.cat([spread(t) * x, torch.zeros_like(x)], 2)
    models[1].forward = lambda x, t, y: torch.zeros_like(torch.cat([x, x], 2))
    eps, v = (make(LattePipeline(model, pipe.vae), sampler=sampler) for model in models)
    assert relative_error(v, eps) < 1e-4


WRONG_NAMES = (3, ["a"] * 8, ["a", "b"], "12345678", [*"1234567", "\n"], [*range(8)])


@pytest.mark.parametrize("names", [{}, *({"names": names} for names in WRONG_NAMES)])
def test_wrong_class_names_are_rejected(folder, names, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "classes.json").write_text(json.dumps(names))
    with pytest.raises(ValueError, match=r"classes\.json must hold"):
        LattePipeline.from_pretrained(copy)


def test_from_pretrained_is_the_same_pipeline(pipe, folder, vae):
    for options in ({}, {"vae": folder / "vae"}, {"vae": vae}):
        again = LattePipeline.from_pretrained(folder, **options)
        assert again.class_names == list(MOTIONS)
        assert torch.equal(make(again, output_type="uint8"), make(pipe, output_type="uint8"))
    assert LattePipeline.from_pretrained(folder, vae=None).vae is None
    with pytest.raises(ValueError, match="cannot leave its transformer out"):
        LattePipeline.from_pretrained(folder, transformer=None)
    kept = LattePipeline.from_pretrained(folder, torch_dtype=torch.bfloat16, vae=vae)
    assert next(kept.vae.parameters()).dtype == torch.float32 == next(vae.parameters()).dtype
    half = LattePipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    latents = make(half, (1,))
    assert latents.dtype == torch.float32 and 1e-4 < relative_error(latents, make(pipe, (1,))) < 0.1
    with pytest.raises(CheckpointError, match="no model at nowhere"):
        LattePipeline.from_pretrained("nowhere")


def test_sampling_continues_from_a_callbacks_latents(pipe):
    """They are in diffusers' order, (b, c, f, h, w), after any step."""
    call = lambda **more: make(pipe, (3,), num_inference_steps=4, guidance_scale=1.0, **more)
    zeros = lambda pipeline, step, t, found: {"latents": torch.zeros_like(found["latents"])} if step == 3 else found
    assert torch.equal(call(callback_on_step_end=zeros), torch.zeros(1, 4, 4, 2, 2))
    halved = lambda pipeline, step, t, found: {"latents": found["latents"] / 2} if step == 0 else None
    assert not torch.allclose(call(callback_on_step_end=halved), call(), atol=1e-3)
    assert torch.equal(call(callback_on_step_end=lambda *_: None), call())
