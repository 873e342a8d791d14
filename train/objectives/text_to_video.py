"""The objectives of a text-to-video model: with a text encoder that is trained too, or with stored embeddings."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from latte.files import CheckpointError
from latte.models.denoiser import check_latents
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig, TextToVideo, TextToVideoConfig
from latte.models.network_config import check_fields
from latte.models.t5 import T5Config
from latte.text.tokenizer import Tokenizer, train_vocabulary
from latte.train.base_config import TrainConfig
from latte.train.data.clips import TrainingData
from latte.train.data.latent_files import CAPTION, EMPTY, LatentFolder
from latte.train.init import has_text_encoder, init_t2v, init_transformer
from latte.train.objectives.denoising import Denoising
from latte.weights.find_models import WEAKER, find_model, is_text_pipeline, model_root
from latte.weights.published import readers
from latte.weights.shared_parts import part_folder


class TextConditional(Denoising):
    """Denoise clips given their captions.

    Where a caption is dropped, the video attends to as many tokens of the empty caption as its own caption has, padding
    included. Sampling does the same (latte.text.embed, "single").
    """

    def transformer_config(self, caption_channels: int) -> LatteT2VConfig:
        """Return the shape of a LatteT2V for these latents and captions. Raises ValueError if it does not fit them."""
        derived = {"video_length": self.config.num_frames, "sample_size": self.side, "in_channels": self.channels}
        derived |= {"out_channels": 2 * self.channels, "caption_channels": caption_channels}
        config = LatteT2VConfig.from_dict({**self.config.model, **derived})
        check_latents(self.empty_latents(), torch.zeros(1), (self.channels,), config.patch_size, self.config.num_images)
        return config

    def drop_rate(self, network: LatteT2V | TextToVideo) -> float:
        return self.config.caption_dropout

    def teacher_transformer(self, path: Path) -> LatteT2V:
        """Read the transformer of config.teacher."""
        if not is_text_pipeline(path):
            raise ValueError(f"{path} is not a text-to-video model, which a student with captions needs as its teacher")
        return readers(path)["transformer"]()

    def weaker_network(self, path: Path, teacher: LatteT2V | TextToVideo) -> LatteT2V | TextToVideo:
        weaker = readers(path)[WEAKER]()
        if not isinstance(teacher, TextToVideo):
            return weaker
        with torch.device("meta"):
            whole = TextToVideo(TextToVideoConfig(weaker.config, teacher.text_encoder.config))
        whole.transformer, whole.text_encoder = weaker, teacher.text_encoder
        return whole


class Captioned(TextConditional):
    """Train a LatteT2V together with its text encoder.

    Attributes:
        tokenizer: Its vocabulary is made from the captions, unless config.teacher or config.init names a model with a
            text encoder, or the run is resumed: then it comes from that model or run.
        ids: Tokens of all captions and, in the last row, of the empty one; (captions + 1, l).
        mask: 0 where these are padding.
        rows: The row of each caption.
    """

    def __init__(
        self, clips: TrainingData, config: TrainConfig, device: torch.device | str = "cpu", resumed: Path | None = None
    ):
        super().__init__(clips, config, device, resumed)
        source = find_model(config.teacher or config.init) if config.teacher or config.init else None
        owner = model_root(source) if source is not None and has_text_encoder(source) else resumed
        self.tokenizer = self.open_tokenizer(owner, resumed)
        ids, mask = self.tokenizer([*clips.captions, ""])
        longest = int(mask.sum(1).max())
        self.ids, self.mask = ids[:, :longest], mask[:, :longest]
        self.rows = {caption: row for row, caption in enumerate(clips.captions)}

    def open_tokenizer(self, owner: Path | None, resumed: Path | None) -> Tokenizer:
        """Read the vocabulary of `owner`, or make one. If the run's own vocabulary is damaged, it is made again."""
        if owner is not None and (vocabulary := part_folder(owner, "tokenizer")).is_dir():
            try:
                return Tokenizer(vocabulary)
            except (CheckpointError, OSError) as error:
                if owner != resumed:
                    raise
                warnings.warn(f"{error}; making it again from the captions", stacklevel=2)
        return Tokenizer(train_vocabulary(self.clips.captions))

    def network(self) -> TextToVideo:
        """Make a transformer and a text encoder, with fresh weights or those of config.init.

        Raises:
            ValueError: If settings, VAE and config.init do not fit together.
        """
        cfg = self.config
        encoder = T5Config(**check_fields(T5Config, {**cfg.text_encoder, "vocab_size": len(self.tokenizer)}))
        network = TextToVideo(TextToVideoConfig(self.transformer_config(encoder.d_model), encoder))
        if cfg.init:
            init_t2v(network, cfg.init)
        self.set_up(network.transformer)
        return network

    def teacher_network(self, path: Path) -> TextToVideo:
        transformer, encoder = self.teacher_transformer(path), readers(path)["text_encoder"]()
        with torch.device("meta"):
            teacher = TextToVideo(TextToVideoConfig(transformer.config, encoder.config))
        teacher.transformer, teacher.text_encoder = transformer, encoder
        return teacher

    def prediction(self, network: TextToVideo) -> str:
        return network.transformer.config.prediction

    def condition(
        self, network: TextToVideo, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        """Return ids and masks, each (b, 1 + num_images, l); the video ignores the tokens that "mask" hides."""
        numbers = torch.tensor([[self.rows[caption] for caption in row] for row in captions])
        rows = torch.where(dropped, len(self.ids) - 1, numbers)
        return {"ids": self.ids[rows], "encoder_mask": self.mask[rows], "mask": self.mask[numbers]}


class Embedded(TextConditional):
    """Train a LatteT2V on embeddings of captions that `latte encode --text-encoder` stored.

    Attributes:
        embeddings: Embeddings (l, caption_channels) of captions, by name.
        empty: The embedding of the empty caption.
        names: The name of each caption.
    """

    def __init__(
        self, clips: LatentFolder, config: TrainConfig, device: torch.device | str = "cpu", resumed: Path | None = None
    ):
        if config.text_encoder:
            raise ValueError(
                "text_encoder does nothing with stored embeddings of captions: leave it out, or set text_encoder={}"
            )
        super().__init__(clips, config, device, resumed)
        self.names = {caption: CAPTION.format(row) for row, caption in enumerate(clips.captions)}
        self.embeddings, self.empty = clips.embeddings, clips.embeddings[EMPTY].float()

    def embedding(self, caption: str) -> Tensor:
        """Return the stored embedding of a caption, (l, caption_channels)."""
        return self.embeddings[self.names[caption]].float()

    def network(self) -> LatteT2V:
        """Make a transformer, with fresh weights or those of config.init.

        Raises:
            ValueError: If settings, VAE, embeddings and config.init do not fit together.
        """
        network = LatteT2V(self.transformer_config(self.empty.shape[1]))
        network.init_weights()
        if self.config.init:
            init_transformer(network, self.config.init)
        self.set_up(network)
        return network

    def teacher_network(self, path: Path) -> LatteT2V:
        teacher = self.teacher_transformer(path)
        width, stored = teacher.config.caption_channels, self.clips.embeddings[EMPTY].shape[1]
        if width != stored:
            raise ValueError(f"{path} takes embeddings {width} wide, but those of {self.clips.folder} are {stored}")
        return teacher

    def prediction(self, network: LatteT2V) -> str:
        return network.config.prediction

    def condition(
        self, network: LatteT2V, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        """Return "text" (b, 1 + num_images, l, caption_channels) and its mask; no second axis without images."""
        own = [[self.embedding(caption) for caption in row] for row in captions]
        longest = max(len(tokens) for row in own for tokens in row)
        text, mask = torch.zeros(*dropped.shape, longest, self.empty.shape[1]), torch.zeros(*dropped.shape, longest)
        for i, row in enumerate(own):
            for j, tokens in enumerate(row):
                text[i, j, : len(tokens)] = self.empty[: len(tokens)] if dropped[i, j] else tokens
                mask[i, j, : len(tokens)] = 1
        if not self.config.num_images:
            text, mask = text[:, 0], mask[:, 0]
        return {"text": text, "mask": mask}
