"""`latte bench speed`: the network in every form, caches and diffusers, timed in turn in one run."""

import argparse
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte import __version__
from latte.commands.options.benchmarks import PAB_RANGES, RANDOM, RANDOM_VAES, random_shape
from latte.commands.parser import write_result
from latte.commands.sampling_options import call_settings, open_pipeline
from latte.device import usable_device
from latte.eval.bench.candidates import caches, exact_candidates
from latte.eval.bench.forward_speed import measure_forward
from latte.eval.bench.gpu_forms import gpu_candidates, recorded_caches
from latte.eval.bench.pab_cost import parse_ranges
from latte.eval.bench.peer import Peer, peers
from latte.eval.bench.sampling_speed import job_of, measure_sampling, why_no_peer
from latte.eval.bench.speed_plots import plot_speed
from latte.eval.bench.speed_report import FORWARD, SAMPLING, speed_table
from latte.eval.bench.vae_speed import measure_decoding
from latte.eval.networks.lpips_weights import load_lpips
from latte.eval.reporting import machine_record
from latte.fast.vae_layers import prepare
from latte.models.latte import Latte
from latte.models.latte_config import LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.vae import AutoencoderKL, VideoVAE
from latte.pipeline import LattePipeline
from latte.sampling_call import call_plan
from latte.weights.hub import find_vae
from latte.weights.tensors import DTYPES
from latte.weights.vae_folder import load_vae


def bench_speed(args: argparse.Namespace) -> None:
    """Measure the speed of a model: one evaluation of its network, sampling runs with their fidelity, and decoding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        report = measure_speed(args)
    finally:
        torch.set_num_threads(threads)
    write_result(args.out, report)
    if args.plots is not None:
        for picture in plot_speed(report, args.plots):
            print(f"wrote {picture}")


def measure_speed(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options ask for, print it, and return it with everything that it depends on."""
    pipe, settings = open_model(args)
    pipe.transformer.requires_grad_(False)
    own = str(next(pipe.transformer.parameters()).dtype).removeprefix("torch.")
    dtypes = list(dict.fromkeys(args.dtypes or [own]))
    forms = exact_candidates(pipe, dtypes, args.compile, args.original)
    forms += gpu_candidates(pipe, args.gpu_forms, dtypes[0])
    alexnet = None if args.alexnet is None else load_lpips(args.alexnet, pipe.device)
    sizes = video_sizes(pipe, args.frames, args.sizes)
    with ExitStack() as stack:
        started = stack.enter_context(peers(args.peer_python, timed_networks(pipe, args.parts), pipe.device))
        about = {"model": args.model, "changes": args.changes, "vae": args.vae}
        about |= machine(pipe.device, started) | settings
        about |= {} if pipe.weaker is None else {"autoguidance": pipe.weaker_record()}
        print(", ".join(f"{key} {value}" for key, value in about.items() if value not in ([], {}, None)))
        forward: list[dict] = []
        for frames, size in sizes if "forward" in args.parts else ():
            for tokens in dict.fromkeys(args.text_tokens if pipe.takes_prompts else [0]):
                alike = started if pipe.weaker is None else []  # diffusers has no autoguidance
                forward.append(measure_forward(pipe, forms, alike, frames, size, tokens, args.rounds))
                text = f", {tokens} text tokens" if tokens else ""
                print(f"\none evaluation: {frames} frames of {size} x {size}{text}")
                print(speed_table(forward[-1]["rows"], FORWARD), flush=True)
        sampling = None
        if "sampling" in args.parts:
            frames, size = sizes[0]
            ranges = PAB_RANGES[pipe.takes_prompts] if args.ranges is None else args.ranges
            inexact = caches(ranges, args.plans, dtypes[0])
            listed = [*forms, *inexact, *recorded_caches(forms, inexact)]
            shape = {"num_frames": frames, "height": size, "width": size}
            make = lambda count: job_of(pipe, count, shape, args.text_tokens[0], settings, args.exam)
            job, first = make(args.num_videos), make(settings["batch_size"])
            if started and (why := why_no_peer(job)):
                print(f"\ndiffusers is left out of the samplings: {why}")
            sampling = measure_sampling(job, first, listed, [] if started and why else started, args.rounds, alexnet)
            print(f"\nsampling: {args.num_videos} x {frames} frames of {size} x {size}, {sampling['steps']} steps")
            print(speed_table(sampling["rows"], SAMPLING))
        decoding: list[dict] = []
        for frames, size in sizes if "decoding" in args.parts and pipe.vae is not None else ():
            decoding.append(measure_decoding(pipe, started, frames, size, args.rounds))
            print(f"\ndecoding of one video: {frames} frames of {size} x {size}")
            print(speed_table(decoding[-1]["rows"], FORWARD), flush=True)
    return {**about, "forward": forward, "sampling": sampling, "decoding": decoding}


def timed_networks(pipe: LattePipeline, parts: Sequence[str]) -> dict[str, nn.Module]:
    """The networks that are timed in some parts of the benchmark, by the names of peer.peers."""
    networks = {} if set(parts) == {"decoding"} else {"transformer": pipe.transformer}
    return networks | ({"vae": pipe.vae.model} if "decoding" in parts and pipe.vae is not None else {})


def open_model(args: argparse.Namespace) -> tuple[LattePipeline, dict[str, Any]]:
    """The pipeline on its device, and the settings of its call."""
    if args.model not in RANDOM:
        pipe, settings, _ = open_pipeline(args)
    else:
        vae = vae_of_random(args)
        network = random_network(random_shape(args.model, args.changes), args.seed).to(DTYPES[args.dtype])
        pipe = LattePipeline(network, vae)
        pipe.to(usable_device(args.device))
        settings = call_settings(pipe, args)
    if pipe.vae is None and "decoding" in args.asked_parts:
        raise ValueError(f"--parts decoding: {args.model} has no VAE: add --vae with a folder")
    settings["batch_size"] = min(settings["batch_size"], args.num_videos)  # no batch is padded with copies
    if "sampling" in args.parts:
        candidates = PAB_RANGES[pipe.takes_prompts] if args.ranges is None else args.ranges
        for text in candidates:  # raises for a range that the model does not have, before the work
            pipe.enable_pyramid_attention_broadcast(**parse_ranges(text))
            pipe.disable_pyramid_attention_broadcast()
        for plan in args.plans:  # and for a plan that does not exist or does not fit
            pipe.enable_plan(plan)
            call_plan(pipe, settings)
            pipe.disable_plan()
    return pipe, settings


def random_network(config: LatteT2VConfig | LatteConfig, seed: int) -> LatteT2V | Latte:
    """A network with random weights. Unlike in a freshly initialised Latte, none of them are zero."""
    torch.manual_seed(seed)
    if isinstance(config, LatteT2VConfig):
        return LatteT2V(config)
    network = Latte(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def vae_of_random(args: argparse.Namespace) -> VideoVAE | None:
    """The VAE that --vae gives a model with random weights: a key of RANDOM_VAES, or any that `latte sample` takes.

    Raises:
        ValueError: There is no such VAE.
    """
    if args.vae is None:
        return None
    if args.vae not in RANDOM_VAES:
        try:
            found = find_vae(args.vae, Path(), not args.download)
        except ValueError as error:
            raise ValueError(f"{error}; VAEs with random weights are {' and '.join(RANDOM_VAES)}") from error
        return load_vae(found, DTYPES[args.dtype], args.variant)
    torch.manual_seed(args.seed)
    vae = VideoVAE(AutoencoderKL(RANDOM_VAES[args.vae])).eval().requires_grad_(False)
    return prepare(vae.to(DTYPES[args.dtype]))


def video_sizes(pipe: LattePipeline, frames: list[int] | None, sizes: list[int] | None) -> list[tuple[int, int]]:
    """(frames, pixels of a side): all frames at the first size, then the first frames at the other sizes."""
    trained_frames, side = pipe.conditioning.trained_size(pipe.transformer.config)
    factor = 8 if pipe.vae is None else pipe.vae.factor
    lengths, sides = frames or [trained_frames], sizes or [side * factor]
    found = [(length, sides[0]) for length in lengths] + [(lengths[0], size) for size in sides[1:]]
    for length, size in found:
        pipe.latent_shape(length, None, size, size)
    return list(dict.fromkeys(found))


def machine(device: torch.device, started: Sequence[Peer]) -> dict[str, Any]:
    """What the figures depend on besides the model: processor, versions, date."""
    about: dict[str, Any] = {**machine_record(device), "processor": processor(), "latte": __version__}
    about |= {"python": platform.python_version(), "date": date.today().isoformat()}
    return about | ({"peer": started[0].versions} if started else {})


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
