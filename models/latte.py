"""Latte: a latent diffusion transformer for video (Ma et al. 2024, arXiv 2401.03048).

These models are unconditional or class-conditional; the text-to-video model is in latte_t2v.py.
"""

from functools import reduce

import torch
from torch import Tensor, nn

from latte.models.block import MODULATION, AdaLN, Block, FullPrecisionLinear
from latte.models.condition import ClassEmbed, spatial_position
from latte.models.denoiser import Condition, Denoiser, check_latents, seen_channels
from latte.models.latte_config import VARIANTS, LatteConfig


class Latte(Denoiser):
    """The unconditional or class-conditional denoiser (Latte, figures 1 and 2).

    Args:
        config: The shape of the model.
    """

    def __init__(self, config: LatteConfig):
        super().__init__()
        self.config = cfg = config
        dim, p = cfg.hidden_size, cfg.patch_size
        kinds = VARIANTS[cfg.variant](cfg.depth)
        rope = cfg.temporal_pos == "rope"
        self.patch_size, self.tubelet = p, cfg.tubelet
        # the paper does not say where variants 2 to 4 add temporal positions; here, as in variant 1, before the first
        # block that attends over time
        self.first_temporal = next((i for i, kind in enumerate(kinds) if set(kind) & {"t", "|"} and not rope), None)
        self.condition = ClassEmbed(dim, cfg.num_classes, cfg.class_dropout_prob > 0)
        self.patch_embed = nn.Linear(seen_channels(cfg) * cfg.tubelet * p * p, dim)
        self.blocks = nn.ModuleList(
            Block(dim, cfg.num_heads, kind, cfg.conditioning, cfg.mlp_ratio, rope) for kind in kinds
        )
        self.final_modulation = MODULATION[cfg.conditioning](dim, 1, parts=2)
        self.final_linear = FullPrecisionLinear(dim, p * p * cfg.out_channels)
        upsample = (cfg.tubelet, 1, 1)
        self.upsample = (
            nn.ConvTranspose3d(cfg.out_channels, cfg.out_channels, upsample, upsample) if cfg.tubelet > 1 else None
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise as in DiT (section 3.2): a fresh block is the identity, and a fresh model outputs zeros.

        Linear layers are Xavier-uniform, embeddings N(0, 0.02), modulation and output zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for linear in (part for part in self.condition.time.modules() if isinstance(part, nn.Linear)):
            nn.init.normal_(linear.weight, std=0.02)
        for zero in (m.linear for m in self.modules() if isinstance(m, AdaLN)):
            nn.init.zeros_(zero.weight)
        nn.init.zeros_(self.final_linear.weight)
        if self.upsample is not None and self.upsample.bias is not None:
            nn.init.zeros_(self.upsample.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, num_images: int = 0) -> Tensor:
        """Predict the noise (or config.prediction) of noisy latents and, if it is learned, the variance.

        The variance channels interpolate as in Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 15.

        Args:
            x: Noisy latents (b, f, c, h, w); f divisible by tubelet, h and w by patch_size. With self-conditioning, an
                estimate of the clean latents may follow on the channel axis: (b, f, 2c, h, w).
            t: Timesteps (b,), in 0 to 999 for the published schedule.
            y: Classes (b,), num_classes for "no class"; None for an unconditional model. In joint training also
                (b, 1 + num_images): the class of the clip, then those of the images.
            num_images: In joint training, how many of the last frames are still images.

        Returns:
            The prediction (b, f, c or 2c, h, w).

        Raises:
            ValueError: Shapes do not fit the configuration or each other.
        """
        self.check_inputs(x, t, y, num_images)
        return self.denoise(x, self.class_condition(self.condition(t, y)), num_images)

    def class_condition(self, embeddings: list[Tensor]) -> Condition:
        """How embeddings (b, rows, d) enter the trunk: their sum modulates it, or each is a token of every frame."""
        if self.config.conditioning == "adaln":
            total = reduce(torch.add, embeddings)
            return Condition(total, total)
        tokens = torch.stack(torch.broadcast_tensors(*embeddings), 2)
        return Condition(embeddings[0], embeddings[0], tokens)  # Affine ignores its input

    def spatial_position(self, x: Tensor, h: int, w: int) -> Tensor:
        return spatial_position(h, w, self.config.hidden_size, x.device)

    def check_inputs(self, x: Tensor, t: Tensor, y: Tensor | None, num_images: int) -> None:
        """Raise a ValueError that names the first invalid argument of forward."""
        cfg = self.config
        check_latents(x, t, (cfg.in_channels, seen_channels(cfg)), cfg.patch_size, num_images)
        if x.shape[1] % cfg.tubelet:
            raise ValueError(f"{x.shape[1]} frames cannot be cut into tubelets of {cfg.tubelet}")
        if num_images and cfg.tubelet > 1:
            raise ValueError(f"a tubelet of {cfg.tubelet} frames cannot hold single images: num_images must be 0")
        if cfg.num_classes and (y is None or y.shape not in ((len(x),), (len(x), 1 + num_images))):
            raise ValueError(
                f"this model is class-conditional: give y of shape ({len(x)},), {cfg.num_classes} for no class"
            )
        if y is not None and not cfg.num_classes:
            raise ValueError("this model is unconditional: leave y out")
        if y is not None and y.is_floating_point():
            raise ValueError(f"y has type {y.dtype}; classes are whole numbers")
