"""The speed of VAEs: the readable form, the fast one (latte.fast.vae_layers) and diffusers'."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from latte.diffusion.randomness import generator
from latte.eval.bench.candidates import LEAST, Entry, compare, inspect
from latte.eval.bench.peer import Peer
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


def measure_decoding(pipe: LattePipeline, peers: Sequence[Peer], frames: int, size: int, rounds: int) -> dict:
    """Decode one video of random latents in turn with the readable VAE, with the fast one and with diffusers'.

    Args:
        pipe: A pipeline with a VAE; one from a folder is prepared (latte.fast.vae_layers).
        peers: diffusers with the weights of that VAE, if it is available.
        frames: Frames of the video.
        size: Pixels of a side of a frame.
        rounds: How often each is timed.

    Returns:
        "frames", "size", and "rows" by name: see `compare`.
    """
    shape, weight = pipe.latent_shape(frames, None, size, size), next(pipe.vae.parameters())
    latents = torch.randn(1, *shape, generator=generator(0, 0)).to(weight)
    dtype = str(weight.dtype).removeprefix("torch.")
    entries = []
    for name, fast in (("readable", False), ("fast", True)):
        call = partial(switched, fast, partial(pipe.vae.decode, latents))
        known = partial(inspect, call, call, True, pipe.device)
        timer = partial(seconds_of, call, pipe.device, LEAST)
        entries.append(Entry(name, dtype, False, timer, known))
    entries += [peer_entry(pipe, peer, latents, dtype) for peer in peers]
    return {"frames": frames, "size": size, "rows": compare(entries, pipe.device, rounds)[0]}


def peer_entry(pipe: LattePipeline, peer: Peer, latents: torch.Tensor, dtype: str) -> Entry:
    """Decoding of the same latents (1, f, c, h, w) by diffusers, with as many frames at once as ours."""
    vae, name = pipe.vae, f"{peer.name}: decoding of {tuple(latents.shape)}"
    temporal = vae.config.temporal_decoder
    at_once = latents.shape[1] if temporal else vae.chunk
    z = latents[0] / vae.config.scaling_factor
    peer.prepare(name, "decoding", {"z": z}, dtype, at_once=at_once, temporal=temporal)

    def known() -> tuple[torch.Tensor, int | None, int | None]:
        out, flops, peak = peer.inspect(name, False)
        return out[None].to(pipe.device), flops, peak

    return Entry(peer.name, dtype, False, partial(peer.time, name, LEAST), known, peer=True)


def switched(fast: bool, call: Call) -> torch.Tensor:
    """The call's result, with the fast paths or without."""
    with torch.no_grad(), fast_paths(fast):
        return call()
