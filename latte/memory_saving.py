"""The devices of a pipeline's networks, and ways to save memory on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn

from latte.arguments import check_count
from latte.device import existing_device, usable_device
from latte.models.vae import VideoVAE
from latte.vae_tiles import decode_in_tiles


class MemoryMixin:
    """A pipeline's devices, and options that save memory.

    Attributes:
        offload_text_encoder: What happens to the text encoder after each encoding. None: it stays. "cpu": it moves to
            the CPU, and .to() leaves it there. "free": it is deleted.
    """

    offload_text_encoder: str | None = None
    text_encoder: Any
    vae: VideoVAE | None
    components: dict[str, Any]
    _offloads_from: torch.device | None = None  # the device of enable_model_cpu_offload
    _chunk_before: int | None = None  # of the VAE, before enable_vae_slicing

    def networks(self) -> list[nn.Module]:
        """The parts that have weights."""
        return [part for part in self.components.values() if isinstance(part, nn.Module)]

    def to(self, *args: Any, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the networks to a device, or to a dtype, or both, in any order; returns the pipeline itself.

        Giving a device ends enable_model_cpu_offload. Raises ValueError if this machine does not have the device.
        """
        for value in args:
            device, dtype = (device, value) if isinstance(value, torch.dtype) else (value, dtype)
        if device is not None:
            existing_device(device)
            self._offloads_from = None
        for network in self.networks():
            stays = network is self.text_encoder and self.offload_text_encoder == "cpu"
            network.to(device=None if stays else device, dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        """The device that computes: that of the transformer, or of the first network if there is no transformer."""
        if self._offloads_from is not None:
            return self._offloads_from
        return next(self._first_network().parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the transformer's weights, or of the first network's if there is no transformer."""
        return next(self._first_network().parameters()).dtype

    def _first_network(self) -> nn.Module:
        networks = self.networks()
        if not networks:
            raise ValueError("this pipeline has no networks, and so no device")
        return networks[0]

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: str | torch.device | None = None) -> None:
        """Keep the networks on the CPU, and move each to the device only while it computes. Videos are the same.

        A call moves the text encoder to the device and back, then for each batch the transformer, then the VAE.

        Args:
            gpu_id: The number of the GPU.
            device: The device; None means the GPU. `.to(device)` ends the offloading.

        Raises:
            ValueError: There is no such device, or it is the CPU.
        """
        if gpu_id is not None:
            check_count("gpu_id", gpu_id, least=0)
            device = f"{torch.device(device or 'cuda').type}:{gpu_id}"
        found = usable_device(None if device is None else str(device))
        if found.type == "cpu":
            raise ValueError("enable_model_cpu_offload needs a GPU to move networks to, but this machine has none")
        self.to("cpu")
        self._offloads_from = found

    @contextmanager
    def computing(self, *networks: nn.Module | None) -> Iterator[None]:
        """Within the context, the networks are on the device that computes, even if they are offloaded."""
        moved = [each for each in networks if each is not None and self._moves(each)]
        for network in moved:
            network.to(self.device)
        try:
            yield
        finally:
            for network in moved:
                network.to("cpu")

    def _moves(self, network: nn.Module) -> bool:
        of_text = network is self.text_encoder and self.offload_text_encoder == "cpu"
        return self._offloads_from is not None or of_text

    def enable_vae_slicing(self) -> None:
        """Decode one frame at a time, as decode_chunk_size=1 does: the least memory, the same pixels up to rounding."""
        vae = self._its_vae()
        if self._chunk_before is None:
            self._chunk_before = vae.chunk
        vae.set_chunk(1)

    def disable_vae_slicing(self) -> None:
        """Decode as many frames at a time as before enable_vae_slicing."""
        if self._chunk_before is not None:
            self._its_vae().set_chunk(self._chunk_before)
            self._chunk_before = None

    def enable_vae_tiling(self, tile_size: int = 256) -> None:
        """Decode larger frames in overlapping tiles that are blended into each other. This is not exact.

        A tile does not see the rest of the frame, so colours and seams can differ from those of a frame that is decoded
        whole (latte.vae_tiles). Slicing, and decode_chunk_size, save memory without that.

        Args:
            tile_size: The side of a tile, in pixels: a multiple of the VAE's factor. Smaller frames are decoded whole.

        Raises:
            ValueError: The size is not such a multiple, or there is no VAE.
        """
        vae = self._its_vae()
        check_count("tile_size", tile_size)
        if tile_size % vae.factor:
            raise ValueError(f"tile_size is {tile_size}; this VAE needs a multiple of {vae.factor}")
        decode_in_tiles(vae, tile_size // vae.factor)

    def disable_vae_tiling(self) -> None:
        """Decode whole frames again."""
        decode_in_tiles(self._its_vae(), None)

    def _its_vae(self) -> VideoVAE:
        if self.vae is None:
            raise ValueError("this pipeline has no VAE: pass one in")
        return self.vae
