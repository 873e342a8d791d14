"""Processes that share a video compute the same as one. All checks for a number of processes run in one fork."""

import os
from dataclasses import replace
from functools import cache

import pytest
import torch
from awake_models import VAE, awake, awake_pipeline
from forks import together

from latte import LattePipeline
from latte.models.denoiser import Denoiser
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.vae import AutoencoderKL, VideoVAE
from latte.parallel import parallel, sampling_mesh
from latte.parallel.communication import decoding_transfer, evaluation_transfers, gradient_transfers, switches
from latte.parallel.layout import Layout
from latte.parallel.sequence import attach, sharing_of, temporal_runs
from latte.parallel.shared_run import SharedRun
from latte.parallel.split import Split
from latte.parallel.vae_frames import parallel_decoding
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
FRAMES, SIDES = 5, (6, 6)  # 5 frames and 9 patches, divisible by neither 2 nor 4


@cache  # computed once, and inherited by forked processes
def network(name: str) -> Denoiser:
    """In float64, where only a wrong result differs by more than rounding."""
    if name == "text":
        config = LatteT2VConfig(num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_channels=8)
        return awake(LatteT2V(config)).double()
    return awake(Latte(LatteConfig(**SMALL, **OPTIONS[name]))).double()


def inputs(name: str, batch: int, images: int = 0) -> list:
    """A noisy batch and its conditions, for a clip and optionally still images."""
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
    """The output for clips with a still image, and the gradients of all parameters, with gradient checkpointing."""
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
    """The gradients averaged over the processes equal the gradient of one process."""
    detach = attach(network(name), [Layout(frames=split)])
    out, gradient = trained(name)
    detach()
    torch.distributed.all_reduce(gradient)
    for found, alone in zip((out, gradient / split.size), expected_training(name)):
        assert close(found, alone, 1e-10), name


def sent_bytes(call) -> dict[str, int]:
    """Bytes sent by each kind of collective: those of the busiest process in each collective, summed over a call."""
    sent: dict[str, list[int]] = {"all_to_all_single": [], "all_gather": []}

    def count(name, original):
        def counted(out, x, *rest):
            gathers = name == "all_gather"
            copies = len(out) - 1 if gathers else 1
            kept = 0 if gathers else rest[1][torch.distributed.get_rank(rest[2])] * x.itemsize
            sent[name].append(x.nbytes * copies - kept)
            return original(out, x, *rest)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in sent:
            patch.setattr(torch.distributed, name, count(name, getattr(torch.distributed, name)))
        call()
    found = {name: torch.tensor(values, dtype=torch.long) for name, values in sent.items()}
    for largest in found.values():
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return {name: int(largest.sum()) for name, largest in found.items()}


@torch.no_grad()
def check_bytes(name: str, mesh, latents: torch.Tensor) -> None:
    """The bytes sent in an evaluation, by the readable and by the fast form, and in decoding match the formulas."""
    model, given, prefix = network(name), inputs(name, 2), 2 if name == "tokens" else 0
    with parallel(mesh, model):
        model(*given)  # the first call also compares the input
        sent = sent_bytes(lambda: model(*given))
        embed = model.text_condition if name == "text" else lambda *rest: model.class_condition(model.condition(*rest))
        run = SharedRun(sharing_of(model), embed(*given[1:]), 1, None)
        run(given[0][:1], 0, 2)
        assert sent_bytes(lambda: run(given[0][:1], 0, 2)) == sent
    transfers = evaluation_transfers(model, tuple(given[0].shape), *mesh.shape, 8, prefix)
    told = lambda start: sum(each.total for each in transfers if each.name.startswith(start))
    assert (told("all-to-all"), told("all-gather")) == tuple(sent.values()), name
    vae = plain_vae()
    with parallel_decoding(vae, Split(mesh.get_rank(), mesh.size(), torch.distributed.group.WORLD)):
        sent = sent_bytes(lambda: vae.decode(latents))
    assert sent["all_gather"] == decoding_transfer(vae.config, tuple(latents.shape), mesh.size()).total


@cache
def plain_vae() -> VideoVAE:
    return VideoVAE(awake(AutoencoderKL(VAE)))


@cache
def temporal_vae() -> VideoVAE:
    wide = replace(VAE, block_out_channels=(32,), norm_num_groups=32, temporal_decoder=True)
    return VideoVAE(awake(AutoencoderKL(wide)))


LATENTS = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(5))
CALL = dict(class_labels=[0, 1, 1], num_inference_steps=4, guidance_scale=2.0, guidance_interval=(400, 1000))
CALL |= dict(seed=1, batch_size=2, progress=False, num_frames=6, height=32, width=32, output_type="pt")


@cache
def pipeline() -> LattePipeline:
    pipe = awake_pipeline(2)
    pipe.enable_pyramid_attention_broadcast(spatial_attn_skip_range=2, temporal_attn_skip_range=3)
    return pipe


@cache
def expected_pixels() -> list[torch.Tensor]:
    with torch.no_grad():
        return [pipeline()(**CALL).frames, *(vae.decode(LATENTS) for vae in (plain_vae(), temporal_vae()))]


@torch.no_grad()
def check_pixels(mesh, everyone: Split) -> None:
    """A call with guidance in some steps and cached attention; and decoding, also with fewer frames than processes."""
    made, decoded, in_time = expected_pixels()
    pipe = pipeline()
    with parallel(mesh, pipe.transformer, pipe.vae):
        assert float((pipe(**CALL).frames - made).abs().max()) < 1e-4
    for vae, alone in ((plain_vae(), decoded), (temporal_vae(), in_time)):
        with parallel_decoding(vae, everyone):
            for given, pixels in ((LATENTS, alone), (LATENTS[:1], alone[:1]), (LATENTS[:1, :1], alone[:1, :1])):
                if vae.config.temporal_decoder and given.shape[1] < LATENTS.shape[1]:
                    continue  # its frames depend on each other
                assert close(vae.decode(given), pixels, 1e-5)
            with pytest.raises(ValueError, match="not finite"):
                vae.decode(LATENTS / 0)


@torch.no_grad()
def check_refusals(mesh) -> None:
    model, (x, t, y) = network("interleaved"), inputs("interleaved", 2)
    with parallel(mesh, model), pytest.raises(ValueError, match="process 1 has different noise, classes or prompts"):
        model(x + torch.distributed.get_rank(), t, y)
    if mesh.shape[1] > 1:
        with parallel(mesh, model), pytest.raises(ValueError, match="2 processes cannot share the 1 frames of a video"):
            model(x[:, :1], t, y)


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
        check_pixels(mesh, everyone)
        check_refusals(mesh)
        for name in ("late fusion", "tokens", "text"):
            check_bytes(name, mesh, LATENTS)


@pytest.mark.parametrize("size", [2, 4])
def test_processes_compute_what_one_computes(size, tmp_path):
    for name in NAMES[size]:
        expected(name, 2), expected_training(name)
    expected("interleaved", 1), expected_pixels()
    together(size, work, tmp_path / "log")


def test_runs_of_temporal_blocks_stay_together():
    assert temporal_runs(["s", "t"] * 3) == temporal_runs(["st", "|", "t"]) == temporal_runs([]) == []
    assert temporal_runs(["s", "t", "t", "s", "t", "t", "t"]) == [range(1, 3), range(4, 7)]
    assert [switches(network(name)) for name in ("interleaved", "late fusion", "both in a block")] == [2, 2, 4]


def test_shares_are_contiguous_and_differ_by_at_most_one():
    assert Split(size=4).parts(10) == [3, 3, 2, 2] and Split(size=4).parts(2) == [1, 1, 0, 0]
    assert [list(range(10))[Split(rank, 4).own(10)] for rank in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]


def test_gradient_traffic_in_bytes():
    """Ring algorithms on 100 float32 values: 2 (n - 1) / n of the data for an all-reduce, (n - 1) / n otherwise."""
    told = lambda *how: {each.name.split()[0]: each.total for each in gradient_transfers(100, *how)}
    assert told(4) == {"all-reduce": 600} and told(1) == {}
    assert told(4, 4) == {"all-gather": 600, "reduce-scatter": 300}
    assert told(8, 4, 2) == {"all-gather": 1200, "reduce-scatter": 300, "all-reduce": 100}


def test_sharing_a_video_requires_torchrun():
    with pytest.raises(ValueError, match="start them with torchrun"):
        sampling_mesh("cpu", True)
