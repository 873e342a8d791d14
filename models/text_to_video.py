"""A LatteT2V together with the text encoder that it reads, as one network: so are small ones trained."""

from dataclasses import dataclass

from torch import Tensor, nn

from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.t5 import T5Config, T5Encoder


@dataclass(frozen=True)
class TextToVideoConfig:
    """Both shapes. ValueError: the encoder's width is not that of the captions."""

    transformer: LatteT2VConfig
    text_encoder: T5Config

    def __post_init__(self):
        if self.transformer.caption_channels != self.text_encoder.d_model:
            raise ValueError(
                f"the text encoder's width is {self.text_encoder.d_model}; the model's captions have "
                f"{self.transformer.caption_channels}"
            )

    @classmethod
    def from_dict(cls, values: dict) -> "TextToVideoConfig":
        """The inverse of dataclasses.asdict; ValueError: not two tables, or see those of the two."""
        parts = [values.get(name) for name in ("transformer", "text_encoder")]
        if len(values) != 2 or not all(isinstance(part, dict) for part in parts):
            raise ValueError("it must hold transformer and text_encoder, each a table")
        return cls(LatteT2VConfig.from_dict(parts[0]), T5Config.from_dict(parts[1]))


class TextToVideo(nn.Module):
    """Token ids in place of embeddings; both parts learn from the video's loss."""

    def __init__(self, config: TextToVideoConfig):
        super().__init__()
        self.config = config
        self.transformer, self.text_encoder = LatteT2V(config.transformer), T5Encoder(config.text_encoder)
        self.transformer.init_weights()
        self.text_encoder.init_weights()

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, own: Tensor, mask: Tensor, num_images: int = 0) -> Tensor:
        """x (b, f, c, h, w), t (b,), ids (b, 1 + num_images, l) of the clip and its images -> (b, f, c or 2c, h, w).

        own: 0 where an id is padding, which the encoder passes over; mask: 0 at tokens that the video does not see.
        They differ where a caption was dropped: the video then sees as many tokens of the empty one as it had.
        """
        text = self.text_encoder(ids.flatten(0, 1), own.flatten(0, 1)).unflatten(0, ids.shape[:2])
        if not num_images:
            text, mask = text[:, 0], mask[:, 0]
        return self.transformer(x, t, text, mask, num_images)
