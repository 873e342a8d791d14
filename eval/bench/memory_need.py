"""`latte bench memory`: what Latte-1 needs in memory, part by part, computed on tensors that have no values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from latte.commands.parser import Parser
from latte.eval.bench.peak_memory import LiveTensors, weight_bytes
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.t5 import T5Config, T5Encoder
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.pab import Broadcast, pyramid_attention_broadcast
from latte.text.embed import MAX_LENGTH
from latte.weights.eight_bits import in_eight_bits
from latte.weights.tensors import DTYPES

RANGES = {"spatial": Broadcast(2), "temporal": Broadcast(3), "cross": Broadcast(6)}


@contextmanager
def without_values(dtype: torch.dtype) -> Iterator[None]:
    """Inside it, new tensors are of that type, on the CPU, and take no memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_default_dtype(before)


def working_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors at once, beyond what is there, while function runs."""
    with torch.no_grad(), LiveTensors() as memory:
        function()
    return memory.peak


def denoiser(frames: int, height: int, width: int) -> Iterator[tuple[str, int, int]]:
    """A guided evaluation for one video, and one that Pyramid Attention Broadcast keeps outputs of."""
    config = LatteT2VConfig()
    model = LatteT2V(config)
    x, t = torch.empty(2, frames, config.in_channels, height // 8, width // 8), torch.zeros(2, dtype=torch.long)
    text = torch.empty(2, MAX_LENGTH, config.caption_channels)
    yield "transformer", weight_bytes([model]), working_bytes(lambda: model(x, t, text))

    def twice() -> None:
        with pyramid_attention_broadcast(model, RANGES, timestep=lambda: 500.0):
            model(x, t, text)
            model(x, t, text)

    yield "transformer, outputs kept (PAB)", weight_bytes([model]), working_bytes(twice)


def text_encoder() -> Iterator[tuple[str, int, int]]:
    """The encoding of a prompt, in the asked precision and in 8 bits."""
    model = T5Encoder(T5Config())
    for block in model.blocks:
        block.wo.weight = nn.Parameter(torch.empty(block.wo.weight.shape, dtype=torch.float32))
    ids, mask = torch.zeros(1, MAX_LENGTH, dtype=torch.long), torch.ones(1, MAX_LENGTH)
    yield "T5 encoder", weight_bytes([model]), working_bytes(lambda: model(ids, mask))
    in_eight_bits(model)
    yield "T5 encoder, 8 bits", weight_bytes([model]), working_bytes(lambda: model(ids, mask))


def decoders(frames: int, height: int, width: int) -> Iterator[tuple[str, int, int]]:
    """The decoding of one video, by so many frames at a time."""
    for temporal in (False, True):
        vae = VideoVAE(AutoencoderKL(VAEConfig(temporal_decoder=temporal)))
        z = torch.empty(frames, vae.config.latent_channels, height // 8, width // 8)
        for chunk in sorted({1, min(8, frames), frames}):
            vae.set_chunk(chunk)
            parts = [z] if temporal else z.split(chunk)
            peak = working_bytes(lambda: torch.cat([vae.model.decode(part) for part in parts]))  # noqa: B023
            name = f"{'temporal ' if temporal else ''}VAE, {chunk} of {frames} frames at a time"
            yield name, weight_bytes([vae]), peak


def table(frames: int, height: int, width: int, dtype: torch.dtype) -> str:
    """Markdown: each part's weights and what else it needs while it works, in GB (10^9 bytes)."""
    with without_values(dtype):
        rows = [*denoiser(frames, height, width), *text_encoder(), *decoders(frames, height, width)]
    lines = ["| part | weights | working |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {own / 1e9:.2f} | {peak / 1e9:.2f} |" for name, own, peak in rows)])


def main(argv: list[str]) -> None:
    """Print the table."""
    parser = Parser(prog="latte bench memory", description=__doc__)
    parser.add_argument("--num-frames", type=int, default=16, help="frames of the video (default: 16)")
    parser.add_argument("--height", type=int, default=512, help="in pixels (default: 512)")
    parser.add_argument("--width", type=int, default=512, help="in pixels (default: 512)")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of weights (default: float16)")
    args = parser.parse_args(argv)
    for name, unit in (("num_frames", 1), ("height", 16), ("width", 16)):
        value = getattr(args, name)
        if not 1 <= value <= 65_536 or value % unit:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be a multiple of {unit}, up to 65536")
    print(table(args.num_frames, args.height, args.width, DTYPES[args.dtype]))
    print(f"GB, one video of {args.num_frames} x {args.height} x {args.width} with guidance, {args.dtype}; computed")
