"""The presets: run settings by name, as in the papers."""

from dataclasses import asdict

import pytest
import torch

from latte.eval.networks.shape_features_config import ShapeFeaturesConfig
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.sampling_settings import Guidance, Sampling
from latte.train.presets import PRESETS
from latte.train.resolve import resolve


def test_what_a_change_leaves_without_effect_is_reset_one_after_the_other():
    assert resolve("shapes", []).sampling_defaults() == Sampling(Guidance(2.5, (400, 1000)), 100, 1.0)
    unconditional = resolve("shapes", ["classes=false"])
    assert (unconditional.sample_guidance, unconditional.sample_settings) == (0.0, {})
    with pytest.raises(ValueError, match="sample_guidance does nothing with classes=False"):
        resolve("shapes", ["classes=false", "sample_guidance=2"])


def test_presets_are_valid():
    for name in PRESETS:
        config = resolve(name, ["steps=3"])
        kinds = {"vae": VAEConfig, "t2v": LatteT2VConfig, "latte": LatteConfig, "features": ShapeFeaturesConfig}
        network = kinds[config.kind](**config.model)
        small = config.image_size == 64 and config.kind != "features"  # the features network is small by itself
        assert config.steps == 3 and (network != type(network)()) == (small or name in ("ucf101-vae", "ucf101-modern"))


def test_the_papers_presets_differ_as_its_data_sets_do():
    given = {name: each for name, each in PRESETS.items() if each.image_size == 256 and name[:7] != "ucf101-"}
    given["ucf101-img"] = PRESETS["ucf101-img"]
    published = LatteConfig.from_name("Latte-XL/2")
    assert len(given) == 8 and all(LatteConfig(**c.model) == published for c in given.values())
    assert {name for name, config in given.items() if config.classes} == {"ucf101", "ucf101-img"}
    assert {name for name, config in given.items() if not config.flip} == {"sky", "sky-img"}
    for name, config in given.items():
        still = name.endswith("-img")
        assert (config.num_images, config.global_batch_size) == ((8, 32) if still else (0, 40))
        assert config.data == f"data/{name.removesuffix('-img')}" and config.frame_interval == 3
    assert [given[name].clip_from for name in ("ffs", "sky", "ucf101", "taichi")] == [20000, 20000, 100000, 500000]
    assert [given[f"{name}-img"].clip_from for name in ("ffs", "sky")] == [500000, 20000]


def test_the_modern_preset_at_full_size():
    """Latte-XL on latents of the VAE that the preset ucf101-vae trains: a quarter of the paper's tokens."""
    config, published = resolve("ucf101-modern", []), PRESETS["ucf101"]
    shared = {name for name, value in asdict(config).items() if value == asdict(published)[name]}
    assert shared >= {"data", "frame_interval", "num_frames", "image_size", "flip", "learning_rate", "ema_decay"}
    assert (config.steps, config.global_batch_size, config.clip_grad, config.clip_from) == (400_000, 32, 1.0, 0)
    assert (config.timestep_std, config.timestep_mean, config.sample_guidance) == (1.0, 0.0, 2.0)
    of_vae = resolve("ucf101-vae", [])
    assert config.vae == "runs/ucf101-vae/final"  # where that preset's run leaves it
    assert (of_vae.data, of_vae.image_size) == (config.data, config.image_size)
    with torch.device("meta"):
        vae = VideoVAE(AutoencoderKL(VAEConfig(**of_vae.model)))
        side, channels = vae.latent_side(config.image_size), vae.config.latent_channels
        network = Latte(LatteConfig(**config.model, num_classes=101, input_size=side, in_channels=channels))
        x = torch.empty(2, config.num_frames, channels, side, side)
        y = network(x, torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert (side, channels, y.shape) == (8, 32, x.shape)  # and no variance
    patches = {"ours": channels, "the paper's": 2 * 2 * 4}  # numbers in a patch; both last layers give 32
    paper = 674_112_416 - (16 * 16 + 16) * 1152  # without its position tables, see test_latte_config.py
    ours = sum(parameter.numel() for parameter in network.parameters())
    assert ours == paper + (patches["ours"] - patches["the paper's"]) * 1152


def test_the_text_to_video_presets_at_full_size():
    """Latte-1's network, on latents of a VAE with 8x downsampling and embeddings as wide as T5-XXL's."""
    for name in ("t2v", "t2v-finetune"):
        config = resolve(name, [])
        sizes = {"sample_size": config.image_size // 8, "video_length": config.num_frames}
        shape = LatteT2VConfig(**config.model, **sizes)
        assert shape == LatteT2VConfig() and config.text_encoder == {}  # the same as Latte-1
    assert (config.init, config.vae) == ("Latte-1", "Latte-1/vae")
    with torch.device("meta"):
        network = LatteT2V(shape)
        x, text = torch.empty(1, 16, 4, 64, 64), torch.empty(1, 120, 4096)
        assert network(x, torch.zeros(1), text).shape == (1, 16, 8, 64, 64)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_057_246_880


def test_preset_values_made_ineffective_by_a_change_are_dropped():
    preset, config = resolve("shapes", []), resolve("shapes", ["schedule=constant"])
    assert (preset.cooldown, preset.cooldown_shape) == (0.3, "sqrt")
    assert (config.cooldown, config.cooldown_shape) == (0.2, "linear")
    assert [resolve("shapes-plain", words).timestep_mean for words in ([], ["timestep_std=0"])] == [0.5, 0.0]
    with pytest.raises(ValueError, match="cooldown does nothing with schedule=constant: leave it at"):
        resolve("shapes", ["schedule=constant", "cooldown=0.3"])
