"""Text to video: recorded values from prompt to frames, masks independent of the batch, and invalid calls."""

import pytest
import torch
from goldens import Golden, relative_error
from published import PROMPTS, QUICK, real_vocabulary

from latte import LattePipeline
from latte.scheduler import ALL, Scheduler


def run_golden(pipe, i, **options):
    """Call the pipeline for recorded prompt i, with options."""
    golden = Golden("tiny_latte_1")
    start = golden.inputs[f"latents.{i}"]
    return pipe(**{"latents": start, "num_inference_steps": 12, "progress": False, **options}).frames


@pytest.mark.skipif(real_vocabulary() is None, reason="LATTE_TEST_DATA names no folder with T5's vocabulary")
def test_latents_from_prompts_match_recorded_values(pipe):
    golden = Golden("tiny_latte_1")
    prompts = golden.config["prompts"]
    text = pipe.encode_prompt(prompts[0])
    assert relative_error(text.prompt, golden.outputs["prompt_embeds.0"]) < 1e-5
    assert relative_error(text.negative, golden.outputs["negative_prompt_embeds.0"]) < 1e-5
    starts = torch.cat([golden.inputs[f"latents.{i}"] for i in (0, 1)])
    both = run_golden(pipe, 0, prompt=prompts, latents=starts, output_type="latent")
    for i, prompt in enumerate(prompts):
        reference = golden.outputs[f"latent.{i}"]
        assert relative_error(run_golden(pipe, i, prompt=prompt, output_type="latent"), reference) < 1e-4
        assert relative_error(both[i : i + 1], reference) < 1e-4


def test_frames_from_embeddings_match_recorded_values(pipe, published):
    golden = Golden("tiny_latte_1")
    text = {name: golden.outputs[f"{name}.0"] for name in ("prompt_embeds", "negative_prompt_embeds")}
    assert relative_error(run_golden(pipe, 0, **text, output_type="latent"), golden.outputs["latent.0"]) < 1e-4
    frames = run_golden(pipe, 0, **text, output_type="pt")
    assert relative_error(frames[:, 8:9], golden.outputs["frames.0"]) < 1e-4
    image = run_golden(pipe, "image", **text, video_length=1, output_type="pt")
    assert relative_error(image, golden.outputs["frames.image"]) < 1e-4
    whole = LattePipeline.from_pretrained(published, vae="vae_temporal_decoder")
    frames = run_golden(whole, 0, **text, output_type="pt")
    assert relative_error(frames[:, 8:9], golden.outputs["frames_temporal_vae.0"]) < 1e-4


def embeddings(pipe, prompts, **options):
    """What the network attends to for each prompt and its negative prompt: the rows that its mask keeps."""
    text = pipe.encode_prompt(prompts, **options)
    rows = []
    for table, mask in ((text.prompt, text.prompt_mask), (text.negative, text.negative_mask)):
        masks = torch.ones(table.shape[:2]) if mask is None else mask
        rows.append([row[keep.bool()] for row, keep in zip(table, masks)])
    return rows


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"num_videos_per_prompt": 2}])
def test_embeddings_of_several_prompts_bring_their_masks(options, pipe):
    call = lambda *words, **more: pipe(*words, **QUICK, **options, **more).frames
    whole, text = call(list(PROMPTS)), pipe.encode_prompt(list(PROMPTS))
    assert text.prompt_mask is not None
    assert torch.equal(call(prompt_embeds=text), whole)
    assert not torch.allclose(call(prompt_embeds=text.prompt, negative_prompt_embeds=text.negative), whole, atol=1e-2)
    assert torch.equal(call(prompt_embeds=pipe.encode_prompt(list(PROMPTS), False)), whole)
    with pytest.raises(ValueError, match="leave out negative_prompt_embeds"):
        pipe(prompt_embeds=text, negative_prompt_embeds=text.negative, **QUICK)
    with pytest.raises(ValueError, match="without a negative_prompt"):
        pipe(prompt_embeds=text, negative_prompt="dark", **QUICK)


def test_masks_do_not_depend_on_the_batch(pipe):
    """In every mode but the reference's, a prompt gives the same result alone and in a batch."""
    for kind in ("single", "strict"):
        together = embeddings(pipe, list(PROMPTS), text_mask=kind)
        for i, prompt in enumerate(PROMPTS):
            for several, alone in zip(together, embeddings(pipe, prompt, text_mask=kind)):
                torch.testing.assert_close(several[i], alone[0])
    length = len(embeddings(pipe, PROMPTS[0])[0][0])
    assert len(embeddings(pipe, PROMPTS[0])[1][0]) == length
    assert len(embeddings(pipe, PROMPTS[0], text_mask="strict")[1][0]) == 1  # of "", only the end token
    latents = pipe(list(PROMPTS), **QUICK).frames
    assert relative_error(latents[1:], pipe(PROMPTS[1], latents=noise(1), **QUICK).frames) < 1e-4


def noise(i):
    from latte.diffusion.randomness import normal

    return normal((4, 4, 8, 8), 0, i, 0)[None].transpose(1, 2)


def test_reference_masks_follow_the_batch(pipe):
    """As in diffusers: padding in a batch is zeros; for copies the masks are tiled, the embeddings repeated."""
    text = pipe.encode_prompt(list(PROMPTS), text_mask="reference")
    assert text.prompt_mask is None and text.prompt.shape[1] == 120
    lengths = [len(rows) for rows in embeddings(pipe, list(PROMPTS))[0]]
    assert [int(row.any(-1).sum()) for row in text.prompt] == lengths and text.negative[:, -1].any()
    copied = pipe.encode_prompt(list(PROMPTS), text_mask="reference", num_images_per_prompt=2).prompt
    assert [int(row.any(-1).sum()) for row in copied] == lengths * 2
    assert torch.equal(copied[0, :5], copied[1, :5])
    alone = pipe.encode_prompt(PROMPTS[0], text_mask="reference")
    assert torch.equal(alone.prompt, pipe.encode_prompt(PROMPTS[0]).prompt)
    assert pipe.encode_prompt(PROMPTS[0], mask_feature=False).prompt.shape[1] == 120


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": PROMPTS[1]},
        {"negative_prompt": "red"},
        {"num_inference_steps": 5},
        {"timesteps": [900, 500, 100]},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"seed": 1},
        {"generator": torch.Generator().manual_seed(0)},
        {"eta": 1.0},
        {"text_mask": "strict"},
        {"mask_feature": False},
        {"enable_temporal_attentions": False},
        {"latents": torch.zeros(1, 4, 4, 8, 8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_changes_the_video(pipe, change):
    plain = pipe(PROMPTS[0], **QUICK).frames
    other = pipe(**{"prompt": PROMPTS[0], **QUICK, **change}).frames
    assert plain.shape == other.shape and not torch.allclose(plain, other, atol=1e-4)


def test_captions_are_cleaned_by_default(pipe):
    shouted = f"{PROMPTS[0]} #1234567 @dog"
    assert torch.equal(pipe(shouted, **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames)
    assert not torch.equal(pipe(shouted, clean_caption=False, **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames)


def test_sizes_copies_and_output_types(pipe):
    quick = {**QUICK, "num_inference_steps": 1}
    assert pipe(PROMPTS[0], **{**quick, "video_length": None}).frames.shape == (1, 4, 16, 8, 8)
    assert pipe(PROMPTS[0], height=32, width=48, **quick).frames.shape == (1, 4, 4, 4, 6)
    two = pipe(list(PROMPTS), num_videos_per_prompt=2, **quick).frames
    assert torch.equal(two, pipe(list(PROMPTS), num_images_per_prompt=2, **quick).frames) and len(two) == 4
    byte = pipe(PROMPTS[0], **{**quick, "output_type": "uint8"}).frames
    assert byte.shape == (1, 4, 3, 64, 64) and byte.dtype == torch.uint8
    seen, decoder = [], pipe.vae.model.decoder
    hook = decoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for chunk in (1, 3):
        floats = pipe(PROMPTS[0], **{**quick, "output_type": "pt"}, decode_chunk_size=chunk).frames
        assert torch.allclose(floats * 255, byte.float(), atol=0.51) and pipe.vae.chunk == 8
    hook.remove()
    assert seen == [1, 1, 1, 1, 3, 1]
    assert pipe(PROMPTS[0], **{**quick, "output_type": "np"}).frames.shape == (1, 4, 64, 64, 3)
    pictures = pipe(PROMPTS[0], **{**quick, "output_type": "pil"}).frames
    assert len(pictures) == 1 and len(pictures[0]) == 4 and pictures[0][0].size == (64, 64)


def test_generators_and_seeds_give_each_video_its_noise(pipe):
    seeds = lambda *numbers: [torch.Generator().manual_seed(n) for n in numbers]
    both = pipe(list(PROMPTS), generator=seeds(3, 4), **QUICK).frames
    assert relative_error(both[1:], pipe(PROMPTS[1], generator=seeds(4), **QUICK).frames) < 1e-4
    start = torch.randn(1, 4, 4, 8, 8, generator=seeds(4)[0])
    begun = pipe(PROMPTS[1], latents=start, **QUICK).frames
    assert torch.equal(begun, pipe(PROMPTS[1], generator=seeds(4), **QUICK).frames)
    one, before = seeds(5)[0], seeds(5)[0].get_state()
    pipe(PROMPTS[1], latents=start, generator=one, **QUICK)
    assert torch.equal(one.get_state(), before)


def test_embeddings_in_place_of_prompts(pipe):
    text = pipe.encode_prompt(PROMPTS[0])
    options = dict(prompt_embeds=text.prompt.double(), negative_prompt_embeds=text.negative.half().float())
    lone = LattePipeline(pipe.transformer, scheduler=pipe.scheduler)
    assert relative_error(lone(**options, **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames) < 1e-2
    assert pipe(prompt_embeds=text.prompt, **QUICK).frames.shape == (1, 4, 4, 8, 8)


def test_no_negative_prompt_means_the_empty_one(pipe):
    plain = pipe(list(PROMPTS), eta=0.5, **QUICK).frames
    assert torch.equal(pipe(list(PROMPTS), eta=0.5, negative_prompt=None, **QUICK).frames, plain)
    weak, none = (pipe(PROMPTS[0], guidance_scale=scale, **QUICK).frames for scale in (0.5, 1))
    assert torch.equal(weak, none)  # as in diffusers
    towards = [pipe(PROMPTS[0], negative_prompt=text, guidance_scale=1.5, **QUICK).frames for text in ("", "dark")]
    assert not torch.equal(towards[0], none) and not torch.equal(*towards)
    seeds = lambda: [torch.Generator().manual_seed(n) for n in (3, 4)]
    for given in (lambda: {"seed": 0}, lambda: {"generator": seeds()}):
        once = pipe(list(PROMPTS), eta=0.5, **given(), **QUICK).frames
        assert relative_error(pipe(list(PROMPTS), eta=0.5, **given(), **QUICK, batch_size=1).frames, once) < 1e-4


def test_callbacks_see_and_change_the_latents(pipe):
    seen = []

    def look(pipeline, step, t, values):
        seen.append((step, t))
        return {"latents": torch.zeros_like(values["latents"])} if step == 3 else values

    assert pipe.current_timestep is None
    frames = pipe(PROMPTS[0], callback_on_step_end=look, **QUICK).frames
    assert seen == [(0, 750), (1, 500), (2, 250), (3, 0)] and not frames.any()
    with pytest.raises(ValueError, match="returned latents of shape"):
        pipe(PROMPTS[0], callback_on_step_end=lambda *_: {"latents": torch.zeros(1)}, **QUICK)


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_sampler_with_a_learned_variance(pipe, sampler, spacing):
    spaced = pipe.scheduler.config | {"timestep_spacing": spacing, "fixed_stride": False}
    frames = []
    for name in ("ddim", sampler):
        pipe.scheduler = Scheduler.from_config(spaced, name)
        frames.append(pipe(PROMPTS[0], **{**QUICK, "num_inference_steps": 6}).frames)
    assert frames[1].isfinite().all()
    assert (relative_error(*frames) < 2e-3) == (sampler in ("ddim", "euler"))


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"prompt": None}, "there is no prompt: give a prompt or prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 5, 32)}, "give a prompt or prompt_embeds, not both"),
        ({"prompt": []}, "a list of at least one"),
        ({"prompt": [3]}, "a list of at least one"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1"),
        ({"negative_prompt": 3}, "negative_prompt must be a string or a list"),
        ({"negative_prompt_embeds": torch.zeros(1, 120, 32)}, "go with prompt_embeds"),
        (
            {"prompt": None, "prompt_embeds": torch.zeros(1, 5, 32), "negative_prompt_embeds": torch.zeros(1, 3, 32)},
            "negative_prompt_embeds have shape",
        ),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 5, 16)}, "prompt_embeds have shape"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1)}, "prompt_embeds have shape"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"latents": torch.zeros(1, 4, 4, 8, 9)}, "latents have shape"),
        ({"generator": torch.Generator(), "seed": 3}, "a generator or a seed"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 videos"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0"),
        ({"num_videos_per_prompt": 2, "num_images_per_prompt": 3}, "one setting"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"eta": 2}, "eta is 2"),
        ({"timesteps": [1, 2]}, "timesteps must decrease"),
        ({"timesteps": 2.0}, r"timesteps is 2\.0; it must be a list"),
        ({"timesteps": [float("nan")]}, "timesteps must decrease"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0;"),
        ({"class_labels": [1]}, "class_labels does nothing for a text-to-video model: give prompt"),
        ({"num_inference_steps": "ddim50"}, "num_inference_steps is ddim50;"),
        ({"num_inference_steps": 10.5}, r"num_inference_steps is 10\.5;"),
        ({"video_length": 0}, "video_length is 0"),
        ({"video_length": 4.0}, "video_length is 4.0"),
        ({"negative_prompt": "a", "guidance_scale": 1}, "negative_prompt does nothing"),
        ({"prompt": None, "prompt_embeds": torch.zeros(0, 5, 32)}, "prompt_embeds have shape"),
        ({"num_videos_per_prompt": 10**9}, "from 1 to 1000000"),
        ({"height": 20}, "height is 20"),
        ({"output_type": "mp4"}, "output_type is 'mp4'"),
        ({"text_mask": "none"}, "text_mask is 'none'"),
        ({"text_mask": "strict", "mask_feature": False}, "does nothing with mask_feature=False"),
        ({"text_mask": "strict", "prompt": None, "prompt_embeds": torch.zeros(1, 3, 32)}, "nothing with prompt_embeds"),
        ({"decode_chunk_size": 0}, "decode_chunk_size is 0"),
    ],
)
def test_wrong_calls_are_rejected(pipe, options, say):
    with pytest.raises(ValueError, match=say):
        pipe(**{"prompt": PROMPTS[0], **QUICK, **options})


def test_the_text_encoder_is_freed_after_use_but_not_after_errors(parts):
    pipe = LattePipeline(**parts)
    pipe.offload_text_encoder = "free"
    with pytest.raises(ValueError, match="height is 20"):
        pipe(PROMPTS[0], **{**QUICK, "height": 20})
    text = pipe.encode_prompt(PROMPTS[0])
    assert pipe.text_encoder is None
    given = {"prompt_embeds": text.prompt, "negative_prompt_embeds": text.negative}
    assert torch.equal(pipe(**given, **QUICK).frames, LattePipeline(**parts)(PROMPTS[0], **QUICK).frames)
    kept = LattePipeline(**parts)
    kept.offload_text_encoder = "free"
    kept(**given, **QUICK)
    assert kept.text_encoder is not None


def test_a_freed_text_encoder_cannot_be_used_again(pipe):
    first = pipe(PROMPTS[0], **QUICK).frames
    pipe.offload_text_encoder = "cpu"
    assert torch.equal(pipe(PROMPTS[0], **QUICK).frames, first)
    pipe.offload_text_encoder = "free"
    assert torch.equal(pipe(PROMPTS[0], **QUICK).frames, first) and pipe.text_encoder is None
    with pytest.raises(ValueError, match="no text encoder"):
        pipe(PROMPTS[0], **QUICK)


def test_each_prompt_has_its_own_negative_one(pipe):
    """Both are cleaned, or neither."""
    call = lambda prompts, negative, **more: pipe(prompts, negative_prompt=negative, **QUICK, **more).frames
    two = call([PROMPTS[0]] * 2, ["dark", "a cactus"], seed=3)
    same = call([PROMPTS[0]] * 2, ["dark", "dark"], seed=3)
    torch.testing.assert_close(two[0], same[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(two[1], same[1], atol=1e-2)
    shouted = "dark #1234567 @dog"
    assert torch.equal(call(PROMPTS[0], shouted), call(PROMPTS[0], "dark"))
    raw = lambda negative: call(PROMPTS[0], negative, clean_caption=False)
    assert not torch.equal(raw(shouted), raw("dark"))
