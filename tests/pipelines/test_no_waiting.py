"""Between two denoising steps the host never waits for the device: it reads and copies nothing."""

import pytest
import torch
from device_traffic import DeviceTraffic, MadeOfNumbers
from small_latte import TINY

from latte import LattePipeline
from latte.fast.float8_products import float8_products
from latte.fast.switch import fast_paths
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.plans.rules import faster_cache, gate_guidance, repeat, repeat_blocks, tea_cache
from latte.scheduler import ALL

T2V = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8, "video_length": 4}
PLANS = {
    "network": lambda plan: repeat(plan, 3, "network", 1),
    "clean": lambda plan: repeat(plan, 3, "clean", 1),
    "mlp": lambda plan: repeat(plan, 3, "mlp", 1),
    "block": lambda plan: repeat_blocks(plan, (0, 1000), 2),
    "gate": lambda plan: gate_guidance(plan, 2),
    "FasterCache": faster_cache,
}
METHODS = {"apg": {"threshold": 2.0}, "cfg-zero": {"zero_steps": 2}, "cfg++": {}}


def traffic_of_steps(pipe, monkeypatch, steps=3, **call):
    """The device traffic of every step but the first, which may prepare, on the meta device."""
    monkeypatch.setattr("latte.sampling_loop.decode_latents", lambda vae, x, kind: torch.zeros(x.shape))
    traffic, found = DeviceTraffic(), []

    def look(*_):
        found.append(dict(traffic.seen))
        traffic.seen.clear()

    with traffic, MadeOfNumbers(traffic):
        pipe(num_inference_steps=steps, progress=False, output_type="latent", callback_on_step_end=look, **call)
    assert len(found) == steps
    return {kind: count for step in found[1:] for kind, count in step.items()}


def class_pipeline(**option):
    return LattePipeline(Latte(LatteConfig(**{**TINY, "depth": 2, **option})).to("meta"))


@pytest.mark.parametrize("sampler", ALL)
def test_class_conditional_sampling_never_syncs(sampler, monkeypatch):
    pipe = class_pipeline(prediction="v")
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


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_plans_never_sync(name, fast, monkeypatch):
    pipe = class_pipeline()
    pipe.enable_plan(PLANS[name])
    with fast_paths(fast):
        assert traffic_of_steps(pipe, monkeypatch, 6, prompt=[1], guidance_scale=3.0) == {}


def test_a_plan_that_tests_the_data_is_noticed(monkeypatch):
    pipe = class_pipeline()
    pipe.enable_plan(tea_cache)
    with pytest.raises(RuntimeError, match="meta"):
        traffic_of_steps(pipe, monkeypatch, 6, prompt=[1], guidance_scale=3.0)


@pytest.mark.parametrize("prediction", ["eps", "flow"])
@pytest.mark.parametrize("method", METHODS)
def test_ways_to_guide_never_sync(method, prediction, monkeypatch):
    """With self-conditioning, and the last difference of both halves from the third step on."""
    pipe = class_pipeline(prediction=prediction, self_condition=True)
    pipe.enable_plan(PLANS["gate"])
    options = {"guidance_scale": 0.6 if method == "cfg++" else 3.0, "guidance_options": METHODS[method]}
    assert traffic_of_steps(pipe, monkeypatch, 4, prompt=[1], guidance_method=method, **options) == {}


def test_the_readable_network_never_syncs(monkeypatch):
    with fast_paths(False):
        assert traffic_of_steps(class_pipeline(), monkeypatch, prompt=[1], guidance_scale=3.0) == {}


def test_8_bit_products_never_sync(monkeypatch):
    pipe = class_pipeline()
    with float8_products(pipe.transformer):
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
