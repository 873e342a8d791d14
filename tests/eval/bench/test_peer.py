"""Peers of `latte bench speed`: diffusers' networks compute what ours do, from the same weights, on the same inputs."""

import os
import sys
import threading
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from speed_models import SHAPE
from torch._dynamo.testing import CompileCounter

from latte import LattePipeline
from latte.eval.bench import peer, peer_program, resources
from latte.eval.bench.candidates import exact_candidates
from latte.eval.bench.forward_speed import measure_forward
from latte.eval.bench.sampling_speed import job_of, measure_sampling, why_no_peer
from latte.eval.bench.vae_speed import measure_decoding
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.scheduler import Scheduler

CPU, NAMES = torch.device("cpu"), ["diffusers", "diffusers, memory kept"]
pytestmark = pytest.mark.usefixtures("short")


def with_vae(pipe: LattePipeline, temporal: bool) -> LattePipeline:
    """The pipeline with a small VAE, which takes two images at once."""
    torch.manual_seed(1)
    config = VAEConfig(block_out_channels=(32, 32), layers_per_block=1, temporal_decoder=temporal)
    pipe.vae = VideoVAE(AutoencoderKL(config).eval(), chunk=2)
    return pipe


class OurNetwork(torch.nn.Module):
    """Our network with the interface of diffusers' LatteTransformer3DModel."""

    @classmethod
    def from_config(cls, config, video_length):
        assert config["_class_name"] == "LatteTransformer3DModel" and video_length == 3
        return cls()

    def __init__(self):
        super().__init__()
        self.network = LatteT2V(LatteT2VConfig(video_length=3, **SHAPE))

    def load_state_dict(self, state):
        from latte.weights.convert_t2v import t2v_state

        return self.network.load_state_dict(t2v_state(state, self.network.config))

    def forward(self, x, encoder_hidden_states, timestep, return_dict):
        return (self.network(x.transpose(1, 2), timestep, encoder_hidden_states).transpose(1, 2),)


class OurDDIM:
    """Our DDIM updates with the interface of diffusers' DDIMScheduler."""

    from_config = classmethod(lambda cls, config: cls())

    def set_timesteps(self, count, device):
        self.schedule = Scheduler().schedule(count, None)
        self.timesteps = self.schedule.timesteps.flip(0)
        self.levels = [*Scheduler().training_schedule().alpha_bar_at(self.timesteps).tolist(), 1.0]

    def step(self, eps, t, x, return_dict):
        k = self.timesteps.tolist().index(int(t))
        now, then = self.levels[k : k + 2]
        clean = (x - (1 - now) ** 0.5 * eps) / now**0.5
        return (then**0.5 * clean + (1 - then) ** 0.5 * eps,)


class OurVAE(torch.nn.Module):
    """Our autoencoder with the interface of diffusers' AutoencoderKL."""

    frames: ClassVar[list[int]] = []  # of each call

    @classmethod
    def from_config(cls, config):
        assert config["_class_name"] == ("AutoencoderKLTemporalDecoder" if cls is OurTemporalVAE else "AutoencoderKL")
        return cls(VAEConfig.from_dict(config))

    def __init__(self, config):
        super().__init__()
        self.model = AutoencoderKL(config)

    def load_state_dict(self, state):
        return self.model.load_state_dict(state)

    def decode(self, z, return_dict):
        self.frames.append(len(z))
        return (self.model.decode(z),)


class OurTemporalVAE(OurVAE):
    """The same for AutoencoderKLTemporalDecoder."""

    def decode(self, z, return_dict, num_frames):
        assert num_frames == len(z)
        return super().decode(z, return_dict)


class Thread:
    """Replaces subprocess.Popen: runs peer_program.serve in a thread of this process."""

    pid = 1

    def __init__(self, program, **_):
        (requests, to_requests), (from_answers, answers) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(to_requests, "w"), os.fdopen(from_answers)
        arguments = (str(program[2]), program[3], 1, os.fdopen(requests), os.fdopen(answers, "w"))
        self.thread = threading.Thread(target=peer_program.serve, args=arguments, daemon=True)
        self.thread.start()

    def terminate(self):
        self.thread.join(5)

    def wait(self):
        assert not self.thread.is_alive()


@pytest.fixture
def stub(monkeypatch):
    """Stands for diffusers, with our networks, in this process."""
    ours = dict(LatteTransformer3DModel=OurNetwork, DDIMScheduler=OurDDIM)
    ours |= dict(AutoencoderKL=OurVAE, AutoencoderKLTemporalDecoder=OurTemporalVAE)
    monkeypatch.setitem(sys.modules, "diffusers", types.SimpleNamespace(__version__="0", **ours))
    monkeypatch.setitem(sys.modules, "resources", resources)
    monkeypatch.setattr(peer.subprocess, "Popen", Thread)
    monkeypatch.setattr(OurVAE, "frames", [])


@pytest.mark.usefixtures("stub")
def test_a_peer_computes_the_same_on_the_same_weights(t2v):
    settings = dict(num_inference_steps=2, guidance_scale=3.0, eta=0.0, seed=0, batch_size=1)
    with peer.peers(Path("python"), {"transformer": t2v.transformer}, CPU) as started:
        exact = exact_candidates(t2v, ["float32"], False)
        forward = measure_forward(t2v, exact, started, 3, 32, 5, 1)["rows"]
        job = job_of(t2v, 2, {"num_frames": 3}, 5, settings, exam=False)
        assert why_no_peer(job) is None
        sampling = measure_sampling(job, job_of(t2v, 1, {"num_frames": 3}, 5, settings, False), exact, started, 1, None)
    assert [each.name for each in started] == NAMES and started[0].versions["diffusers"] == "0"
    for rows in (forward, sampling["rows"]):
        assert list(rows)[-2:] == NAMES
        for row in rows.values():
            assert list(row["over_peer"]) == NAMES and min(row["over_peer"].values()) > 0
        assert rows["diffusers"]["error"] < 1e-5 and rows["diffusers"]["peak_mb"] > 0
    assert forward["diffusers"]["flops"] == forward["readable"]["flops"]
    job.settings["eta"] = 1.0
    assert "ddim, without noise" in why_no_peer(job)


@pytest.mark.parametrize(("temporal", "frames"), [(False, {2, 1}), (True, {3})])
@pytest.mark.usefixtures("stub")
def test_a_peer_decodes_the_same_latents(t2v, temporal, frames):
    pipe = with_vae(t2v, temporal)
    with peer.peers(Path("python"), {"vae": pipe.vae.model}, CPU) as started:
        rows = measure_decoding(pipe, started, 3, 8, 1)["rows"]
    assert list(rows) == ["readable", "fast", *NAMES] and set(OurVAE.frames) == frames
    for name in NAMES:
        assert rows[name]["error"] < 1e-5 and rows[name]["flops"] == rows["readable"]["flops"]
        assert rows[name]["peak_mb"] > 0 and rows["fast"]["over_peer"][name] > 0


@pytest.mark.usefixtures("stub")
def test_a_peer_is_compiled_as_a_whole(t2v, monkeypatch):
    counter, compile = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile(network, backend=counter))
    with peer.peers(Path("python"), {"transformer": t2v.transformer}, CPU) as started:
        inputs = {"x": torch.randn(2, 4, 3, 4, 4), "text": torch.randn(2, 5, 24), "t": torch.tensor([3, 3])}
        started[0].prepare("plain", "evaluation", inputs, "float32")
        plain = started[0].inspect("plain", False)[0]
        assert counter.frame_count == 0
        started[0].prepare("compiled", "evaluation", inputs, "float32", compiled=True)
        out, flops, peak = started[0].inspect("compiled", True)
    assert counter.frame_count > 0 and (flops, peak) == (None, None)
    torch.testing.assert_close(out, plain)


@pytest.mark.skipif("LATTE_PEER_PYTHON" not in os.environ, reason="needs LATTE_PEER_PYTHON, which has diffusers")
def test_diffusers_gives_the_same_outputs(t2v):
    python = Path(os.environ["LATTE_PEER_PYTHON"])
    for temporal in (False, True):
        pipe = with_vae(t2v, temporal)
        with peer.peers(python, {"transformer": pipe.transformer, "vae": pipe.vae.model}, CPU) as started:
            forward = measure_forward(pipe, exact_candidates(pipe, ["float32"], False), started, 3, 8, 5, 1)["rows"]
            decoding = measure_decoding(pipe, started, 3, 8, 1)["rows"]
        for rows in (forward, decoding):
            assert rows["diffusers"]["error"] < 1e-5 and rows["diffusers"]["over_peer"]["diffusers"] == 1
