"""Prompts to what a LatteT2V attends to: embeddings, and a mask that does not depend on what else is in the batch."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latte.models.t5 import T5Encoder
from latte.text.tokenizer import Tokenizer

TEXT_MASKS = ("single", "strict", "reference")
MAX_LENGTH = 120  # tokens, of Latte-1's training


@dataclass(frozen=True)
class Text:
    """Embeddings (b, l, d) of prompts and, with guidance, of what it leads away from; masks (b, l) of both or none."""

    prompt: Tensor
    negative: Tensor | None
    prompt_mask: Tensor | None = None
    negative_mask: Tensor | None = None

    def rows(self, some: slice) -> "Text":
        """Of some of the videos."""
        return Text(*(None if part is None else part[some] for part in vars(self).values()))

    def table(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Prompts first and, where there is guidance, negative ones after: embeddings (n, l, d) and mask (n, l)."""
        texts = [text for text in (self.prompt, self.negative) if text is not None]
        masks = [mask for mask in (self.prompt_mask, self.negative_mask) if mask is not None]
        table = torch.cat([text.to(device, dtype) for text in texts])
        return table, torch.cat([mask.to(device) for mask in masks]) if masks else None


@torch.no_grad()
def embed(encoder: T5Encoder, tokenizer: Tokenizer, prompts: list[str], length: int, clean: bool):
    """Embeddings (n, l, d) of prompts, and their masks (n, l)."""
    ids, mask = tokenizer(prompts, length, clean)
    device = next(encoder.parameters()).device
    return encoder(ids.to(device), mask.to(device)), mask.to(device)


def masked(prompt: Tensor, mask: Tensor, negative: Tensor | None, negative_mask: Tensor | None, kind: str) -> Text:
    """Padding left out, of prompts (b, l, d), each with mask (b, l), and of their negative ones likewise.

    "single": of each prompt, and of the negative one beside it, the prompt's own tokens count, as in diffusers' call of
    that prompt alone. "strict": of the negative one its own tokens. "reference": what diffusers does with a batch,
    where padding becomes zeros that are attended to, and the negative padding stays; of one prompt it is "single".
    """
    if kind == "reference" and len(prompt) > 1:
        return Text(prompt * mask[..., None].to(prompt.dtype), negative)
    other = negative_mask if kind == "strict" and negative is not None else mask
    longest = int(torch.maximum(mask.sum(1), other.sum(1)).max())
    prompt, mask, other = prompt[:, :longest], mask[:, :longest], other[:, :longest]
    negative = None if negative is None else negative[:, :longest]
    if mask.all() and other.all():
        return Text(prompt, negative)
    return Text(prompt, negative, mask, None if negative is None else other)


def kept(prompt_embeds: Tensor | Text | None, negative_prompt_embeds: Tensor | None) -> Text:
    """Embeddings that a call is given; a Text has its masks. ValueError: it has negative ones, and others are given."""
    if not isinstance(prompt_embeds, Text):
        return Text(prompt_embeds, negative_prompt_embeds)
    if negative_prompt_embeds is not None:
        raise ValueError("prompt_embeds that encode_prompt made have negative ones: leave out negative_prompt_embeds")
    return prompt_embeds


def check_texts(
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    prompt_embeds: Tensor | Text | None,
    negative_prompt_embeds: Tensor | None,
    width: int,
    mask_feature: bool,
    text_mask: str,
) -> int:
    """How many prompts there are, whose embeddings have that width. ValueError: what does not go together."""
    if text_mask not in TEXT_MASKS:
        raise ValueError(f"text_mask is {text_mask!r}, not one of {', '.join(TEXT_MASKS)}")
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("give a prompt or prompt_embeds, and not both")
    given = kept(prompt_embeds, negative_prompt_embeds)
    if given.negative is not None and (negative_prompt or prompt is not None):
        raise ValueError("negative_prompt_embeds go with prompt_embeds, and without a negative_prompt")
    if text_mask != "single" and (prompt is None or not mask_feature):
        idle = "prompt_embeds" if prompt is None else "mask_feature=False"
        raise ValueError(f"text_mask={text_mask!r} does nothing with {idle}: leave it out")
    for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        listed = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        if not (texts is None or isinstance(texts, str) or listed):
            raise ValueError(f"{name} is a text, or a list of at least one")
    sizes = [tuple(embeds.shape) for embeds in (given.prompt, given.negative) if embeds is not None]
    if sizes and (len(sizes[0]) != 3 or sizes[0][2] != width or 0 in sizes[0]):
        raise ValueError(f"prompt_embeds have shape {sizes[0]}; expected (prompts, tokens, {width})")
    if len(set(sizes)) > 1:
        raise ValueError(f"negative_prompt_embeds have shape {sizes[1]}; expected {sizes[0]}, that of prompt_embeds")
    count = sizes[0][0] if sizes else 1 if isinstance(prompt, str) else len(prompt)
    if isinstance(negative_prompt, list) and len(negative_prompt) != count:
        raise ValueError(f"{len(negative_prompt)} negative prompts for {count} prompts: give one, or one each")
    return count


def read_prompts(path: Path) -> list[str]:
    """The lines of a file, but for empty ones. ValueError: there are none, or it is no text in UTF-8."""
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {path} is not a text in UTF-8") from error
    if not prompts:
        raise ValueError(f"--prompts {path} holds no prompt: write one a line")
    return prompts
