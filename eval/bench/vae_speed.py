"""What the fast paths of the VAE save (latte.fast.vae_layers), as pairs of calls for a benchmark to time."""

from collections.abc import Callable
from functools import partial

import torch

from latte.diffusion.randomness import generator
from latte.eval.bench.candidates import LEAST, Entry, compare, inspect
from latte.eval.bench.resources import seconds_of
from latte.fast.switch import fast_paths
from latte.fast.vae_layers import prepare
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.pipeline import LattePipeline

Call = Callable[[], torch.Tensor]


def vae_calls(
    config: VAEConfig, frames: int, side: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> list[tuple[str, Call, Call]]:
    """Decoding and encoding of one video with random weights, each with the readable network and with the fast one.

    Args:
        config: The shape of the autoencoder.
        frames: Frames of the video.
        side: Pixels of a side of a frame.
        device: Where to compute.
        dtype: The type of the weights.

    Returns:
        (name, plain call, fast call) of each. The first fast call also transforms the weights.
    """
    vae = prepare(VideoVAE(AutoencoderKL(config)).eval().requires_grad_(False).to(device, dtype))
    video = torch.randn(1, frames, config.in_channels, side, side, device=device).to(dtype)
    small = vae.latent_side(side)
    latents = torch.randn(1, frames, config.latent_channels, small, small, device=device).to(dtype)
    decode, encode = partial(vae.decode, latents), partial(vae.encode, video)
    return [
        ("decode", partial(switched, False, decode), partial(switched, True, decode)),
        ("encode", partial(switched, False, encode), partial(switched, True, encode)),
    ]


def measure_decoding(pipe: LattePipeline, frames: int, size: int, rounds: int) -> dict:
    """Decode one video of random latents in turn with the readable VAE and with the fast one.

    Args:
        pipe: A pipeline with a VAE; one from a folder is prepared (latte.fast.vae_layers).
        frames: Frames of the video.
        size: Pixels of a side of a frame.
        rounds: How often each is timed.

    Returns:
        "frames", "size", and "rows" by name: see `compare`.
    """
    shape, weight = pipe.latent_shape(frames, None, size, size), next(pipe.vae.parameters())
    latents = torch.randn(1, *shape, generator=generator(0, 0)).to(weight)
    entries = []
    for name, fast in (("readable", False), ("fast", True)):
        call = partial(switched, fast, partial(pipe.vae.decode, latents))
        known = partial(inspect, call, call, False, pipe.device)
        timer = partial(seconds_of, call, pipe.device, LEAST)
        entries.append(Entry(name, str(weight.dtype).removeprefix("torch."), False, timer, known))
    return {"frames": frames, "size": size, "rows": compare(entries, pipe.device, rounds)[0]}


def switched(fast: bool, call: Call) -> torch.Tensor:
    """The call's result, with the fast paths or without."""
    with torch.no_grad(), fast_paths(fast):
        return call()
