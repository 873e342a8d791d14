"""Processes that share a video compute what one process computes. All checks of a number of processes run in one fork."""

import copy
import os
from itertools import product

import pytest
import torch
from awake_models import VAE, awake
from forks import together

from latte.models.denoiser import Denoiser
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.parallel import parallel, sampling_mesh
from latte.parallel import split as collectives
from latte.parallel.communication import decoding_transfer, evaluation_transfers, gradient_transfers
from latte.parallel.layout import Layout, training_meshes
from latte.parallel.sequence import attach, temporal_runs
from latte.parallel.split import Split
from latte.processes import processes

CPU = torch.device("cpu")
SMALL = dict(depth=4, hidden_size=16, num_heads=4, num_classes=5)
OPTIONS = [{"variant": v} for v in (1, 2, 3, 4)]
OPTIONS += [{"conditioning": "tokens"}, {"temporal_pos": "rope", "variant": 2}, {"tubelet": 2, "variant": 4}]
FRAMES, SIDES = 5, (6, 6)  # 5 frames and 9 patches, which neither 2 nor 4 divide


def networks() -> list[Denoiser]:
    """Every variant, in float64, where only a wrong result differs by more than rounding."""
    t2v = LatteT2VConfig(num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_channels=8)
    made = [*(Latte(LatteConfig(**SMALL, **option)) for option in OPTIONS), LatteT2V(t2v)]
    return [awake(network).double() for network in made]


def inputs(network: Denoiser, batch: int, images: int = 0) -> list[torch.Tensor]:
    """A noisy batch and its conditions, of a clip and perhaps still images."""
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))
    x, t = draw(batch, FRAMES * network.tubelet + images, 4, *SIDES), torch.arange(batch) * 100 + 3
    each = (1 + images,) if images else ()
    if isinstance(network, Latte):
        return [x, t, torch.arange(batch * (1 + images)).reshape(batch, *each) % 6]
    return [x, t, draw(batch, *each, 7, 8), torch.ones(batch, *each, 7).index_fill(-1, torch.tensor([6]), 0)]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and float((a - b).norm() / b.norm()) < tolerance


def check_outputs(mesh) -> None:
    for network, batch in product(networks(), (1, 2)):
        given, names = inputs(network, batch), set(vars(network))
        with torch.no_grad():
            expected = network(*given)
            with parallel(mesh, network):
                assert close(network(*given), expected), (network.config, batch)
            assert torch.equal(network(*given), expected) and set(vars(network)) == names
            if isinstance(network, LatteT2V):
                expected = network(*given, temporal=False)
                with parallel(mesh, network):
                    assert close(network(*given, temporal=False), expected)


def check_gradients(size: int) -> None:
    """The mean over the processes of their gradients is that of one process, also of still images and recomputed."""
    mesh = training_meshes("cpu", size, size, 0)[0]["sequence"]
    for network in networks():
        images = 0 if network.tubelet > 1 else 1
        given = [*inputs(network, 2, images), *([images] if images else [])]
        network.train().gradient_checkpointing = True
        expected = gradients(network, given)
        detach = attach(network, [Layout(frames=Split.of(mesh))])
        found = gradients(network, given)
        detach()
        for name, gradient in found.items():
            torch.distributed.all_reduce(gradient)
            assert close(gradient / size, expected[name], 1e-10), (network.config, name)


def gradients(network: Denoiser, given: list) -> dict[str, torch.Tensor]:
    network.zero_grad()
    network(*given).square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def work() -> None:
    size = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    with processes(CPU):
        for guided in (True, False):
            check_outputs(sampling_mesh("cpu", guided))
        check_gradients(size)


@pytest.mark.parametrize("size", [2, 4])
def test_processes_compute_what_one_computes(size, tmp_path):
    together(size, work, tmp_path / "log")
