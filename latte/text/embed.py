"""The text that a LatteT2V attends to: embeddings of prompts, and masks that do not depend on the rest of the batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from latte.arguments import check_choice
from latte.models.t5 import T5Encoder
from latte.text.tokenizer import Tokenizer

TEXT_MASKS = ("single", "strict", "reference")
MAX_LENGTH = 120  # tokens of a prompt, as Latte-1 was trained


@dataclass(frozen=True)
class Text:
    """Embeddings of b prompts, each l tokens of width d, and of the negative prompts that guidance moves away from.

    Attributes:
        prompt: Embeddings (b, l, d).
        negative: Embeddings (b, l, d) of the negative prompts; None without guidance.
        prompt_mask: 0 at tokens that are not attended to, (b, l); None if all are.
        negative_mask: The same for `negative`.
    """

    prompt: Tensor
    negative: Tensor | None
    prompt_mask: Tensor | None = None
    negative_mask: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor | None]:
        """The embeddings of the prompts and of the negative prompts, as diffusers returns them."""
        return iter((self.prompt, self.negative))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Text":
        """The same text on a device, its embeddings in a dtype."""
        move = lambda part, dtype: None if part is None else part.to(device=device, dtype=dtype)
        embeds = (move(part, dtype) for part in self)
        return Text(*embeds, *(move(mask, None) for mask in (self.prompt_mask, self.negative_mask)))


@torch.no_grad()
def embed(
    encoder: T5Encoder, tokenizer: Tokenizer, prompts: list[str], length: int, clean: bool
) -> tuple[Tensor, Tensor]:
    """Encode n prompts.

    Args:
        encoder: The text encoder.
        tokenizer: Its tokenizer.
        prompts: The texts.
        length: The number of tokens l per prompt, padding included.
        clean: Clean the prompts as latte.text.caption does.

    Returns:
        Embeddings (n, l, d) and a mask (n, l), which is 0 at padding, both on the encoder's device.
    """
    ids, mask = tokenizer(prompts, length, clean)
    device = next(encoder.parameters()).device
    return encoder(ids.to(device), mask.to(device)), mask.to(device)


def masked(prompt: Tensor, mask: Tensor, negative: Tensor | None, negative_mask: Tensor | None, kind: str) -> Text:
    """Exclude padding from attention.

    Args:
        prompt: Embeddings (b, l, d) of the prompts.
        mask: 0 at their padding, (b, l).
        negative: Embeddings (b, l, d) of the negative prompts, or None.
        negative_mask: 0 at their padding, (b, l), or None.
        kind: "single": a prompt and its negative prompt are both attended to over the tokens of the prompt, as if
            diffusers were called with that prompt alone. "strict": a negative prompt is attended to over its own
            tokens. "reference": what diffusers does with a batch, where the padding of prompts becomes zeros that are
            attended to, and that of negative prompts stays; with one prompt this is "single".
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
    """Return the embeddings that were passed to a call as a Text, which may already be one.

    Raises:
        ValueError: A Text, which has negative embeddings, was passed together with others.
    """
    if not isinstance(prompt_embeds, Text):
        return Text(prompt_embeds, negative_prompt_embeds)
    if negative_prompt_embeds is not None:
        raise ValueError("prompt_embeds from encode_prompt include negative ones; leave out negative_prompt_embeds")
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
    """Check the arguments of a call that concern the text.

    Args:
        prompt: One prompt or a list of them.
        negative_prompt: One negative prompt for all, a list with one for each, or None.
        prompt_embeds: Embeddings (b, l, width) in place of prompts, or a Text.
        negative_prompt_embeds: Embeddings of the same shape.
        width: The width of embeddings.
        mask_feature: Whether padding is excluded from attention.
        text_mask: How: see `masked`.

    Returns:
        The number of prompts.

    Raises:
        ValueError: An argument is not valid, or two of them do not go together.
    """
    check_choice("text_mask", text_mask, TEXT_MASKS)
    if prompt is None and prompt_embeds is None:
        raise ValueError("there is no prompt: give a prompt or prompt_embeds")
    if prompt is not None and prompt_embeds is not None:
        raise ValueError("give a prompt or prompt_embeds, not both")
    given = kept(prompt_embeds, negative_prompt_embeds)
    if given.negative is not None and (negative_prompt or prompt is not None):
        raise ValueError("negative_prompt_embeds go with prompt_embeds and without a negative_prompt")
    if text_mask != "single" and (prompt is None or not mask_feature):
        idle = "prompt_embeds" if prompt is None else "mask_feature=False"
        raise ValueError(f"text_mask={text_mask!r} does nothing with {idle}; leave it out")
    for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        listed = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        if not (texts is None or isinstance(texts, str) or listed):
            raise ValueError(f"{name} must be a string or a list of at least one string")
    sizes = [tuple(embeds.shape) for embeds in (given.prompt, given.negative) if embeds is not None]
    if sizes and (len(sizes[0]) != 3 or sizes[0][2] != width or 0 in sizes[0]):
        raise ValueError(f"prompt_embeds have shape {sizes[0]}; expected (prompts, tokens, {width})")
    if len(set(sizes)) > 1:
        raise ValueError(f"negative_prompt_embeds have shape {sizes[1]}; expected {sizes[0]}, that of prompt_embeds")
    count = sizes[0][0] if sizes else 1 if isinstance(prompt, str) else len(prompt)
    if isinstance(negative_prompt, list) and len(negative_prompt) != count:
        raise ValueError(f"{len(negative_prompt)} negative prompts for {count} prompts: give one, or one each")
    return count
