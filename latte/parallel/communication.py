"""The communication between processes, computed from shapes."""

from dataclasses import dataclass
from math import ceil

from latte.models.attention import AxialAttention
from latte.models.denoiser import Denoiser
from latte.models.vae_config import VAEConfig
from latte.parallel.sequence import temporal_runs
from latte.parallel.split import Split


@dataclass(frozen=True)
class Transfer:
    """One kind of collective.

    Attributes:
        name: What is sent, and how.
        calls: The number of calls.
        sent: Bytes that the busiest process sends to others in one call.
    """

    name: str
    calls: int
    sent: int

    @property
    def total(self) -> int:
        """Bytes that the busiest process sends in all calls."""
        return self.calls * self.sent


def switches(network: Denoiser) -> int:
    """How many exchanges of frames and patches an evaluation needs: two for each run of temporal attention."""
    kinds = [str(block.kinds) for block in network.blocks]
    runs = temporal_runs(kinds)
    layers = [m for m in network.blocks.modules() if isinstance(m, AxialAttention) and m.kind == "temporal"]
    return 2 * (len(layers) - sum(map(len, runs)) + len(runs))


def evaluation_transfers(
    network: Denoiser,
    shape: tuple[int, int, int, int, int],
    halves: int,
    frames: int,
    itemsize: int = 2,
    prefix: int = 0,
) -> list[Transfer]:
    """The transfers of one evaluation of a denoiser.

    Args:
        network: The denoiser; one without weights (on the device "meta") will do.
        shape: Its input (b, f, c, h, w), with both halves of guidance.
        halves: The number of processes that the batch is split over.
        frames: The number of processes that the frames are split over.
        itemsize: Bytes of a value: 2 in half precision, 4 in float32.
        prefix: Tokens in front of each frame's patches.

    Returns:
        The exchanges between spatial and temporal attention, and the gathering of the output.
    """
    b, f, _, h, w = shape
    patches = h * w // network.patch_size**2
    rows, tokens, steps = b // halves, patches + prefix, f // network.tubelet
    token, patch = network.final_linear.in_features, network.final_linear.out_features  # values of each
    own = list(zip(Split(size=frames).parts(steps), Split(size=frames).parts(tokens)))
    to_patches, to_frames = max(n * (tokens - m) for n, m in own), max((steps - n) * m for n, m in own)
    pairs, padded = switches(network) // 2, own[0][0]
    sent = [
        Transfer("all-to-all, frames to patches", pairs, rows * to_patches * token * itemsize),
        Transfer("all-to-all, patches to frames", pairs, rows * to_frames * token * itemsize),
        Transfer("all-gather of frames", 1, rows * padded * patches * patch * (frames - 1) * itemsize),
        Transfer("all-gather of guidance", 1, rows * steps * patches * patch * (halves - 1) * itemsize),
    ]
    return [transfer for transfer in sent if transfer.total]


def decoding_transfer(vae: VAEConfig, shape: tuple[int, int, int, int, int], size: int, itemsize: int = 4) -> Transfer:
    """The transfer for decoding latents (b, f, c, h, w) on `size` processes; a pixel value takes `itemsize` bytes."""
    b, f, _, h, w = shape
    units, frames = (b, f) if vae.temporal_decoder else (b * f, 1)
    pixels = vae.out_channels * h * w * 4 ** (len(vae.block_out_channels) - 1)
    return Transfer("all-gather of pixels", 1, ceil(units / size) * frames * pixels * (size - 1) * itemsize)


def gradient_transfers(parameters: int, size: int, shard: int = 1, batches: int = 1) -> list[Transfer]:
    """The transfers of a training step for weights and gradients, in float32, with ring algorithms.

    Args:
        parameters: The number of parameters of the network.
        size: The number of all processes.
        shard: How many processes share one copy of the weights; 1 is DDP.
        batches: Micro-batches per step in each process.

    Returns:
        DDP: one all-reduce. FSDP and HSDP: weights are gathered for the forward and for the backward pass of each
        micro-batch; gradients are reduced once.
    """
    weights = 4 * parameters
    gathered = weights // shard * (shard - 1)
    copies = size // shard
    sent = [
        Transfer("all-gather of weights", 2 * batches, gathered),
        Transfer("reduce-scatter of gradients", 1, gathered),
        Transfer("all-reduce of gradients", 1, 2 * weights // shard * (copies - 1) // copies),
    ]
    return [transfer for transfer in sent if transfer.sent]
