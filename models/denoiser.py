"""The trunk that Latte and LatteT2V share: cut latents into patches, run the blocks, assemble latents again."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latte.models.block import modulate
from latte.models.condition import sincos


class Condition(NamedTuple):
    """The embedded condition of a denoiser: one row for all frames of a video, or one row per frame.

    In joint training there are 1 + n rows, for the clip and its n images, or a single row that they share.
    """

    blocks: Tensor  # (b, rows, k): modulates the norms of the blocks; k depends on the kind of modulation
    final: Tensor  # (b, rows, k): modulates the last norm
    tokens: Tensor | None = None  # (b, rows, n, d): put in front of each frame's tokens
    text: Tensor | None = None  # (b, rows, l, d): what cross-attention attends to
    bias: Tensor | None = None  # (b, rows, l): added to its scores

    def select(self, rows: slice) -> "Condition":
        """Select some of the rows; a single row is shared by all frames and is kept."""
        return Condition._make(z if z is None or z.shape[1] == 1 else z[:, rows] for z in self)


def seen_channels(config: Any) -> int:
    """Channels of a denoiser's input: the noisy latents and, with self-conditioning, an estimate of the clean ones."""
    return config.in_channels * (2 if config.self_condition else 1)


def check_latents(x: Tensor, t: Tensor, channels: Sequence[int], patch_size: int, num_images: int) -> None:
    """Check the shapes that every denoiser requires.

    Args:
        x: Noisy latents, which must be (b, f, channels, h, w) with h and w multiples of patch_size.
        t: Timesteps, which must be (b,).
        channels: The possible numbers of channels.
        patch_size: Side of a patch, in latent pixels.
        num_images: How many of the last frames are still images, which must be fewer than all.

    Raises:
        ValueError: A shape does not fit.
    """
    if x.ndim != 5 or x.shape[2] not in channels:
        known = " or ".join(map(str, dict.fromkeys(channels)))
        raise ValueError(f"latents have shape {tuple(x.shape)}; expected (b, f, {known}, h, w)")
    if t.shape != (len(x),):
        raise ValueError(f"timesteps have shape {tuple(t.shape)}; expected ({len(x)},), one per sample")
    if 0 in x.shape or x.shape[3] % patch_size or x.shape[4] % patch_size:
        raise ValueError(
            f"latents of {x.shape[3]} x {x.shape[4]} cannot be cut into patches of {patch_size} x {patch_size}"
        )
    if num_images and not 0 < num_images < x.shape[1]:
        raise ValueError(f"num_images is {num_images} of {x.shape[1]} frames; it must be less")


def patchify(x: Tensor, p: int, tubelet: int = 1) -> Tensor:
    """Latents (b, f, c, h, w) -> patches (b, f / tubelet, s, c * tubelet * p * p), row by row: Latte, section 3.3."""
    return rearrange(x, "b (f q) c (h p) (w r) -> b f (h w) (c q p r)", q=tubelet, p=p, r=p)


def unpatchify(x: Tensor, p: int, h: int) -> Tensor:
    """Patches (b, f, s, p * p * c) in h rows -> (b, f, c, height, width); a patch's channels come last, as in DiT."""
    return rearrange(x, "b f (h w) (p r c) -> b f c (h p) (w r)", h=h, p=p, r=p)


class Denoiser(nn.Module):
    """A transformer over the patches of a noisy video (Latte, section 3.2). Subclasses add the conditioning.

    With self-conditioning (Chen et al. 2023, arXiv 2208.04202), the network also sees an earlier estimate of the clean
    latents: in sampling that of the last step, in training one that it has just made.

    A subclass creates the layers below itself, because the order of creation decides which random numbers initialise
    which weight. It then calls `denoise` with its embedded condition.

    Attributes:
        gradient_checkpointing: Recompute the blocks in the backward pass of training, which saves memory and leaves
            the results unchanged.
        patch_size: Side of a patch, in latent pixels.
        tubelet: Frames in a patch.
        first_temporal: Index of the block before which temporal positions are added; None for no positions.
        upsample: From one latent frame per tubelet to all frames of the tubelet.
        patch_embed: From patches to tokens.
        blocks: The transformer blocks, in order.
        final_modulation: Modulation of the last norm.
        final_linear: From tokens to patches.
    """

    gradient_checkpointing = False
    patch_size: int
    tubelet: int = 1
    first_temporal: int | None
    upsample: nn.ConvTranspose3d | None
    patch_embed: nn.Linear
    blocks: nn.ModuleList
    final_modulation: nn.Module
    final_linear: nn.Linear

    def denoise(self, x: Tensor, condition: Condition, num_images: int = 0, temporal: bool = True) -> Tensor:
        """Run the trunk on noisy latents.

        In joint training on images and videos, still images follow the clip as extra frames. They skip temporal
        attention, so the clip and the images go through the trunk separately, and no layer needs to distinguish them.

        Args:
            x: Noisy latents (b, f, c, h, w), of which the last num_images frames are still images.
            condition: The embedded condition, of 1 or 1 + num_images rows.
            num_images: Number of still images, less than f.
            temporal: False turns temporal attention off for the clip, too.

        Returns:
            The prediction (config.prediction) and, if it is learned, the variance (b, f, channels, h, w).
        """
        if not num_images:
            return self.trunk(x, condition, temporal)
        clip, images = x.split([x.shape[1] - num_images, num_images], 1)
        clip = self.trunk(clip, condition.select(slice(1)), temporal)
        images = self.trunk(images, condition.select(slice(1, None)), temporal=False)
        return torch.cat([clip, images], 1)

    def trunk(self, x: Tensor, condition: Condition, temporal: bool) -> Tensor:
        """From latents (b, f, c, h, w) through all blocks to the output; see denoise."""
        tokens = self.through_blocks(self.embed(x, condition), condition, temporal)
        return self.predict(tokens, condition, x.shape[3] // self.patch_size)

    def embed(self, x: Tensor, condition: Condition) -> Tensor:
        """Latents (b, f, c, h, w) -> tokens (b, f, s, d) with spatial positions, after the condition's tokens."""
        h, w = (side // self.patch_size for side in x.shape[3:])
        x = self.embed_patches(x)
        # in the weights' precision: under autocast the residual stream is float32 from here on
        x = x + self.spatial_position(x, h, w).to(self.patch_embed.weight.dtype)
        if condition.tokens is None:
            return x
        return torch.cat([condition.tokens.expand(-1, x.shape[1], -1, -1), x], 2)

    def embed_patches(self, x: Tensor) -> Tensor:
        """Latents (b, f, c, h, w) -> tokens (b, f, s, d) without positions.

        With self-conditioning, x may hold an estimate of the clean latents after the noisy ones (b, f, 2c, h, w); zeros
        stand for no estimate.
        """
        patches = patchify(x, self.patch_size, self.tubelet).to(self.patch_embed.weight.dtype)
        missing = self.patch_embed.in_features - patches.shape[-1]
        return self.patch_embed(F.pad(patches, (0, missing)) if missing else patches)

    def through_blocks(self, x: Tensor, condition: Condition, temporal: bool, numbers: range | None = None) -> Tensor:
        """Run tokens (b, f, s, d) through the blocks with these indices, or through all blocks.

        Faster blocks, caches, and training methods that act between two blocks replace this method.
        """
        for i in range(len(self.blocks)) if numbers is None else numbers:
            block = self.blocks[i]
            if temporal and i == self.first_temporal:
                x = self.add_temporal_position(x)
            if temporal or block.kinds != "t":
                arguments = (x, condition.blocks, condition.text, condition.bias, temporal)
                recompute = self.gradient_checkpointing and self.training
                x = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
        return x

    def predict(self, x: Tensor, condition: Condition, h: int) -> Tensor:
        """Tokens (b, f, s, d) of patches in h rows -> the output (b, f, channels, height, width)."""
        prefix = 0 if condition.tokens is None else condition.tokens.shape[2]
        ((shift, scale),) = self.final_modulation(condition.final)
        out = unpatchify(self.final_linear(modulate(x[:, :, prefix:], shift, scale)), self.patch_size, h)
        return out if self.upsample is None else self.upsample(out.transpose(1, 2)).transpose(1, 2)

    def spatial_position(self, x: Tensor, h: int, w: int) -> Tensor:
        """The position of each of h x w patches, (s, d), float32, to add to tokens x (b, f, s, d) on x's device."""
        raise NotImplementedError

    def add_temporal_position(self, x: Tensor) -> Tensor:
        """Add to tokens (b, f, s, d) the sinusoidal position of their frame."""
        position = sincos(torch.arange(x.shape[1], device=x.device), x.shape[-1])
        return x + position[:, None].to(x.dtype)


def denoiser_of(network: nn.Module) -> Denoiser:
    """The denoiser in a network: the network itself, or its transformer."""
    return next(module for module in network.modules() if isinstance(module, Denoiser))
