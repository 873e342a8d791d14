"""Some GPUs have no float64. Meta tensors and a trap for float64 show what would fail on them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from latte.diffusion import schedule
from latte.diffusion.guidance_methods import cfg_zero_star, projected_guidance
from latte.diffusion.loss import diffusion_loss
from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import flow_schedule, linear_schedule, respace
from latte.models import condition
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.train.latent_normalisation import matrix

SHAPE = (2, 3, 4, 4, 4)


class WithoutFloat64(TorchDispatchMode):
    """Raise TypeError for an operation that makes a float64 tensor on the meta device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for made in tree_flatten(out)[0]:
            if isinstance(made, torch.Tensor) and made.device.type == "meta" and made.dtype == torch.float64:
                raise TypeError(f"{function} makes float64 on a device without it")
        return out


@pytest.fixture(autouse=True)
def without_float64(monkeypatch):
    for module in (schedule, condition):
        monkeypatch.setattr(module, "WITHOUT_FLOAT64", ("meta",))
    with WithoutFloat64():
        yield


def x():
    return torch.empty(SHAPE, device="meta")


def test_the_trap_works():
    with pytest.raises(TypeError, match="makes float64"):
        x().double()


def test_guidance_methods_run():
    assert projected_guidance(x(), x(), x(), 3.0, 0.5, threshold=1.0)[0].shape == SHAPE
    assert cfg_zero_star(x(), x(), x(), 3.0, 0.5).shape == SHAPE


@pytest.mark.parametrize("schedule", [linear_schedule(), flow_schedule()], ids=["variance-preserving", "flow"])
def test_sampling_runs_between_whole_timesteps(schedule):
    between = respace(schedule, [0.25, 400.5, 999])
    seen = []
    for state in ddim(lambda x, t: seen.append(t.dtype) or x, x(), between, lambda count: x(), eta=1.0):
        assert state.shape == SHAPE
    assert seen == [torch.float32] * 3


def test_weighted_losses_run():
    index = torch.zeros(2, dtype=torch.long, device="meta")
    values = diffusion_loss(lambda z, t: z, x(), index, x(), linear_schedule(), "v", snr_gamma=5.0)
    assert values["loss"].dtype == torch.float32


@pytest.mark.parametrize("form", ["classes", "text"])
def test_networks_run(form):
    shape = {"patch_size": 2, "self_condition": True}
    if form == "classes":
        config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=3, num_classes=3, **shape)
        network, given = Latte, {"y": torch.zeros(2, dtype=torch.long, device="meta")}
    else:
        size = dict(num_layers=1, num_attention_heads=2, attention_head_dim=8, caption_channels=6, sample_size=4)
        config = LatteT2VConfig(**size, video_length=3, **shape)
        network, given = LatteT2V, {"text": torch.empty(2, 4, 6, device="meta")}
    with torch.device("meta"):
        made = network(config).eval()
    out = made(torch.empty(2, 3, 8, 4, 4, device="meta"), torch.empty(2, device="meta"), *given.values())
    assert out.shape == (2, 3, 8, 4, 4) and out.dtype == torch.float32


def test_the_normalisation_of_latents_computes_on_the_cpu(monkeypatch):
    """`matrix` copies a weight to the CPU before it makes it float64; here the copy stands in for the CPU's."""
    conv = torch.nn.Conv2d(2, 2, 1, device="meta")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.ones(tensor.shape))
    assert matrix(conv).dtype == torch.float64
