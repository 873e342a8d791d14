"""Several processes that share one video: sequence parallelism, the halves of guidance, and the frames of the VAE."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.device_mesh import DeviceMesh

from latte.models.denoiser import Denoiser
from latte.models.vae import VideoVAE
from latte.parallel.layout import layouts, sampling_mesh
from latte.parallel.sequence import sequence_parallel
from latte.parallel.vae_frames import parallel_decoding
from latte.processes import Ranks

__all__ = ["parallel", "sampling_mesh"]


@contextmanager
def parallel(mesh: DeviceMesh, transformer: Denoiser, vae: VideoVAE | None = None) -> Iterator[None]:
    """Within the context, all processes of a mesh make each video together: they make the same calls and all get it.

    Args:
        mesh: From sampling_mesh. It holds all processes.
        transformer: A pipeline's transformer.
        vae: Its VAE.

    Raises:
        ValueError: In the first evaluation, if the processes were given different noise, classes or prompts, or if a
            video has fewer frames than processes that share them.
    """
    choices = layouts(mesh)
    everyone = choices[-1].frames
    with sequence_parallel(transformer, choices, Ranks(everyone.rank, everyone.size)), parallel_decoding(vae, everyone):
        yield
