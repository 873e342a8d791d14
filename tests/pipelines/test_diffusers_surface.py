"""The API of diffusers' LattePipeline: argument order, and ways to inspect and move a pipeline."""

import copy
import inspect
import warnings
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from awake_models import awake, awake_pipeline, write_model
from published import PROMPTS, QUICK

from latte import LattePipeline
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.vae_tiles import decode_in_tiles, decode_tiles, tile_starts
from latte.weights.convert_latte import state_for_original
from latte.weights.tensors import CheckpointError, write_tensors

CALL = (  # the parameters of diffusers 0.42.1's LattePipeline.__call__, in their order
    *("prompt", "negative_prompt", "num_inference_steps", "timesteps", "guidance_scale", "num_images_per_prompt"),
    *("video_length", "height", "width", "eta", "generator", "latents", "prompt_embeds", "negative_prompt_embeds"),
    *("output_type", "return_dict", "callback_on_step_end", "callback_on_step_end_tensor_inputs", "clean_caption"),
    *("mask_feature", "enable_temporal_attentions", "decode_chunk_size"),
)
ENCODE = (  # and of its encode_prompt
    *("prompt", "do_classifier_free_guidance", "negative_prompt", "num_images_per_prompt", "device", "prompt_embeds"),
    *("negative_prompt_embeds", "clean_caption", "mask_feature", "dtype"),
)
FAST = dict(num_inference_steps=2, guidance_scale=2.0, progress=False)


@pytest.fixture
def classes():
    return awake_pipeline(3, ["left", "right", "up"])


@pytest.mark.parametrize(("method", "names"), [("__call__", CALL), ("encode_prompt", ENCODE)])
def test_positional_arguments_match_diffusers(method, names):
    parameters = inspect.signature(getattr(LattePipeline, method)).parameters.values()
    assert tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)[1:] == names


def test_positional_and_keyword_calls_are_equal(pipe):
    generator = lambda: torch.Generator().manual_seed(3)
    size = pipe.transformer.config.sample_size * pipe.vae.factor
    placed = pipe(
        PROMPTS[0], "dark", 2, None, 3.0, 2, 4, size, size, 0.0, generator(), None, None, None, "latent", False
    )
    named = pipe(
        prompt=PROMPTS[0], negative_prompt="dark", num_inference_steps=2, guidance_scale=3.0, num_videos_per_prompt=2,
        num_frames=4, generator=generator(), output_type="latent", progress=False,
    )  # fmt: skip
    assert isinstance(placed, tuple) and torch.equal(placed[0], named.frames) and len(named.frames) == 2


def test_encode_prompt_returns_a_pair_of_embeddings(pipe):
    prompt, negative = pipe.encode_prompt(PROMPTS[0], True, "dark", 2)
    text = pipe.encode_prompt(PROMPTS[0], negative_prompt="dark")
    assert torch.equal(prompt, text.prompt.repeat(2, 1, 1)) and torch.equal(negative, text.negative.repeat(2, 1, 1))
    assert pipe.encode_prompt(PROMPTS[0], False).negative is None
    half = pipe.encode_prompt(list(PROMPTS), dtype=torch.float16, device="meta")
    assert half.prompt.dtype == torch.float16 and half.prompt_mask.dtype != torch.float16
    assert half.negative.device.type == half.prompt_mask.device.type == "meta"
    made = pipe(prompt_embeds=prompt[:1], negative_prompt_embeds=negative[:1], **QUICK, seed=1).frames
    assert torch.equal(made, pipe(PROMPTS[0], "dark", **QUICK, seed=1).frames)
    with pytest.raises(ValueError, match="do_classifier_free_guidance is 'dark', not True or False: name negative"):
        pipe.encode_prompt(PROMPTS[0], "dark")


def test_a_callback_reads_the_call_and_stops_it(classes):
    seen = []

    class Stop:
        tensor_inputs = ("latents",)

        def __call__(self, pipe, step, t, tensors):
            scale = (pipe.guidance_scale, pipe.do_classifier_free_guidance)
            seen.append((step, pipe.num_timesteps, *scale, pipe.interrupt, *tensors))
            pipe.interrupt = step == 1
            return {}

    options = dict(num_inference_steps=4, guidance_scale=2.0, output_type="latent", progress=False)
    assert classes.guidance_scale is classes.num_timesteps is None and not classes.do_classifier_free_guidance
    classes("up", **options, callback_on_step_end=Stop(), callback_on_step_end_tensor_inputs=["noise"])
    assert seen == [(step, 4, 2.0, True, False, "latents") for step in (0, 1)] and classes.interrupt
    classes("up", **options | {"guidance_scale": 1.0})
    assert not classes.interrupt and not classes.do_classifier_free_guidance


def test_torch_dtype_is_an_alias_of_dtype(published, classes, tmp_path):
    for name in ("dtype", "torch_dtype"):
        pipe = LattePipeline.from_pretrained(published, text_encoder=None, **{name: torch.bfloat16})
        assert pipe.dtype == pipe.vae.model.decoder.conv_in.weight.dtype == torch.bfloat16
    assert LattePipeline.from_pretrained(write_model(classes, tmp_path), dtype=torch.float64).dtype == torch.float64
    with pytest.raises(ValueError, match="torch_dtype is given under both of its names"):
        LattePipeline.from_pretrained(published, torch_dtype=torch.float16, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="dtype is 'float16'; it must be one of torch's"):
        LattePipeline.from_pretrained(published, dtype="float16")


def test_config_and_repr_describe_the_parts(published, pipe):
    pipe.name_or_path = str(published)
    config, classes = pipe.config, LattePipeline.from_pretrained("shapes", vae=None)
    assert config["_class_name"] == "LattePipeline" and config["_name_or_path"] == str(published)
    assert config["transformer"] == ("latte.models.latte_t2v", "LatteT2V")
    assert config["transformer_config"]["video_length"] == pipe.transformer.config.video_length
    assert config["scheduler_config"] == pipe.scheduler.config and config["sampling"]["num_inference_steps"] == 50
    with pytest.raises(TypeError):
        config["transformer"] = None
    assert config.sampling == config["sampling"] == copy.deepcopy(config).sampling
    said = repr(config).splitlines()
    assert {"vae_config:", "sampling:", "  num_inference_steps: 50", "_class_name: 'LattePipeline'"} <= set(said)
    assert said[said.index("  guidance:") + 1].startswith("    scale: ")
    assert max(map(len, repr(classes.config).splitlines())) < 120 and dict(config) == {**config}
    with pytest.raises(AttributeError, match="has no 'stpes'"):
        _ = config.stpes
    assert classes.config["vae"] is None and classes.config["class_names"][0] == "left"
    said = repr(classes).splitlines()
    assert said[0] == "LattePipeline of shapes, for classes"
    assert said[1] == "  transformer: Latte, 4.98 M parameters, float32 on cpu" and said[2] == "  vae: none"
    assert said[3] == "  scheduler: Scheduler, ddim" and said[4].startswith("  class_names: left, right, up")
    assert said[5] == "  defaults of a call: 100 steps, guidance_scale 2.5, guidance_interval (400, 1000)"
    free = LattePipeline(Latte(LatteConfig(depth=2, hidden_size=16, num_heads=2, num_classes=0)))
    assert repr(free).splitlines()[0] == "LattePipeline, for unconditional sampling"
    wrapped = LattePipeline(**pipe.components)
    wrapped.transformer = torch.compile(wrapped.transformer, backend="eager")
    lines = repr(wrapped).splitlines()
    assert lines[0] == "LattePipeline, for prompts" and lines[1].startswith("  transformer: LatteT2V, ")


def test_a_device_that_is_not_there_is_named(pipe):
    with pytest.raises(ValueError, match="device 'cuda:99': this machine has no such device"):
        pipe.to("cuda:99")
    assert pipe.device.type == "cpu"


class Moves:
    """Records where each network of a pipeline is moved."""

    def __init__(self, pipe, monkeypatch):
        self.seen = []
        for name, network in pipe.components.items():
            if isinstance(network, torch.nn.Module):
                to = lambda *a, name=name, network=network, **k: self.seen.append((name, *map(str, a))) or network
                monkeypatch.setattr(network, "to", to)


def test_offloaded_networks_move_to_the_device_one_at_a_time(pipe, monkeypatch):
    """On a machine without a GPU: what is moved where, and that the videos stay the same."""
    whole = pipe(list(PROMPTS), num_inference_steps=2, num_frames=4, output_type="np", progress=False, seed=1).frames
    moves = Moves(pipe, monkeypatch)
    pipe._offloads_from = torch.device("cpu")
    again = pipe(list(PROMPTS), num_inference_steps=2, num_frames=4, output_type="np", progress=False, seed=1).frames
    visit = lambda name: [(name, "cpu"), (name, "cpu")]
    assert moves.seen == visit("text_encoder") + 2 * (visit("transformer") + visit("vae"))
    assert abs(whole - again).max() < 1e-5  # the replaced methods bypass a fast path
    moves.seen.append("again")
    pipe.decode(torch.zeros(1, 1, pipe.vae.config.latent_channels, 2, 2), "pt")
    assert moves.seen[-3:] == ["again", *visit("vae")]
    with (
        pytest.raises(ValueError, match=r"needs a GPU|no such device")
        if not torch.cuda.is_available()
        else nullcontext()
    ):
        pipe.enable_model_cpu_offload()
    with pytest.raises(ValueError, match="gpu_id is -1"):
        pipe.enable_model_cpu_offload(gpu_id=-1)
    pipe._offloads_from = torch.device("meta")
    assert pipe.device.type == "meta" and pipe.to("cpu").device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_offloading_changes_no_video_on_a_gpu(classes):
    call = lambda: classes(["up"], **FAST, output_type="pt", seed=1).frames
    there = classes.to("cuda") and call()
    classes.enable_model_cpu_offload()
    assert torch.equal(call(), there) and classes.transformer.final_layer.linear.weight.device.type == "cpu"


def test_slices_are_exact(classes, monkeypatch):
    call = lambda: classes(["up"], **FAST, output_type="pt", seed=1).frames
    sizes, decode = [], classes.vae.model.decode
    monkeypatch.setattr(classes.vae.model, "decode", lambda z: sizes.append(len(z)) or decode(z))
    whole = call()
    for _ in range(2):
        classes.enable_vae_slicing()
    torch.testing.assert_close(call(), whole, rtol=0, atol=1e-5)
    classes.disable_vae_slicing()
    assert torch.equal(call(), whole) and sizes == [4, 1, 1, 1, 1, 4] and classes.vae.chunk == 8
    with pytest.raises(ValueError, match="has no VAE"):
        LattePipeline(classes.transformer).enable_vae_slicing()


def test_tiled_decoding_uses_smaller_inputs_and_is_close(monkeypatch):
    network = awake(Latte(LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=12, num_frames=2)))
    vae = VideoVAE(AutoencoderKL(VAEConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4)))
    pipe, sides = LattePipeline(network, vae), []
    decode = vae.model.decode
    monkeypatch.setattr(vae.model, "decode", lambda z: sides.append(tuple(z.shape[2:])) or decode(z))
    call = lambda: pipe(num_inference_steps=2, height=24, width=16, output_type="pt", progress=False, seed=1).frames
    whole = call()
    pipe.enable_vae_tiling(16)
    tiled = call()
    assert sides == [(12, 8), (8, 8), (8, 8)] and tiled.shape == whole.shape
    assert 1e-4 < (tiled - whole).abs().mean() < 0.1  # random weights; norms see only a tile
    assert not torch.equal(tiled, whole)
    pipe.enable_vae_tiling(20)  # in place of the first tiles
    sides.clear(), call()
    assert sides == [(10, 8), (10, 8)]
    pipe.disable_vae_tiling()
    sides.clear()
    assert torch.equal(call(), whole)
    with pytest.raises(ValueError, match="tile_size is 15; this VAE needs a multiple of 2"):
        pipe.enable_vae_tiling(15)


def test_a_copy_of_a_tiled_vae_decodes_by_its_own_weights():
    vae = VideoVAE(AutoencoderKL(VAEConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4)))
    latents = torch.randn(1, 1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    decode_in_tiles(vae, 8)
    other = copy.deepcopy(vae)
    other.model.decoder.conv_out.bias.data += 1
    torch.testing.assert_close(other.decode(latents), vae.decode(latents) + 1)
    decode_in_tiles(other, None)
    assert "decode" not in vars(other.model) and "decode" in vars(vae.model)


@pytest.mark.parametrize("sides", [(9, 14), (8, 8), (8, 30), (65, 7)])
def test_tiling_a_pixelwise_decoder_is_exact(sides):
    z = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    decode = lambda part: part.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(decode_tiles(decode, z, 8, 2), decode(z))
    for side in sides:
        starts = tile_starts(side, 8)
        assert starts[0] == 0 and starts[-1] == max(0, side - 8)
        assert all(0 < there - here <= 6 for here, there in pairwise(starts))  # a quarter overlaps


def test_tiles_fade_into_each_other():
    """Between two tiles that disagree, the seam is a ramp."""
    count = iter(range(9))
    out = decode_tiles(lambda part: torch.full_like(part, float(next(count))), torch.zeros(1, 1, 4, 7), 4, 1)
    assert torch.equal(out[0, 0, 0], torch.tensor([0, 0, 0, 0.5, 1, 1, 1]))


def test_single_files_are_read(classes, tmp_path):
    network = classes.transformer
    write_tensors(tmp_path / "ffs.safetensors", state_for_original(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = LattePipeline.from_single_file(tmp_path / "ffs.safetensors", vae=classes.vae, num_heads=2)
    call = lambda pipe: pipe([2], **FAST, output_type="latent", seed=1).frames
    torch.testing.assert_close(call(pipe), call(classes))
    with pytest.raises(CheckpointError, match="is a folder, but from_single_file reads a file: use from_pretrained"):
        LattePipeline.from_single_file(tmp_path)
    with pytest.raises(CheckpointError, match="no file at"):
        LattePipeline.from_single_file(tmp_path / "other.pt")
