"""Published text-to-video folders: loaded, converted, and sampled from the command line."""

import shutil

import pytest
import torch
from goldens import relative_error
from published import PROMPTS, QUICK, SHARDS
from safetensors.torch import load_file, save_file

from latte import LattePipeline
from latte.cli import main
from latte.models.t5 import T5Config, T5Encoder
from latte.sampling_settings import Guidance
from latte.scheduler import PUBLISHED, Scheduler
from latte.shapes.draw import SHAPES
from latte.shapes.examiner import examine
from latte.weights.published import load_t5
from latte.weights.t2v_folder import convert_to_our_layout
from latte.weights.tensors import CheckpointError


def test_both_published_forms_of_the_transformer(published, tmp_path, pipe):
    copy = shutil.copytree(published, tmp_path / "original")
    file = copy / "transformer/diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "caption_projection.y_embedding": torch.zeros(120, 32)}, file)
    other = LattePipeline.from_pretrained(copy, vae=None)
    assert other.vae is None and torch.equal(other(PROMPTS[0], **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames)


def test_schedulers_of_published_configurations():
    for kind, sampler in PUBLISHED.items():
        config = {"_class_name": kind, "variance_type": "learned_range", "steps_offset": 1, "clip_sample": False}
        spacing = "leading" if sampler in ("ddim", "ddpm", "pndm") else "linspace"
        last = sampler != "pndm"  # its class ends at the level of timestep 0 unless set otherwise
        assert Scheduler.from_config(config) == Scheduler(sampler, spacing, steps_offset=1, set_alpha_to_one=last)
    for wrong, say in (
        ({"_class_name": "UniPC"}, "class is 'UniPC'"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "cosine"}, "beta_schedule is 'cosine'"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "sample"}, "prediction_type is 'sample'"),
        ({"_class_name": "DDIMScheduler", "steps_offset": "1"}, "steps_offset is '1'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "algorithm_type is 'sde"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "heun"}, "solver_type is 'heun'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min"}, "final_sigmas_type is"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": False}, "skip_prk_steps is False"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "log"}, "timestep_spacing is 'log'"),
    ):
        with pytest.raises(ValueError, match=say):
            Scheduler.from_config(wrong)


def test_a_tied_embedding_may_be_stored_under_both_names(published, tmp_path):
    weights = {k: v for name in SHARDS for k, v in load_file(published / "text_encoder" / name).items()}
    shutil.copy(published / "text_encoder/config.json", tmp_path)
    torch.save({**weights, "encoder.embed_tokens.weight": weights["shared.weight"]}, tmp_path / "pytorch_model.bin")
    expected = load_t5(published / "text_encoder").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_t5(tmp_path).state_dict().items())


def test_a_folders_own_guidance_settings(published, tmp_path, pipe, capsys):
    copy = shutil.copytree(published, tmp_path / "copy")
    (copy / "sampling.json").write_text('{"guidance_scale": 2}')
    own = LattePipeline.from_pretrained(copy)
    assert torch.equal(own(PROMPTS[0], **QUICK).frames, pipe(PROMPTS[0], guidance_scale=2.0, **QUICK).frames)
    assert not torch.equal(own(PROMPTS[0], **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames)
    assert main(["convert", str(copy), str(tmp_path / "ours")]) == 0
    assert LattePipeline.from_pretrained(tmp_path / "ours").sampling.guidance == Guidance(2)
    words = ["sample", str(copy), "--prompt", "a", "--num-sampling-steps=1", "--num-frames=1", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert "guidance 2" in capsys.readouterr().out
    for values, words in {
        '{"guidance_scale": "much"}': "guidance_scale is 'much'; it must be a finite number",
        '{"guidance_scale": 2, "guidance_interval": [9, 3]}': "two timesteps, the lower one first",
        '{"num_inference_steps": 0}': "num_inference_steps is 0; it must be a whole number from 1 to 1000",
        '{"eta": "all"}': "eta is 'all'; it must be from 0 to 1",
        '{"steps": 5}': "unknown key 'steps'; the keys are guidance_scale",
    }.items():
        (copy / "sampling.json").write_text(values)
        with pytest.raises(CheckpointError, match=rf"sampling\.json: .*{words}"):
            LattePipeline.from_pretrained(copy)


def test_guidance_between_two_timesteps(published, tmp_path, pipe, capsys):
    copy = shutil.copytree(published, tmp_path / "copy")
    (copy / "sampling.json").write_text('{"guidance_scale": 2, "guidance_interval": [400, 1000]}')
    own = LattePipeline.from_pretrained(copy)(PROMPTS[0], **QUICK).frames
    named = pipe(PROMPTS[0], guidance_scale=2.0, guidance_interval=(400, 1000), **QUICK).frames
    assert torch.equal(own, named) and not torch.equal(own, pipe(PROMPTS[0], guidance_scale=2.0, **QUICK).frames)
    with pytest.raises(ValueError, match="guidance_interval does nothing with guidance_scale 1"):
        pipe(PROMPTS[0], guidance_scale=1, guidance_interval=(400, 1000), **QUICK)
    with pytest.raises(ValueError, match=r"guidance_interval does nothing with guidance_scale 0\.5: set it above 1"):
        pipe(PROMPTS[0], guidance_scale=0.5, guidance_interval=(400, 1000), **QUICK)
    with pytest.raises(
        ValueError, match=r"guidance_interval 0\.2 to 0\.8 holds none of the \d+ timesteps that are visited"
    ):
        pipe(PROMPTS[0], guidance_scale=2, guidance_interval=(0.2, 0.8), **QUICK)
    words = ["sample", str(copy), "--prompt", "a", "--num-sampling-steps=1", "--num-frames=1", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert "guidance 2 at t of 400 to 1000" in capsys.readouterr().out
    later = ["--num-sampling-steps", "3", "--cfg-interval", "0", "300"]
    assert main([*words, str(tmp_path / "out"), "--overwrite", *later]) == 0
    assert "guidance 2 at t of 0 to 300" in capsys.readouterr().out


def test_missing_parts_are_named(pipe, published, parts):
    with pytest.raises(ValueError, match="no text encoder"):
        LattePipeline(pipe.transformer, pipe.vae)(PROMPTS[0], **QUICK)
    with pytest.raises(ValueError, match="no VAE to decode with"):
        LattePipeline(**{**parts, "vae": None})(PROMPTS[0])
    lone = LattePipeline.from_pretrained(published, transformer=None, vae=None)
    assert torch.equal(lone.encode_prompt(PROMPTS[0]).prompt, pipe.encode_prompt(PROMPTS[0]).prompt)
    with pytest.raises(ValueError, match="no transformer"):
        lone(PROMPTS[0])
    with pytest.raises(ValueError, match="no transformer"):
        lone.enable_pyramid_attention_broadcast(2)
    small = T5Encoder(T5Config(vocab_size=9, d_model=32, d_kv=4, d_ff=8, num_layers=1, num_heads=1))
    with pytest.raises(ValueError, match="the text encoder knows 9"):
        LattePipeline(**{**parts, "text_encoder": small})
    with pytest.raises(ValueError, match=r"num_heads does nothing for .*, a text-to-video model"):
        LattePipeline.from_pretrained(published, num_heads=3)


def damage(folder, how):
    text = folder / "text_encoder"
    if how == "shard":
        (text / SHARDS[1]).unlink()
    elif how == "index":
        (text / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    elif how == "twice":
        shutil.copy(text / SHARDS[0], text / SHARDS[1])
    elif how == "config":
        (folder / "transformer/config.json").write_text('{"norm_type": "layer_norm"}')
    elif how == "weights":
        (folder / "transformer/diffusion_pytorch_model.safetensors").unlink()
    elif how == "scheduler":
        (folder / "scheduler/scheduler_config.json").unlink()
    elif how == "tokenizer":
        (folder / "tokenizer/spiece.model").write_bytes(b"no")


@pytest.mark.parametrize(
    ("how", "say"),
    [
        ("shard", "there is no such file"),
        ("index", "is not a file of this folder"),
        ("twice", "is in another shard too"),
        ("config", "norm_type is 'layer_norm'"),
        ("weights", "holds no weights"),
        ("scheduler", "holds no scheduler_config"),
        ("tokenizer", "is damaged or is not a SentencePiece"),
    ],
)
def test_damaged_folders_are_rejected(published, how, say, tmp_path):
    copy = shutil.copytree(published, tmp_path / "copy")
    damage(copy, how)
    with pytest.raises(CheckpointError, match=say):
        LattePipeline.from_pretrained(copy)


def test_half_precision_is_near_the_exact_one(published, pipe):
    half = LattePipeline.from_pretrained(published, torch_dtype=torch.float16)
    assert next(half.transformer.parameters()).dtype == torch.float16
    assert half.text_encoder.blocks[0].wo.weight.dtype == torch.float32
    for name, tensor in half.text_encoder.state_dict().items():
        assert tensor.dtype == (torch.float32 if ".wo." in name else torch.float16)
    assert relative_error(half(PROMPTS[0], **QUICK).frames.float(), pipe(PROMPTS[0], **QUICK).frames) < 0.05
    assert load_t5(published / "text_encoder").tokens.weight.dtype == torch.float32


def test_low_memory_quantises_the_text_encoder_and_keeps_it_on_the_cpu(published, pipe):
    low = LattePipeline.from_pretrained(published, memory="low")
    sizes = [sum(t.numel() * t.element_size() for n, t in p.text_encoder.state_dict().items() if "block" in n)
             for p in (low, pipe)]  # fmt: skip
    assert sizes[0] < 0.35 * sizes[1] and low.vae.chunk == 1
    assert 1e-6 < relative_error(low.encode_prompt(PROMPTS[0]).prompt, pipe.encode_prompt(PROMPTS[0]).prompt) < 0.05
    assert relative_error(low(PROMPTS[0], **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames) < 0.3
    quantized = LattePipeline.from_pretrained(published, memory="low", text_encoder=load_t5(published / "text_encoder"))
    table = quantized.text_encoder.state_dict()
    assert all(torch.equal(value, table[name]) for name, value in low.text_encoder.state_dict().items())
    halved = LattePipeline.from_pretrained(published, memory="low", torch_dtype=torch.float16).text_encoder
    assert halved.blocks[0].q.scale.dtype == torch.float32 and halved.tokens.weight.dtype == torch.float16
    outputs = []
    halved.blocks[0].wo.register_forward_hook(lambda _, args, out: outputs.append(out.dtype))
    halved(torch.tensor([[1]]))
    assert outputs == [torch.float32]
    low.to("meta", torch.float16)
    assert low.transformer.final_linear.weight.is_meta and not low.text_encoder.tokens.weight.is_meta
    assert low.text_encoder.tokens.weight.dtype == torch.float16
    with pytest.raises(ValueError, match="memory is 'tiny'"):
        LattePipeline.from_pretrained(published, memory="tiny")


def test_conversion_to_our_folder(published, tmp_path, pipe, capsys):
    assert main(["convert", str(published), str(tmp_path / "ours")]) == 0
    assert "46,904 parameters" in capsys.readouterr().out
    ours = LattePipeline.from_pretrained(tmp_path / "ours")
    assert torch.equal(ours(PROMPTS[0], **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames)
    assert main(["convert", str(published), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    half = load_file(tmp_path / "half/text_encoder/model.safetensors")
    assert half["blocks.0.wo.weight"].dtype == torch.float32 and half["blocks.0.q.weight"].dtype == torch.float16
    assert main(["convert", str(published), str(tmp_path / "x"), "--to", "original"]) == 2
    (tmp_path / "full/vae").mkdir(parents=True)
    (tmp_path / "full/vae/note").write_text("mine")
    assert main(["convert", str(published), str(tmp_path / "full")]) == 2
    assert [path.name for path in (tmp_path / "full").rglob("*")] == ["vae", "note"]


def test_sampling_a_published_model_from_the_command_line(published, tmp_path, capsys):
    words = ["sample", str(published), "--num-sampling-steps=6", "--num-frames=2", "--prompt", "a red star", "a cat"]
    assert main([*words, "--out", str(tmp_path / "a"), "--batch-size", "1"]) == 0
    said = capsys.readouterr().out
    again = f"latte sample {published} --out {tmp_path / 'a-2'} --prompt 'a red star' 'a cat' --num-frames 2"
    assert f"{again} --num-sampling-steps 6 --seed 1 --batch-size 1" in said
    assert all(f"{file} sha256" in said for file in ("transformer/diffusion_pytorch_model.safetensors", *SHARDS))
    assert sorted(path.name for path in (tmp_path / "a").glob("*.mp4")) == ["000-a-red-star.mp4", "001-a-cat.mp4"]
    for change in (
        ["--seed", "1"],
        ["--sampler", "ddpm"],
        ["--pab", "temporal=2"],
        ["--negative-prompt", "dog"],
        ["--memory", "low"],
    ):
        assert main([*words, *change, "--out", str(tmp_path / "b"), "--overwrite"]) == 0
        assert (tmp_path / "a/000-a-red-star.mp4").read_bytes() != (tmp_path / "b/000-a-red-star.mp4").read_bytes()
    for wrong, say in (
        (["--prompt", "a", "--classes", "1"], "--classes"),
        ([], "give --prompt"),
        (["--prompt", "a", "--pab", "spatial"], "expected KIND=RANGE"),
        (["--prompt", "a", "--num-sampling-steps", "ddim50"], "--steps is ddim50; it must be a whole number"),
        (["--prompt", "a", "--weights", "model"], "--weights does nothing"),
        (["--prompt", "a", "--batch-size", "0"], "--batch-size is 0"),
        (["--prompt", "a", "b", "--num-videos", "999999"], "at most 1000000 in total"),
    ):
        capsys.readouterr()
        assert main(["sample", str(published), *wrong, "--out", str(tmp_path / "c")]) == 2
        assert say in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize(
    ("change", "say"),
    [
        (lambda z: z.to(torch.int8), "not of plain floating-point numbers"),
        (lambda z: z.bool(), "not of plain floating-point numbers"),
        (lambda z: z.float() + 1e6, "overflows float16"),
    ],
)
def test_unsuitable_weights_are_rejected(part, change, say, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "copy")
    file = sorted((folder / part).glob("*.safetensors"))[0]
    state = load_file(file)
    name = max((name for name in state if state[name].ndim == 2 and ".wo." not in name), key=len)
    save_file({**state, name: change(state[name])}, file)
    with pytest.raises(CheckpointError, match=say):
        LattePipeline.from_pretrained(folder, torch_dtype=torch.float16)


def test_conversion_never_mixes_two_models(published, tmp_path, capsys):
    convert = lambda source, target: main(["convert", str(source), str(tmp_path / target), "--overwrite"])
    assert convert("shapes-t2v", "a") == 0 and convert("shapes-t2v", "a") == 0
    assert convert(published, "a") == 2 and "holds sampling.json, which" in capsys.readouterr().err
    assert convert(published, "b") == 0
    assert convert("shapes-t2v", "b") == 2 and "holds vae_temporal_decoder, which" in capsys.readouterr().err
    assert convert("shapes", "c") == 0
    assert convert("shapes-t2v", "c") == 2 and "holds classes.json, which" in capsys.readouterr().err


def test_an_interrupted_conversion_leaves_the_old_model(published, tmp_path):
    for _ in convert_to_our_layout(published, tmp_path / "a", torch.float32):
        pass
    size = lambda: (tmp_path / "a/transformer/model.safetensors").stat().st_size
    whole, again = size(), convert_to_our_layout(published, tmp_path / "a", torch.float16)
    next(again)
    again.close()
    assert size() == whole and LattePipeline.from_pretrained(tmp_path / "a").vae is not None
    for _ in convert_to_our_layout(tmp_path / "a", tmp_path / "a", torch.float16):  # a folder over itself
        pass
    assert size() < 0.6 * whole and LattePipeline.from_pretrained(tmp_path / "a").vae is not None
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_bundled_model_follows_its_prompts(tmp_path, capsys):
    """Most shapes and motions of a few prompts are right; docs/text-to-video.md has its scores over many."""
    ways, colours = ("left", "right", "up", "down"), ("red", "green", "blue", "cyan")
    prompts = [f"a {colour} {shape} moving {way}" for colour, shape, way in zip(colours, SHAPES, ways)]
    pipe = LattePipeline.from_pretrained("shapes-t2v")
    videos = pipe(prompts, output_type="uint8", num_inference_steps=30, seed=1, progress=False).frames.numpy()
    found = [examine(video) for video in videos]
    assert sum(f.motion == way for f, way in zip(found, ways)) >= 3
    assert sum(f.shape == shape for f, shape in zip(found, SHAPES)) >= 3
    words = ["sample", "--prompt", "a red star moving left", "--num-sampling-steps", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "shapes-t2v" in capsys.readouterr().out
