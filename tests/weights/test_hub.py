"""Models by name on the Hugging Face hub, from its cache, and the examples of the documentation."""

from dataclasses import replace

import pytest
import torch
from goldens import relative_error

from latte import LattePipeline
from latte.models.latte import Latte, LatteConfig
from latte.video.read import read_video
from latte.video.write import export_to_gif
from latte.weights.hub import find_pipeline
from latte.weights.load import save_model
from latte.weights.tensors import CheckpointError


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """Put the published folder into a Hugging Face cache."""
    snapshots = tmp_path / "hub/models--maxin-cn--Latte-1/snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "0123abc").symlink_to(published)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("variable", "below"), [("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub"), ("HUGGINGFACE_HUB_CACHE", "")]
)
def test_the_hub_cache_follows_the_users_variables(published, variable, below, tmp_path, monkeypatch):
    snapshots = tmp_path / "home/caches" / below / "models--a--b/snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "0123abc").symlink_to(published)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, "~/caches")
    assert find_pipeline("a/b") == snapshots / "0123abc"


def test_the_main_revision_is_taken_if_it_is_complete(tmp_path, hub):
    stored = tmp_path / "hub/models--maxin-cn--Latte-1"
    (stored / "snapshots/newer/transformer").mkdir(parents=True)
    (stored / "snapshots/newer/transformer/config.json").write_text("{}")
    assert find_pipeline("maxin-cn/Latte-1").name == "newer"
    (stored / "refs").mkdir()
    (stored / "refs/main").write_text("0123abc\n")
    assert find_pipeline("maxin-cn/Latte-1").name == "0123abc"


def test_a_vae_can_be_named_on_the_hub(published, tmp_path, hub):
    snapshots = tmp_path / "hub/models--stabilityai--sd-vae-ft-ema/snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "1").symlink_to(published / "vae")
    tiny = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=2)
    model = save_model(Latte(tiny), tmp_path / "model")
    assert LattePipeline.from_pretrained(model, vae="stabilityai/sd-vae-ft-ema").vae.config.latent_channels == 4
    with pytest.raises(
        CheckpointError, match=r"fetch config\.json and diffusion_pytorch_model\.safetensors by --download"
    ):
        LattePipeline.from_pretrained(model, vae="stabilityai/sd-vae-ft-mse")


def test_models_can_be_named_on_the_hub(hub):
    assert LattePipeline.from_pretrained("maxin-cn/Latte-1", vae=None).scheduler.sampler == "ddim"
    with pytest.raises(CheckpointError, match=r"fetch transformer/, vae/.*hf download maxin-cn/Latte-2"):
        LattePipeline.from_pretrained("maxin-cn/Latte-2")


def test_the_documentations_examples_run(hub, monkeypatch, tmp_path):
    compiler, network = torch.compile, torch.nn.Module  # test_pab.py compiles the network of a pipeline
    fast = lambda function: compiler(function, backend="eager", disable=isinstance(function, network))
    monkeypatch.setattr(torch, "compile", fast)

    pipeline = LattePipeline.from_pretrained("maxin-cn/Latte-1", torch_dtype=torch.float32).to("cpu")
    pipeline.sampling = few = replace(pipeline.sampling, num_inference_steps=5)
    pipeline.transformer.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.transformer = torch.compile(pipeline.transformer)
    pipeline.vae.decode = torch.compile(pipeline.vae.decode)
    video = pipeline(prompt="A dog wearing sunglasses floating in space, surreal, nebulae in background").frames[0]
    assert len(video) == 16 and video[0].size == (64, 64)

    pipe = LattePipeline.from_pretrained("maxin-cn/Latte-1", torch_dtype=torch.float32)
    pipe.sampling = few
    plain = pipe("A small cactus with a happy face in the Sahara desert.", output_type="latent").frames
    pipe.enable_pyramid_attention_broadcast(
        spatial_attn_skip_range=2,
        cross_attn_skip_range=6,
        spatial_attn_timestep_range=[100, 800],
        cross_attn_timestep_range=[100, 800],
    )
    videos = pipe("A small cactus with a happy face in the Sahara desert.").frames[0]
    export_to_gif(videos, "latte.gif")
    assert len(read_video(tmp_path / "latte.gif")[0]) == 16
    other = pipe("A small cactus with a happy face in the Sahara desert.", output_type="latent").frames
    assert 1e-4 < relative_error(other, plain) < 0.2
    assert LattePipeline(**pipeline.components).transformer is pipeline.transformer


def test_a_mistyped_folder_is_not_taken_for_a_name_on_the_hub(tmp_path, hub):
    tiny = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=2)
    save_model(Latte(tiny), tmp_path / "runs/main/final")
    for name in ("runs/mian", "rusn/main", "./runs/mian", str(tmp_path / "runs/mian")):
        meant = tmp_path / "runs/main" if name[0] == "/" else "runs/main"
        or_hub = "; if it is a name on the Hugging Face hub, add --download \\(in Python: " if name[0] == "r" else "$"
        with pytest.raises(CheckpointError, match=rf"^no model at {name}: did you mean {meant}\?{or_hub}"):
            find_pipeline(name)
    with pytest.raises(
        CheckpointError, match=r"^no model at runs/other: runs holds no such folder; if it is a name on"
    ):
        find_pipeline("runs/other")
    none = "no model at rnu/other: there is no folder rnu here; if it is a name on the Hugging Face hub, fetch "
    how = r"transformer/, vae/, .* by --download \(in Python: .*\) or `hf download rnu/other`, as \S+ does not hold it$"
    with pytest.raises(CheckpointError, match=f"^{none}{how}"):
        find_pipeline("rnu/other")
    with pytest.raises(CheckpointError, match=r"^no model at rnu/other/final: there is no folder rnu$"):
        find_pipeline("rnu/other/final")  # names on the hub have one slash
    assert find_pipeline("shapes/vae", local_files_only=False).name == "vae"  # ships with the package: no hub request
