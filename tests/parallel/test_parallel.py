"""Processes that share a video compute what one computes. All checks of a number of processes run in one fork."""

import os
from functools import cache

import pytest
import torch
from awake_models import awake
from forks import together

from latte.models.denoiser import Denoiser
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.parallel import parallel, sampling_mesh
from latte.parallel.layout import Layout
from latte.parallel.sequence import attach
from latte.parallel.split import Split
from latte.processes import processes

CPU = torch.device("cpu")
SMALL = dict(hidden_size=16, num_heads=4, num_classes=5)
OPTIONS = {
    "interleaved": {"variant": 1, "depth": 2},
    "late fusion": {"variant": 2, "depth": 4},
    "both in a block": {"variant": 3, "depth": 2},
    "split heads": {"variant": 4, "depth": 2},
    "tokens": {"conditioning": "tokens", "depth": 2},
    "rotary": {"temporal_pos": "rope", "depth": 2},
    "tubelets": {"tubelet": 2, "variant": 4, "depth": 2},
}
FRAMES, SIDES = 5, (6, 6)  # 5 frames and 9 patches, which neither 2 nor 4 divide


@cache  # forked processes inherit what is computed here once
def network(name: str) -> Denoiser:
    """In float64, where only a wrong result differs by more than rounding."""
    if name == "text":
        config = LatteT2VConfig(num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_channels=8)
        return awake(LatteT2V(config)).double()
    return awake(Latte(LatteConfig(**SMALL, **OPTIONS[name]))).double()


def inputs(name: str, batch: int, images: int = 0) -> list:
    """A noisy batch and its conditions, of a clip and perhaps still images."""
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))
    x, t = draw(batch, FRAMES * network(name).tubelet + images, 4, *SIDES), torch.arange(batch) * 100 + 3
    each = (1 + images,) if images else ()
    if name != "text":
        condition = [torch.arange(batch * (1 + images)).reshape(batch, *each) % 6]
    else:
        condition = [draw(batch, *each, 7, 8), torch.ones(batch, *each, 7).index_fill(-1, torch.tensor([6]), 0)]
    return [x, t, *condition, *([images] if images else [])]


@cache
def expected(name: str, batch: int) -> torch.Tensor:
    with torch.no_grad():
        return network(name)(*inputs(name, batch))


def trained(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The output for clips with a still image, and the gradients of all parameters, with blocks computed again."""
    model = network(name).train()
    model.gradient_checkpointing = True
    model.zero_grad()
    out = model(*inputs(name, 2, images=0 if name == "tubelets" else 1))
    out.square().mean().backward()
    model.eval()
    return out.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


expected_training = cache(trained)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and float((a - b).norm() / b.norm()) < tolerance


@torch.no_grad()
def check_output(name: str, mesh, batch: int, **options) -> None:
    model, given = network(name), inputs(name, batch)
    before = {key: value for module in model.modules() for key, value in vars(module).items() if callable(value)}
    alone = model(*given, **options) if options else expected(name, batch)
    with parallel(mesh, model):
        assert close(model(*given, **options), alone), (name, batch)
    assert before == {key: value for m in model.modules() for key, value in vars(m).items() if callable(value)}


def check_training(name: str, split: Split) -> None:
    """The mean over the processes of their gradients is the gradient of one process."""
    detach = attach(network(name), [Layout(frames=split)])
    out, gradient = trained(name)
    detach()
    torch.distributed.all_reduce(gradient)
    for found, alone in zip((out, gradient / split.size), expected_training(name)):
        assert close(found, alone, 1e-10), name


NAMES = {4: [*OPTIONS, "text"], 2: ["interleaved", "text"]}


def work() -> None:
    size = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    with processes(CPU):
        mesh, everyone = sampling_mesh("cpu", True), Split.of(sampling_mesh("cpu", False)["frames"])
        assert mesh.shape == (2, size // 2) and everyone.size == size
        for name in NAMES[size]:
            check_output(name, mesh, batch=2)
            check_training(name, everyone)
        check_output("interleaved", mesh, batch=1)
        check_output("text", mesh, batch=2, temporal=False)


@pytest.mark.parametrize("size", [2, 4])
def test_processes_compute_what_one_computes(size, tmp_path):
    for name in NAMES[size]:
        expected(name, 2), expected_training(name)
    expected("interleaved", 1)
    together(size, work, tmp_path / "log")
