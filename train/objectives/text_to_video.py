"""The diffusion loss for captions: with a text encoder that learns along, or of embeddings that were made before."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from latte.models.denoiser import check_latents
from latte.models.fields import check_fields
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig, TextToVideo, TextToVideoConfig
from latte.models.t5 import T5Config
from latte.pipeline import LattePipeline
from latte.scheduler import Scheduler
from latte.text.tokenizer import Tokenizer, train_vocabulary
from latte.train.config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.data.latent_files import CAPTION, EMPTY, Stored
from latte.train.init import begin_t2v, begin_transformer, has_text
from latte.train.objectives.class_conditional import Denoising
from latte.train.watch import SHOWN
from latte.weights.folder import save_folder
from latte.weights.load import find_model, model_root
from latte.weights.published import save_scheduler


def spread(captions: list[str], count: int, again: bool = False) -> list[str]:
    """`count` of the captions, evenly through all; where there are fewer, all, or some of them again."""
    count = count if again else min(count, len(captions))
    return [captions[i * len(captions) // count] for i in range(count)]


class Captioned(Denoising):
    """A LatteT2V and its text encoder learn together.

    The vocabulary is made of the captions, or is that of the model that config.init names, if it has one, or of a run
    that was begun.
    """

    def __init__(
        self, clips: Clips, config: TrainConfig, device: torch.device | str = "cpu", begun: Path | None = None
    ):
        super().__init__(clips, config, device)
        source = find_model(config.init) if config.init else None
        if source is not None and has_text(source):
            begun = model_root(source)
        known = begun is not None and (begun / "tokenizer").is_dir()
        self.tokenizer = Tokenizer(begun / "tokenizer" if known else train_vocabulary(clips.captions))
        ids, mask = self.tokenizer([*clips.captions, ""])  # the last stands for those that are dropped
        longest = int(mask.sum(1).max())
        self.ids, self.mask = ids[:, :longest], mask[:, :longest]
        self.rows = {caption: row for row, caption in enumerate(clips.captions)}

    def network(self) -> TextToVideo:
        """A fresh one for these latents and captions, or begun with config.init. ValueError: what does not fit."""
        cfg = self.config
        derived = {"video_length": cfg.num_frames, "sample_size": self.side, "in_channels": self.channels}
        encoder = T5Config(**check_fields(T5Config, {**cfg.text_encoder, "vocab_size": len(self.tokenizer)}))
        derived |= {"out_channels": 2 * self.channels, "caption_channels": encoder.d_model}
        network = TextToVideo(TextToVideoConfig(LatteT2VConfig.from_dict({**cfg.model, **derived}), encoder))
        check_latents(self.nothing(), torch.zeros(1), self.channels, network.transformer.config.patch_size)
        if cfg.init:
            begin_t2v(network, cfg.init)
        network.transformer.gradient_checkpointing = cfg.gradient_checkpointing
        return network

    def data(self) -> dict:
        return super().data() | {"vocabulary": hashlib.sha256(self.tokenizer.vocabulary).hexdigest()}

    def prediction(self, network: TextToVideo) -> str:
        return network.transformer.config.prediction

    def drop_rate(self, network: TextToVideo) -> float:
        return self.config.caption_dropout

    def condition(
        self, network: TextToVideo, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        numbers = torch.tensor([[self.rows[caption] for caption in row] for row in captions])
        rows = torch.where(dropped, len(self.ids) - 1, numbers)
        return {"ids": self.ids[rows], "encoder_mask": self.mask[rows], "mask": self.mask[numbers]}

    def show(self, network: TextToVideo) -> tuple[Tensor, list[str]]:
        """Samples of some captions, uint8 (n, f, 3, h, w), and these."""
        captions = spread(self.clips.captions, SHOWN)
        return self.samples(network, len(captions)), captions

    def samples(self, network: TextToVideo, count: int) -> Tensor:
        """So many samples, of captions evenly through all, uint8 (n, f, 3, h, w)."""
        parts = (network.transformer, self.vae, network.text_encoder, self.tokenizer)
        asked = spread(self.clips.captions, count, again=True)
        return LattePipeline(*parts)(asked, batch_size=SHOWN, **self.sampling()).frames

    def finish(self, network: TextToVideo, folder: Path) -> None:
        """Write a text-to-video folder, with the VAE, the vocabulary and a scheduler."""
        network.eval()
        save_folder(network.transformer, folder / "transformer")
        save_folder(network.text_encoder, folder / "text_encoder")
        self.save_companions(folder)

    def save_companions(self, folder: Path) -> None:
        super().save_companions(folder)
        self.tokenizer.save(folder / "tokenizer")
        save_scheduler(Scheduler(), folder / "scheduler")


class Embedded(Denoising):
    """A LatteT2V learns from the embeddings that `latte encode --text-encoder` stored; the encoder stays as it is.

    Where a caption is dropped, the video sees as many tokens of the empty caption as it had, padding among them: so
    does sampling (latte.text.embed, "single").
    """

    def __init__(self, clips: Stored, config: TrainConfig, device: torch.device | str = "cpu"):
        if config.text_encoder:
            raise ValueError("text_encoder does nothing with stored embeddings of captions: leave it out")
        super().__init__(clips, config, device)
        self.rows = {caption: CAPTION.format(row) for row, caption in enumerate(clips.captions)}
        self.table, self.empty = clips.embeddings, clips.embeddings[EMPTY].float()

    def network(self) -> LatteT2V:
        """A fresh one for these latents and embeddings, or begun with config.init. ValueError: what does not fit."""
        cfg = self.config
        derived = {"video_length": cfg.num_frames, "sample_size": self.side, "in_channels": self.channels}
        derived |= {"out_channels": 2 * self.channels, "caption_channels": self.empty.shape[1]}
        network = LatteT2V(LatteT2VConfig.from_dict({**cfg.model, **derived}))
        network.init_weights()
        check_latents(self.nothing(), torch.zeros(1), self.channels, network.config.patch_size)
        if cfg.init:
            begin_transformer(network, cfg.init)
        network.gradient_checkpointing = cfg.gradient_checkpointing
        return network

    def drop_rate(self, network: LatteT2V) -> float:
        return self.config.caption_dropout

    def condition(
        self, network: LatteT2V, labels: Tensor, captions: list[list[str]], dropped: Tensor
    ) -> dict[str, Tensor]:
        own = [[self.table[self.rows[caption]].float() for caption in row] for row in captions]
        longest = max(len(text) for row in own for text in row)
        text, mask = torch.zeros(*dropped.shape, longest, self.empty.shape[1]), torch.zeros(*dropped.shape, longest)
        for i, row in enumerate(own):
            for j, tokens in enumerate(row):
                text[i, j, : len(tokens)] = self.empty[: len(tokens)] if dropped[i, j] else tokens
                mask[i, j, : len(tokens)] = 1
        if not self.config.num_images:
            text, mask = text[:, 0], mask[:, 0]
        return {"text": text, "mask": mask}

    def show(self, network: LatteT2V) -> tuple[Tensor, list[str]]:
        captions = spread(self.clips.captions, SHOWN)
        return self.samples(network, len(captions)), captions

    def samples(self, network: LatteT2V, count: int) -> Tensor:
        pipe, videos = LattePipeline(network, self.vae), []
        for number, caption in enumerate(spread(self.clips.captions, count, again=True)):
            text = self.table[self.rows[caption]].float()[None]
            empty = self.empty[None, : text.shape[1]]
            noise = {**self.sampling(), "seed": self.config.seed + number}
            videos.append(pipe(prompt_embeds=text, negative_prompt_embeds=empty, **noise).frames)
        return torch.cat(videos)

    def finish(self, network: LatteT2V, folder: Path) -> None:
        """Write transformer, VAE and scheduler: the text encoder and its vocabulary are those of the embeddings."""
        network.eval()
        save_folder(network, folder / "transformer")
        self.save_companions(folder)

    def save_companions(self, folder: Path) -> None:
        super().save_companions(folder)
        save_scheduler(Scheduler(), folder / "scheduler")
