"""Between two denoising steps the host never waits for the device: it reads and copies nothing."""

import pytest
import torch
from device_traffic import DeviceTraffic, MadeOfNumbers
from small_latte import TINY

from latte import LattePipeline
from latte.fast.switch import fast_paths
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.scheduler import ALL

T2V = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8, "video_length": 4}


def traffic_of_steps(pipe, monkeypatch, **call):
    """The device traffic of every step but the first, which may prepare, on the meta device."""
    monkeypatch.setattr("latte.sampling_loop.decode_latents", lambda vae, x, kind: torch.zeros(x.shape))
    traffic, steps = DeviceTraffic(), []

    def look(*_):
        steps.append(dict(traffic.seen))
        traffic.seen.clear()

    with traffic, MadeOfNumbers(traffic):
        pipe(num_inference_steps=3, progress=False, output_type="latent", callback_on_step_end=look, **call)
    assert len(steps) == 3
    return {kind: count for step in steps[1:] for kind, count in step.items()}


@pytest.mark.parametrize("sampler", ALL)
def test_class_conditional_sampling_never_syncs(sampler, monkeypatch):
    pipe = LattePipeline(Latte(LatteConfig(**{**TINY, "depth": 2, "prediction": "v"})).to("meta"))
    options = {"prompt": [1], "guidance_scale": 3.0, "guidance_interval": (200.0, 1000.0)}
    options |= {"eta": 1.0} if sampler == "ddim" else {}
    assert traffic_of_steps(pipe, monkeypatch, sampler=sampler, **options) == {}


@pytest.mark.parametrize("broadcast", [False, True])
def test_text_to_video_sampling_never_syncs(broadcast, monkeypatch):
    pipe = LattePipeline(LatteT2V(LatteT2VConfig(caption_channels=8, **T2V)).to("meta"))
    if broadcast:
        pipe.enable_pyramid_attention_broadcast(2, 3, 6)
    embeds = {name: torch.randn(1, 5, 8) for name in ("prompt_embeds", "negative_prompt_embeds")}
    assert traffic_of_steps(pipe, monkeypatch, guidance_scale=7.5, **embeds) == {}


def test_the_readable_network_never_syncs(monkeypatch):
    pipe = LattePipeline(Latte(LatteConfig(**{**TINY, "depth": 2})).to("meta"))
    with fast_paths(False):
        assert traffic_of_steps(pipe, monkeypatch, prompt=[1], guidance_scale=3.0) == {}


def test_device_traffic_is_detected():
    x = torch.zeros(2, device="meta")
    with DeviceTraffic() as traffic, MadeOfNumbers(traffic):
        torch.zeros(2).to("meta")
        torch.tensor([1.0], device="meta")
        x.new_tensor(2.0)
        with pytest.raises(RuntimeError):
            x.sum().item()
    assert [key.split()[0] for key in traffic.seen] == ["copy", "made", "made", "read"]


def test_cuda_graphs_need_cuda():
    pipe = LattePipeline(Latte(LatteConfig(**TINY)))
    pipe.cuda_graphs = True
    with pytest.raises(ValueError, match="cuda_graphs needs a model on CUDA, not on cpu"):
        pipe([1], num_inference_steps=1, progress=False, output_type="latent")
    with fast_paths(False), pytest.raises(ValueError, match="cuda_graphs records the fast form"):
        pipe([1], num_inference_steps=1, progress=False, output_type="latent")
