"""Shared by class-conditional and text-to-video models: arguments, outputs, noise, callbacks and progress bars."""

import copy
import inspect

import numpy as np
import pytest
import torch
from awake_models import awake_pipeline
from goldens import relative_error
from published import PROMPTS, QUICK

from latte import LattePipeline, pipeline
from latte.conditioning import Request
from latte.diffusion.samplers import ddim, ddpm
from latte.fast.switch import fast_paths
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.plans.records import exact_plan
from latte.sampling_settings import Guidance
from latte.scheduler import Scheduler


@pytest.fixture
def classes():
    return awake_pipeline(3, ["left", "right", "up"])


@pytest.fixture(params=["classes", "prompts"])
def call(request, classes, pipe):
    """Calls either kind of model for one video, in four steps: call(**options) -> the pipeline's result."""
    model, shown = (classes, "left") if request.param == "classes" else (pipe, PROMPTS[0])
    quick = {"num_inference_steps": 4, "num_frames": 4, "output_type": "latent", "progress": False}
    make = lambda shown=shown, **options: make.pipe(shown, **{**quick, **options})
    make.pipe = model
    return make


def test_results_are_tuples_and_tables_too(call):
    frames = call().frames
    assert torch.equal(call()[0], frames) and torch.equal(call()["frames"], frames)
    assert torch.equal(call(return_dict=False)[0], frames) and torch.equal(call().to_tuple()[0], frames)


def test_video_length_is_an_alias_of_num_frames(call):
    assert torch.equal(call(num_frames=None, video_length=4).frames, call().frames)
    with pytest.raises(ValueError, match="num_frames is given under both of its names, as 4 and 2"):
        call(video_length=2)


def test_noise_comes_from_a_seed_a_generator_or_latents(call):
    start = torch.randn(call().frames.shape, generator=torch.Generator().manual_seed(7))
    begun = call(latents=start).frames
    assert torch.equal(begun, call(generator=torch.Generator().manual_seed(7)).frames)
    assert torch.equal(begun, call(generator=[torch.Generator().manual_seed(7)]).frames)
    assert not torch.allclose(begun, call(seed=7).frames, atol=1e-3)


def test_one_generator_gives_the_same_noise_at_any_batch_size(call):
    """Including the noise of later steps, which diffusers draws for all videos at once."""
    shown = [0, 1, 2] if call.pipe.takes_prompts is False else list(PROMPTS[:1]) * 3
    several = lambda **options: call(shown, generator=torch.Generator().manual_seed(7), eta=1.0, **options).frames
    together = several(batch_size=3)
    for size in (1, 2):
        assert relative_error(several(batch_size=size), together) < 1e-5
    (one,) = call(shown[:1], generator=torch.Generator().manual_seed(7), eta=1.0).frames
    assert relative_error(one, together[0]) > 1e-2


@pytest.mark.parametrize("source", ["seed", "a generator each", "latents"])
def test_a_video_is_bit_identical_alone_or_with_others(call, source):
    """The last batch is padded, since rounding depends on its size."""
    shown = (lambda n: {"shown": [0] * n}) if not call.pipe.takes_prompts else (lambda n: {"num_videos_per_prompt": n})
    start = torch.randn(5, *call().frames.shape[1:])
    given = {
        "seed": lambda n: {"seed": 2},
        "a generator each": lambda n: {"generator": [torch.Generator().manual_seed(i) for i in range(n)]},
        "latents": lambda n: {"latents": start[:n]},
    }[source]
    several = lambda n, **options: call(**shown(n), **given(n), eta=1.0, batch_size=2, num_inference_steps=2, **options)
    whole = several(3, output_type="uint8").frames
    assert len(whole) == 3 and not torch.equal(whole[0], whole[1])
    assert torch.equal(several(1, output_type="uint8").frames, whole[:1])
    assert torch.equal(several(1).frames, several(3).frames[:1])


def test_noise_is_requested_by_step_and_video(call, monkeypatch):
    """The initial noise once, then the fresh noise of each step but the last, whose deviation is 0."""
    asked, source = [], pipeline.noise_source

    def recorded(*args):
        noise = source(*args)
        return lambda step, rows: asked.append((step, list(rows))) or noise(step, rows)

    monkeypatch.setattr(pipeline, "noise_source", recorded)
    shown = [0] * 3 if not call.pipe.takes_prompts else [PROMPTS[0]] * 3
    call(shown, eta=1.0, batch_size=2)
    assert asked == [(step, rows) for rows in ([0, 1], [2, 2]) for step in (-1, 0, 1, 2)]


def test_videos_of_one_seed_differ_in_their_start_and_in_their_fresh_noise(call):
    shown = [0, 0] if not call.pipe.takes_prompts else [PROMPTS[0]] * 2
    for options in ({}, {"latents": torch.randn(1, *call().frames.shape[1:]).repeat(2, 1, 1, 1, 1), "eta": 1.0}):
        one, other = call(shown, **options).frames
        assert relative_error(one, other) > 1e-2
    same = call(shown, latents=options["latents"], batch_size=2).frames
    assert torch.equal(same[0], same[1])


def test_the_originals_noise_can_be_passed_as_latents(classes):
    """The original draws (1, f, c, h, w) after torch.manual_seed; latents are (b, c, f, h, w)."""
    torch.manual_seed(11)
    start = torch.randn(1, 4, 4, 2, 2)
    options = dict(num_inference_steps=4, guidance_scale=1, output_type="latent", progress=False)
    made = classes("right", latents=start.transpose(1, 2), **options).frames
    *_, expected = ddim(lambda x, t: classes.transformer(x, t, torch.tensor([1])), start, classes.scheduler.schedule(4))
    assert relative_error(made.transpose(1, 2), expected) < 1e-6


def test_a_generator_draws_the_start_and_then_every_step(classes):
    options = dict(num_inference_steps=4, guidance_scale=1, output_type="latent", progress=False)
    made = classes("right", generator=torch.Generator().manual_seed(11), sampler="ddpm", **options).frames
    generator = torch.Generator().manual_seed(11)
    draws = [torch.randn(1, 4, 4, 2, 2, generator=generator).transpose(1, 2) for _ in range(4)]
    denoise = lambda x, t: classes.transformer(x, t, torch.tensor([1]))
    *_, expected = ddpm(denoise, draws[0], classes.scheduler.schedule(4), lambda step: draws[1 + step])
    assert relative_error(made.transpose(1, 2), expected) < 1e-5


def test_custom_timesteps_and_samplers(call):
    plain = call().frames
    for change in ({"timesteps": [900, 600, 300]}, {"sampler": "dpm_multistep"}, {"eta": 1.0}):
        assert not torch.allclose(call(**change).frames, plain, atol=1e-3)
    call.pipe.scheduler = Scheduler.from_config(call.pipe.scheduler.config, "ddpm")
    assert torch.equal(call().frames, call(sampler="ddpm").frames)


def test_pil_frames_are_the_default_output(call):
    (video,) = call(output_type="pil").frames
    assert inspect.signature(call.pipe.__call__).parameters["output_type"].default == "pil"
    assert np.array_equal(np.asarray(video[0]), call(output_type="uint8").frames[0, 0].permute(1, 2, 0))


def test_copies_of_a_prompt_are_adjacent(call):
    shown = [0, 2] if call.pipe.class_names else list(PROMPTS[:2])
    doubled = [name for name in shown for _ in range(2)]
    assert torch.equal(call(shown, num_videos_per_prompt=2).frames, call(doubled).frames)


def test_a_callback_may_stop_the_call(call):
    steps = []

    def stop(pipe, step, t, tensors):
        steps.append(step)
        pipe._interrupt = step == 1

    stopped = call(callback_on_step_end=stop).frames
    assert steps == [0, 1] and stopped.isfinite().all() and not torch.allclose(stopped, call().frames)
    assert call.pipe.current_timestep is None


def test_a_callback_sees_and_changes_the_embeddings(pipe):
    names, seen = ("latents", "prompt_embeds", "negative_prompt_embeds"), []

    def other_prompt(pipe, step, t, tensors):
        seen.append(tuple(tensors))
        return {"prompt_embeds": tensors["negative_prompt_embeds"]} if step == 0 else tensors

    make = lambda **options: pipe(PROMPTS[0], **QUICK, callback_on_step_end_tensor_inputs=names, **options).frames
    changed = make(callback_on_step_end=other_prompt)
    assert set(seen) == {names} and not torch.allclose(changed, make(), atol=1e-4)
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs is 'noise'"):
        pipe(PROMPTS[0], **QUICK, callback_on_step_end_tensor_inputs=["noise"])


def test_progress_is_a_bar_as_diffusers_or_lines_in_a_log(call, capsys, monkeypatch):
    call(progress=True)
    assert "sampling: 4 of 4 steps" in capsys.readouterr().err
    call(progress=True, num_videos_per_prompt=3, batch_size=2)  # in two batches
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("sampling: 0 of 3 videos, ") and first.endswith(", step 1 of 4")
    assert last.startswith("sampling: 3 of 3 videos, ") and last.endswith(", step 4 of 4")
    monkeypatch.setattr("latte.progress.redraws", lambda file: True)
    call(progress=True)
    assert "sampling: 100%|" in capsys.readouterr().err
    call.pipe.set_progress_bar_config(disable=True)
    call(progress=True)
    assert "sampling" not in capsys.readouterr().err


def test_components_rebuild_the_same_pipeline(call):
    parts, frames = call.pipe.components, call().frames
    again = LattePipeline(**parts)
    assert all(again.components[name] is part for name, part in parts.items() if name != "class_names")
    assert again.components.get("class_names") == parts.get("class_names")
    call.pipe = again
    assert torch.equal(call().frames, frames)


def test_given_components_are_used_by_the_pipeline(published, parts):
    again = LattePipeline.from_pretrained(published, **parts)
    assert again.components.keys() == parts.keys()
    assert all(again.components[name] is part for name, part in parts.items())


def test_to_takes_a_device_and_a_dtype_in_any_order(classes):
    dtype = lambda: next(classes.transformer.parameters()).dtype
    for words in (("cpu", torch.float64), (torch.float32, "cpu"), (torch.float64,)):
        assert classes.to(*words) is classes and dtype() in words
    assert classes.to(dtype=torch.float32) is classes and dtype() == torch.float32
    classes.vae.to("meta")
    assert classes.device.type == "cpu" and classes.to("meta").device.type == "meta"


def test_sizes_are_in_pixels_of_the_vae(classes):
    vae = VideoVAE(AutoencoderKL(VAEConfig(block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=4)))
    assert LattePipeline(classes.transformer, vae).latent_shape(None, None, 12, 8) == (4, 4, 6, 4)
    assert LattePipeline(classes.transformer).latent_shape(6, None, 32, 16) == (6, 4, 4, 2)


def test_text_guidance_is_computed_in_full_precision(pipe):
    """Whatever the network's precision: half precision would round the difference of its two halves."""
    half = LattePipeline(copy.deepcopy(pipe.transformer).bfloat16())
    text = pipe.encode_prompt(PROMPTS[0], negative_prompt="dark")
    x, t, scale = torch.randn(1, 4, 4, 8, 8), torch.tensor([500]), 7.5
    request = Request(prompt_embeds=text, negative_prompt="")
    with fast_paths(False):
        guided = half.conditioning.denoisers(half, request, Guidance(scale), exact_plan([500]))([0])(x, t)
    both = torch.cat([text.prompt, text.negative]).bfloat16()
    masks = None if text.prompt_mask is None else torch.cat([text.prompt_mask, text.negative_mask])
    out = half.transformer(torch.cat([x, x]).bfloat16(), t.repeat(2), both, masks).float()
    towards, away = out[:, :, :4].chunk(2)
    assert guided.dtype == torch.float32 and torch.equal(guided[:, :, :4], away + scale * (towards - away))


def test_an_interval_without_timesteps_is_rejected(call):
    with pytest.raises(ValueError, match=r"100 to 200 holds none of the 2 timesteps that are visited, \d+ to 0"):
        call(num_inference_steps=2, guidance_scale=2.0, guidance_interval=(100, 200))


@pytest.mark.parametrize("layout", ["ours", "published"])
def test_a_saved_pipeline_is_restored(call, layout, tmp_path):
    published = layout == "published"
    if published and not call.pipe.takes_prompts:
        with pytest.raises(ValueError, match="diffusers has no class-conditional"):
            call.pipe.save_pretrained(tmp_path / "saved", published=True)
        assert not (tmp_path / "saved").exists()
        return
    call.pipe.scheduler = Scheduler.from_config(call.pipe.scheduler.config, "heun")
    for _ in range(2):  # also over what was written before
        call.pipe.save_pretrained(tmp_path / "saved", published=published)
    again = LattePipeline.from_pretrained(tmp_path / "saved")
    assert again.scheduler == call.pipe.scheduler
    assert again.class_names == call.pipe.class_names and again.sampling == call.pipe.sampling
    assert (tmp_path / "saved/model_index.json").is_file() == published
    before = call().frames
    state = call.pipe.transformer.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.transformer.state_dict().items())
    shown = "left" if again.class_names else PROMPTS[0]
    frames = again(shown, num_inference_steps=4, num_frames=4, output_type="latent", progress=False).frames
    torch.testing.assert_close(frames, before, rtol=1e-4, atol=1e-4)


def test_nothing_of_others_is_overwritten(call, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/model.bin").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty|choose a new"):
        call.pipe.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "vae"]
