"""Processes that share a video compute their parts by the fast form, with the results of one process."""

import os
from functools import cache

import pytest
import torch
from awake_models import awake
from forks import together
from goldens import relative_error

from latte import LattePipeline
from latte.fast import trunk
from latte.fast.switch import fast_paths
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.network_forms import runs_fast
from latte.parallel import parallel, sampling_mesh
from latte.parallel.shared_run import SharedRun
from latte.plans.records import exact_plan
from latte.plans.rules import repeat
from latte.processes import processes

CLASSES = dict(depth=4, hidden_size=16, num_heads=4, input_size=6, num_frames=5, num_classes=3)
TEXT = dict(num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_channels=6, sample_size=6,
            video_length=5)  # fmt: skip
OPTIONS = {
    "interleaved": {"variant": 1},
    "late fusion": {"variant": 2},
    "both in a block": {"variant": 3, "depth": 2},
    "split heads": {"variant": 4, "depth": 2},
    "tokens": {"conditioning": "tokens"},
    "rotary": {"temporal_pos": "rope"},
    "tubelets": {"tubelet": 2, "num_frames": 10},
    "few frames": {"num_frames": 3},
}
NAMES = {2: ["interleaved", "both in a block", "text"], 4: [*OPTIONS, "text"]}  # 5 frames: divisible by neither
EVERY_OTHER = (0, 1, 3, 5)
EVERY = "everything"  # computes all of them
PLANS = {EVERY: lambda plan: plan}
PLANS |= {kind: lambda plan, kind=kind: repeat(plan, EVERY_OTHER, kind, 1) for kind in ("temporal", "mlp", "network")}


@cache  # computed once, and inherited by forked processes
def pipeline(name: str) -> LattePipeline:
    """With a network in float64, whose rounding the sampler does not amplify."""
    if name == "text":
        return LattePipeline(awake(LatteT2V(LatteT2VConfig(**TEXT))).double())
    return LattePipeline(awake(Latte(LatteConfig(**{**CLASSES, **OPTIONS[name]}))).double())


def latents(name: str, plan: str | None = None) -> torch.Tensor:
    """The latents of two videos, one by one. Without a plan, only some evaluations are guided.

    Where guidance begins or ends, processes compute what one process would reuse (latte.network_forms.layer_cache).
    """
    pipe = pipeline(name)
    draw = lambda i: torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(i))
    text = {"prompt_embeds": draw(1), "negative_prompt_embeds": draw(2)}
    given = text if pipe.takes_prompts else {"class_labels": [0, 2]}
    if plan is not None:
        pipe.enable_plan(PLANS[plan])
    interval = (300, 1000) if plan is None else (0, 1000)
    how = dict(num_inference_steps=6, guidance_scale=3.0, guidance_interval=interval, seed=0)
    videos = pipe(**given, **how, progress=False, output_type="latent").frames
    pipe.disable_plan()
    return videos


expected = cache(latents)


def plans(name: str) -> list[str | None]:
    """No plan, and plans that the fast form follows."""
    return [None, *PLANS] if name in ("interleaved", "late fusion", "text") else [None]


def check_videos(name: str, mesh) -> None:
    """A call takes the fast form, and makes the videos of one process; whatever each process computes at once."""
    calls, network = [], pipeline(name).transformer
    with pytest.MonkeyPatch.context() as patch, parallel(mesh, network):
        call = SharedRun.__call__
        patch.setattr(SharedRun, "__call__", lambda self, *args: (calls.append(args[1:]), call(self, *args))[1])
        for plan in plans(name):
            assert relative_error(latents(name, plan), expected(name, plan)) < 1e-6, (name, plan)
        assert {halves for _, halves in calls} == {1, 2} and len(calls) == 12 * len(plans(name))
        patch.setattr(trunk, "PART", 1)  # processes with different shares cut them into different numbers of parts
        assert relative_error(latents(name), expected(name)) < 1e-6, name


def check_choice(mesh) -> None:
    """What has no fast form is computed by the readable network; and graphs are refused."""
    pipe = pipeline("interleaved")
    network, plan = pipe.transformer, exact_plan([500.0])
    with parallel(mesh, network):
        assert runs_fast(pipe, network, plan)
        handle = network.blocks[1].mlp.register_forward_hook(lambda *_: None)
        assert not runs_fast(pipe, network, plan)
        handle.remove()
        method = network.blocks[0].forward
        network.blocks[0].forward = lambda *args: method(*args)
        assert not runs_fast(pipe, network, plan)
        del network.blocks[0].forward
        with fast_paths(False):
            assert relative_error(latents("interleaved"), expected("interleaved")) < 1e-6
        pipe.cuda_graphs = True
        with pytest.raises(ValueError, match="cuda_graphs is for one process"):
            latents("interleaved")
        pipe.cuda_graphs = False
    network.blocks[1].attns[0].forward = torch.zeros_like  # a method that sharing itself replaces, too
    with parallel(mesh, network):
        assert not runs_fast(pipe, network, plan)
    del network.blocks[1].attns[0].forward


def check_refusal(mesh) -> None:
    pipe = pipeline("interleaved")
    mine = torch.distributed.get_rank() % 2
    refused = pytest.raises(ValueError, match="process 1 has different noise, classes or prompts")
    with parallel(mesh, pipe.transformer), refused:
        pipe(class_labels=[mine], seed=0, progress=False, output_type="latent")


def work() -> None:
    size = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    with processes(torch.device("cpu")):
        mesh = sampling_mesh("cpu", True)
        for name in NAMES[size]:
            check_videos(name, mesh)
        check_choice(mesh)
        check_refusal(mesh)


@pytest.mark.parametrize("size", [2, 4])
def test_processes_take_the_fast_form(size, tmp_path):
    for name in NAMES[size]:
        for plan in plans(name):
            expected(name, plan)
    for plan in PLANS.keys() - {EVERY}:
        assert relative_error(expected("interleaved", plan), expected("interleaved", EVERY)) > 1e-5
    together(size, work, tmp_path / "log")
