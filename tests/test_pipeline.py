"""The pipeline and its command: which video depends on what, every option, and what is told about bad ones."""

import json

import numpy as np
import pytest
import torch
from goldens import relative_error

from latte import LattePipeline
from latte.checkpoint import save_model
from latte.cli import main
from latte.diffusion.gaussian import predict_x0, split_output
from latte.diffusion.schedule import linear_schedule, respace
from latte.eval.main import evaluate
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.shapes import MOTIONS
from latte.tensors import CheckpointError
from latte.vae_io import save_vae

VAE = VAEConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
SHAPE = dict(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4)


def awake(model):
    """Zero-initialised outputs would make every video its own noise."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def vae():
    return VideoVAE(awake(AutoencoderKL(VAE)))


@pytest.fixture(scope="module")
def pipe(vae):
    return LattePipeline(awake(Latte(LatteConfig(num_classes=8, **SHAPE))), vae, list(MOTIONS))


@pytest.fixture(scope="module")
def unconditional(vae):
    return LattePipeline(awake(Latte(LatteConfig(**SHAPE))), vae)


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = save_model(pipe.transformer, tmp_path_factory.mktemp("model"))
    save_vae(pipe.vae, folder / "vae")
    (folder / "classes.json").write_text(json.dumps({"names": pipe.class_names}))
    return folder


def make(pipe, labels=(0, 3, 5, 3, 7), **options):
    return pipe(list(labels), **{"num_inference_steps": 3, "output_type": "latent", "seed": 4, **options}).frames


def test_video_i_is_the_same_whatever_else_is_asked_for(pipe):
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
        {"num_inference_steps": 4},
        {"num_inference_steps": "ddim5"},
        {"sampler": "ddpm"},
        {"eta": 0.5},
    ],
)
def test_every_option_changes_the_video(pipe, change):
    plain, other = make(pipe, (2,)), make(pipe, (2,), **change)
    assert plain.shape == other.shape and not torch.allclose(plain, other)


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
    assert torch.equal(pipe.decode(latents.transpose(1, 2)), byte)
    several = unconditional(num_videos=3, num_inference_steps=2, output_type="uint8", batch_size=2)
    assert several.frames.shape == (3, 4, 3, 16, 16)


def test_guidance_of_one_is_the_model_itself(pipe):
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
    return lambda step, t, x: rows.append((step, t, x.clone()))


def test_classes_by_name_or_number(pipe):
    assert torch.equal(make(pipe, ("left", "3")), make(pipe, (0, 3)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_labels": None}, "8 classes: give class_labels"),
        ({"class_labels": []}, "class_labels is empty"),
        ({"class_labels": ["sideways"]}, "0 left, 1 right"),
        ({"class_labels": [8]}, "no class 8"),
        ({"class_labels": [-1]}, "no class -1"),
        ({"height": 20}, "height is 20; this model needs a multiple of 16"),
        ({"num_frames": -2}, "num_frames is -2"),
        ({"sampler": "euler"}, "not one of ddpm, ddim"),
        ({"output_type": "mp4"}, "not one of np"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": 0}, "0"),
        ({"num_inference_steps": 1001}, "1001"),
    ],
)
def test_wrong_calls_are_told(pipe, options, words):
    with pytest.raises(ValueError, match=words):
        pipe(**{"class_labels": [1], "output_type": "latent", **options})


def test_wrong_calls_of_other_models_are_told(unconditional, pipe):
    with pytest.raises(ValueError, match="unconditional: give num_videos"):
        unconditional([1])
    with pytest.raises(ValueError, match="num_videos is 0"):
        unconditional(num_videos=0)
    with pytest.raises(ValueError, match="no VAE to decode with"):
        LattePipeline(pipe.transformer)([1])


def test_from_pretrained_is_the_same_pipeline(pipe, folder, vae):
    for options in ({}, {"vae": folder / "vae"}, {"vae": vae}):
        again = LattePipeline.from_pretrained(folder, **options)
        assert again.class_names == list(MOTIONS)
        assert torch.equal(make(again, output_type="uint8"), make(pipe, output_type="uint8"))
    half = LattePipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    latents = make(half, (1,))
    assert latents.dtype == torch.float32 and 1e-4 < relative_error(latents, make(pipe, (1,))) < 0.1
    with pytest.raises(CheckpointError, match="no model at nowhere"):
        LattePipeline.from_pretrained("nowhere")


SAMPLE = ["--num-sampling-steps", "2", "--num-videos", "1", "--device", "cpu"]


def test_command_writes_what_the_pipeline_gives(folder, tmp_path, capsys):
    assert main(["sample", str(folder), "--out", str(tmp_path), *SAMPLE, "--classes", "left", "7"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"000-left.mp4", "001-shrinking.mp4", "contact-sheet.png", "all.webp", "index.html"}
    said = capsys.readouterr().out
    assert "2 videos of 4 x 16 x 16" in said and str(folder) in said and "next:" in said


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--classes", "sideways"], "0 left, 1 right"),
        (["--height", "20"], "multiple of 16"),
        (["--num-videos", "0"], "--num-videos is 0"),
        (["--num-sampling-steps", "lots"], "lots"),
        (["--fps", "0"], "--fps is 0"),
        (["--vae", "nowhere"], "nowhere"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_words_end_in_one_line(folder, tmp_path, capsys, words, say):
    assert main(["sample", str(folder), "--out", str(tmp_path / "out"), *SAMPLE, *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("latte sample: error:") and say in error
    assert not (tmp_path / "out").exists()


def test_misspelt_option_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sample", "--num-vidoes", "2"])
    assert stopped.value.code == 2 and "--num-vidoes" in capsys.readouterr().err


def test_evaluation_of_a_model_that_knows_nothing(pipe, unconditional, folder, tmp_path):
    words = ["eval", str(folder), "--num-videos", "8", "--num-sampling-steps", "2", "--out", str(tmp_path / "s.json")]
    assert main([*words, "--device", "cpu"]) == 0
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["guidance_scale"] == 4.0 and report["seed"] == 0
    assert set(report["scores"]) == {"real clips", "VAE reconstructions", "samples"}
    assert report["scores"]["samples"]["motion_accuracy"] < 0.5
    with pytest.raises(ValueError, match="built-in shapes"):
        evaluate(unconditional, 8)
