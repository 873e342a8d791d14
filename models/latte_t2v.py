"""LatteT2V, the text-to-video model (Latte-1): Latte's first variant, with PixArt-alpha's conditioning.

Spatial and temporal blocks alternate as in Latte (arXiv 2401.03048); the spatial blocks also attend to a text. The
timestep enters through adaLN-single (PixArt-alpha: Chen et al. 2023, arXiv 2310.00426, section 2.3).
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from latte.models.attention import CrossAttention
from latte.models.block import AdaLNSingle, Block, FullPrecisionLinear, Mlp
from latte.models.condition import TimeEmbed, spatial_position
from latte.models.denoiser import Condition, Denoiser, check_latents, seen_channels
from latte.models.latte_t2v_config import LatteT2VConfig
from latte.models.t5 import T5Config, T5Encoder

MASKED = -10_000.0  # added to the attention scores of padding, as published


class LatteT2V(Denoiser):
    """The text-to-video denoiser.

    The weights have PyTorch's default initialisation until they are loaded or `init_weights` is called.

    Args:
        config: The shape of the model.
    """

    def __init__(self, config: LatteT2VConfig):
        super().__init__()
        self.config, dim, p = config, config.hidden_size, config.patch_size
        self.patch_size, self.first_temporal, self.upsample = p, 1, None
        self.patch_embed = nn.Linear(seen_channels(config) * p * p, dim)
        self.time = TimeEmbed(dim)
        self.time_modulation = FullPrecisionLinear(dim, 6 * dim)
        self.caption = Mlp(config.caption_channels, dim, dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_attention_heads, kind, "single", cross=kind == "s")
            for kind in ["s", "t"] * config.num_layers
        )
        self.final_modulation = AdaLNSingle(dim, 1, parts=2)
        self.final_linear = FullPrecisionLinear(dim, p * p * config.out_channels)

    def init_weights(self) -> None:
        """Initialise for training from scratch, as PixArt-alpha's code does.

        Linear layers are Xavier-uniform, those of the conditioning N(0, 0.02), and the output projections of
        cross-attention and of the model zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.time, self.time_modulation, self.caption):
            for linear in (part for part in module.modules() if isinstance(part, nn.Linear)):
                nn.init.normal_(linear.weight, std=0.02)
        cross = [module for module in self.modules() if isinstance(module, CrossAttention)]
        for zero in (self.final_linear, *(layer.proj for layer in cross)):
            nn.init.zeros_(zero.weight)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        num_images: int = 0,
        temporal: bool = True,
    ) -> Tensor:
        """Predict the noise (or config.prediction) of noisy latents and, if it is learned, the variance.

        Args:
            x: Noisy latents (b, f, c, h, w), with h and w divisible by patch_size. A single frame is an image. With
                self-conditioning, an estimate of the clean latents may follow on the channel axis: (b, f, 2c, h, w).
            t: Timesteps (b,), in 0 to 999 for the published schedule.
            text: Text embeddings (b, l, caption_channels). In joint training (b, 1 + num_images, l, ...), for the clip
                and the images.
            mask: 0 at padding, which is not attended to, else 1; shaped like text without its last axis.
            num_images: In joint training, how many of the last frames are still images.
            temporal: False skips the temporal blocks (enable_temporal_attentions of the published model).

        Returns:
            The prediction (b, f, out_channels, h, w).

        Raises:
            ValueError: Shapes do not fit the configuration or each other.
        """
        self.check_inputs(x, t, text, mask, num_images)
        return self.denoise(x, self.text_condition(t, text, mask), num_images, temporal)

    def text_condition(self, t: Tensor, text: Tensor, mask: Tensor | None) -> Condition:
        """Embed timestep and text (see forward) into adaLN-single's shared modulation and cross-attention's input."""
        dtype = self.patch_embed.weight.dtype
        time = self.time(t)[:, None]
        words = self.caption((text if text.ndim == 4 else text[:, None]).to(dtype))
        bias = None if mask is None else (1 - (mask if mask.ndim == 3 else mask[:, None]).to(dtype)) * MASKED
        return Condition(self.time_modulation(F.silu(time)), time, text=words, bias=bias)

    def spatial_position(self, x: Tensor, h: int, w: int) -> Tensor:
        cfg = self.config
        side = cfg.sample_size / cfg.patch_size / max(cfg.sample_size // 64, 1)  # as PixArt-alpha stretches positions
        return spatial_position(h, w, cfg.hidden_size, x.device, side)

    def add_temporal_position(self, x: Tensor) -> Tensor:
        return super().add_temporal_position(x) if x.shape[1] > 1 else x  # as published: an image gets none

    def check_inputs(self, x: Tensor, t: Tensor, text: Tensor, mask: Tensor | None, num_images: int) -> None:
        """Raise a ValueError that names the first invalid argument of forward."""
        cfg = self.config
        check_latents(x, t, (cfg.in_channels, seen_channels(cfg)), cfg.patch_size, num_images)
        lead = (len(x), 1 + num_images) if num_images else (len(x),)
        if text.shape[:-2] != lead or text.shape[-1] != cfg.caption_channels or not text.shape[-2]:
            raise ValueError(f"text has shape {tuple(text.shape)}; expected {(*lead, 'tokens', cfg.caption_channels)}")
        if mask is not None and mask.shape != text.shape[:-1]:
            raise ValueError(f"the text's mask has shape {tuple(mask.shape)}; expected {tuple(text.shape[:-1])}")


@dataclass(frozen=True)
class TextToVideoConfig:
    """The shapes of a LatteT2V and of the text encoder that is trained with it.

    Raises:
        ValueError: The encoder's width differs from the transformer's caption_channels.
    """

    transformer: LatteT2VConfig
    text_encoder: T5Config

    def __post_init__(self) -> None:
        if self.transformer.caption_channels != self.text_encoder.d_model:
            raise ValueError(
                f"the text encoder's d_model is {self.text_encoder.d_model}; it must equal the transformer's "
                f"caption_channels, {self.transformer.caption_channels}"
            )

    @property
    def least_tensors(self) -> int:
        """The sum over both networks."""
        return self.transformer.least_tensors + self.text_encoder.least_tensors

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TextToVideoConfig":
        """Build both configurations from a table that holds two tables, the inverse of dataclasses.asdict.

        Raises:
            ValueError: There are not exactly two tables, or one of them is not valid.
        """
        transformer, text_encoder = (values.get(name) for name in ("transformer", "text_encoder"))
        if len(values) != 2 or not isinstance(transformer, dict) or not isinstance(text_encoder, dict):
            raise ValueError("TextToVideoConfig: it must hold transformer and text_encoder, each a table")
        return cls(LatteT2VConfig.from_dict(transformer), T5Config.from_dict(text_encoder))


class TextToVideo(nn.Module):
    """A LatteT2V that takes token ids; its text encoder is trained jointly, by the video loss.

    Args:
        config: The shapes of both networks. They are initialised for training from scratch.
    """

    def __init__(self, config: TextToVideoConfig):
        super().__init__()
        self.config = config
        self.transformer, self.text_encoder = LatteT2V(config.transformer), T5Encoder(config.text_encoder)
        self.transformer.init_weights()
        self.text_encoder.init_weights()

    def forward(
        self, x: Tensor, t: Tensor, ids: Tensor, encoder_mask: Tensor, mask: Tensor, num_images: int = 0
    ) -> Tensor:
        """Predict as LatteT2V.forward does.

        The masks differ where a caption was dropped: the video then attends to as many tokens of the empty caption as
        the dropped caption had.

        Args:
            x: Noisy latents (b, f, c, h, w).
            t: Timesteps (b,).
            ids: Token ids (b, 1 + num_images, l), of the captions of the clip and of its images.
            encoder_mask: 0 where an id is padding to the text encoder, else 1; shaped like ids.
            mask: 0 at tokens that the video does not attend to, else 1; shaped like ids.
            num_images: In joint training, how many of the last frames are still images.

        Returns:
            The prediction (b, f, c or 2c, h, w).
        """
        text = self.text_encoder(ids.flatten(0, 1), encoder_mask.flatten(0, 1)).unflatten(0, ids.shape[:2])
        if not num_images:
            text, mask = text[:, 0], mask[:, 0]
        return self.transformer(x, t, text, mask, num_images)
