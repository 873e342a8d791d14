"""Decoding in parallel: each process decodes some of the frames, and all of them get the videos."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from latte.models.vae import VideoVAE
from latte.parallel.split import Split
from latte.replaced_methods import replaced_methods


def decode_parts(vae: VideoVAE, decode: Callable[[Tensor], Tensor], latents: Tensor, split: Split) -> Tensor:
    """Like VideoVAE.decode; all processes must call it with the same latents.

    A plain decoder decodes each frame separately, so the frames of all videos are split over the processes. The
    temporal decoder needs whole videos, so the videos are split.

    Args:
        vae: The VAE.
        decode: Decodes a part, (b, f, c, h, w) -> (b, f, out_channels, ...).
        latents: Scaled latents (b, f, c, h, w).
        split: The processes.

    Raises:
        ValueError: Values are not finite.
    """
    if not latents.isfinite().all():  # here, since otherwise only the process that decodes them would fail
        raise ValueError("the input of the VAE holds values that are not finite")
    b, f, _, h, w = latents.shape
    units = latents if vae.config.temporal_decoder else latents.flatten(0, 1)[None]  # split along axis 0 or 1
    axis, count = (0, b) if vae.config.temporal_decoder else (1, b * f)
    own, part = split.parts(count)[split.rank], split.own(count)
    if own:
        videos = decode(units.narrow(axis, part.start, own))
    else:
        pixels = (vae.config.out_channels, h * vae.factor, w * vae.factor)
        videos = next(vae.parameters()).new_empty(*((0, f) if axis == 0 else (1, 0)), *pixels)
    return split.gather(videos, axis, count).reshape(b, f, *videos.shape[2:])


@contextmanager
def parallel_decoding(vae: VideoVAE | None, split: Split) -> Iterator[None]:
    """Within the context, vae.decode splits its work over the processes; see decode_parts."""
    if vae is None:
        yield
        return
    decode = vae.decode
    with replaced_methods([(vae, "decode", lambda latents: decode_parts(vae, decode, latents, split))]):
        yield
