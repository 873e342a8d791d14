"""The memory that Latte-1 needs, part by part, computed on fake tensors: no weights are needed, and little memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from latte.eval.bench.resources import LiveTensors, weight_bytes
from latte.eval.reporting import markdown_table
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.t5 import T5Config, T5Encoder
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.pab import Broadcast, pyramid_attention_broadcast
from latte.text.embed import MAX_LENGTH
from latte.weights.eight_bits import in_eight_bits

BROADCAST = {"spatial": Broadcast(2), "temporal": Broadcast(3), "cross": Broadcast(6)}
Need = tuple[str, int, int]  # a part, the bytes of its weights, and its peak working memory besides them


@contextmanager
def without_values(dtype: torch.dtype) -> Iterator[None]:
    """A context in which new tensors are fake: they have this type, are on the CPU, and take no memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_default_dtype(before)


def working_bytes(function: Callable[[], object]) -> int:
    """The peak memory of the tensors that a function allocates, in bytes; earlier tensors do not count."""
    with torch.no_grad(), LiveTensors() as memory:
        function()
    return memory.peak


def transformer_memory(frames: int, height: int, width: int) -> Iterator[Need]:
    """One guided evaluation for one video, without and with the outputs that Pyramid Attention Broadcast caches."""
    config = LatteT2VConfig()
    model = LatteT2V(config)
    x, t = torch.empty(2, frames, config.in_channels, height // 8, width // 8), torch.zeros(2, dtype=torch.long)
    text = torch.empty(2, MAX_LENGTH, config.caption_channels)
    yield "transformer", weight_bytes([model]), working_bytes(lambda: model(x, t, text))

    def evaluate_twice() -> None:
        with pyramid_attention_broadcast(model, BROADCAST, timestep=lambda: 500.0):
            model(x, t, text)
            model(x, t, text)

    yield "transformer, outputs kept (PAB)", weight_bytes([model]), working_bytes(evaluate_twice)


def text_encoder_memory() -> Iterator[Need]:
    """Encoding one prompt, in the default precision and in 8 bits."""
    model = T5Encoder(T5Config())
    for block in model.blocks:  # which stays in float32 also where the rest is in half precision
        block.wo.weight = nn.Parameter(torch.empty(block.wo.weight.shape, dtype=torch.float32))
    ids, mask = torch.zeros(1, MAX_LENGTH, dtype=torch.long), torch.ones(1, MAX_LENGTH)
    yield "T5 encoder", weight_bytes([model]), working_bytes(lambda: model(ids, mask))
    in_eight_bits(model)
    yield "T5 encoder, 8 bits", weight_bytes([model]), working_bytes(lambda: model(ids, mask))


def decoder_memory(frames: int, height: int, width: int) -> Iterator[Need]:
    """Decoding one video, a different number of frames at a time."""
    for temporal in (False, True):
        vae = VideoVAE(AutoencoderKL(VAEConfig(temporal_decoder=temporal)))
        z = torch.empty(frames, vae.config.latent_channels, height // 8, width // 8)
        for chunk in sorted({1, min(8, frames), frames}):
            vae.set_chunk(chunk)
            parts = [z] if temporal else z.split(chunk)
            peak = working_bytes(lambda: torch.cat([vae.model.decode(part) for part in parts]))  # noqa: B023
            name = f"{'temporal ' if temporal else ''}VAE, {chunk} of {frames} frames at a time"
            yield name, weight_bytes([vae]), peak


def memory_table(frames: int, height: int, width: int, dtype: torch.dtype) -> str:
    """What every part of Latte-1 needs to sample one video with guidance.

    Args:
        frames: frames of the video.
        height: in pixels, a multiple of 16.
        width: in pixels, a multiple of 16.
        dtype: of the weights and activations.

    Returns:
        A Markdown table, one row per part: its weights, and its peak working memory besides them, in GB (10^9 bytes).
    """
    with without_values(dtype):
        needs = [
            *transformer_memory(frames, height, width),
            *text_encoder_memory(),
            *decoder_memory(frames, height, width),
        ]
    rows = [[name, f"{weights / 1e9:.2f}", f"{working / 1e9:.2f}"] for name, weights, working in needs]
    return markdown_table(["part", "weights", "working"], rows)
