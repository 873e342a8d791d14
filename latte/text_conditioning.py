"""Conditioning by prompts: T5 embeddings of a call's prompts, and the guided network of a LatteT2V."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latte.arguments import check_choice
from latte.conditioning import Request
from latte.guided_denoiser import GuidedDenoiser, Network, guided_denoiser
from latte.models.latte_t2v_config import LatteT2VConfig
from latte.network_forms import FastNetwork, fast_run, runs_fast
from latte.plans.layer_cache import LayerCache
from latte.plans.records import Plan
from latte.sampling_settings import Guidance
from latte.text.caption import dropped_words
from latte.text.embed import MAX_LENGTH, Text, check_texts, embed, kept, masked
from latte.weights.eight_bits import in_eight_bits
from latte.weights.find_models import PARTS, WEAKER, model_root
from latte.weights.hub import find_vae
from latte.weights.published import readers
from latte.weights.published_export import save_published
from latte.weights.sampling_defaults import TEXT_GUIDANCE, load_sampling, own_weaker
from latte.weights.t2v_folder import save_text_to_video
from latte.weights.vae_folder import load_vae

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline

OFFLOADS = (None, "cpu", "free")


class TextConditioning:
    """Conditioning for a text-to-video model, or for its text encoder alone."""

    components: tuple[str, ...] = PARTS
    tensors: tuple[str, ...] = ("prompt_embeds", "negative_prompt_embeds")

    def trained_size(self, config: LatteT2VConfig) -> tuple[int, int]:
        """(frames, side of the latents) that a model was trained at."""
        return config.video_length, config.sample_size

    def describe(self, transformer: Any) -> str:
        """What the model makes videos for, in words."""
        return "prompts"

    def check_parts(self, pipe: "LattePipeline") -> None:
        """Raise ValueError if the text encoder, its tokenizer and the network do not fit together."""
        if pipe.class_names:
            raise ValueError("class_names belong to a class-conditional model; this one is for prompts")
        if pipe.text_encoder is None:
            return
        width, known = pipe.text_encoder.config.d_model, pipe.text_encoder.config.vocab_size
        if pipe.transformer is not None and width != pipe.transformer.config.caption_channels:
            captions = pipe.transformer.config.caption_channels
            raise ValueError(f"the text encoder's width is {width}; the model's captions have {captions}")
        if pipe.tokenizer is not None and len(pipe.tokenizer) > known:
            raise ValueError(f"the tokenizer has {len(pipe.tokenizer)} pieces; the text encoder knows {known}")

    def check_request(
        self, pipe: "LattePipeline", request: Request, guidance: Guidance, given: Sequence[str] = ()
    ) -> int:
        """The number of videos; raises ValueError for arguments that do not go together."""
        if request.class_labels is not None:
            raise ValueError("class_labels does nothing for a text-to-video model: give prompt")
        if request.num_videos is not None:
            raise ValueError("num_videos does nothing for a text-to-video model: give num_videos_per_prompt")
        guides = self.guides(pipe, guidance)
        given = [*(["negative_prompt"] if request.negative_prompt else []), *given]
        if given and not guides:
            raise ValueError(f"{given[0]} does nothing with {guidance.said}: set it above 1")
        if pipe.weaker is not None and (request.negative_prompt or request.negative_prompt_embeds is not None):
            raise ValueError("negative_prompt does nothing with autoguidance, which leads away from a weaker model")
        return request.copies * check_texts(
            *self.texts(pipe, request, guidance), embedding_width(pipe), request.mask_feature, request.text_mask
        )

    def save(self, pipe: "LattePipeline", folder: str | Path, published: bool, variant: str | None) -> None:
        """Write the parts as a folder, in our layout or in the one that diffusers reads."""
        save = save_published if published else save_text_to_video
        save(folder, pipe.components, sampling=pipe.saved_sampling, variant=variant)

    def guides(self, pipe: "LattePipeline", guidance: Guidance) -> bool:
        """Whether a call is guided."""
        return guidance.strength > 1 or guidance.method == "cfg++"

    def texts(self, pipe: "LattePipeline", request: Request, guidance: Guidance) -> tuple[Any, Any, Any, Any]:
        """(prompt, negative prompt, their embeddings) of a call; the negative ones only if that half is computed."""
        negative = self.guides(pipe, guidance) and pipe.weaker is None
        words = (request.negative_prompt or "") if negative else None
        return request.prompt, words, request.prompt_embeds, request.negative_prompt_embeds if negative else None

    def denoisers(
        self, pipe: "LattePipeline", request: Request, guidance: Guidance, plan: Plan,
        scales: Sequence[float] | None = None,
    ) -> Callable[[Sequence[int]], GuidedDenoiser]:  # fmt: skip
        """The network, guided from the negative prompts towards the prompts, which are encoded here."""
        text = encode_prompt(
            pipe, *self.texts(pipe, request, guidance), request.copies, request.clean_caption, request.mask_feature,
            request.text_mask,
        )  # fmt: skip
        dtype, temporal = next(pipe.transformer.parameters()).dtype, request.enable_temporal_attentions

        def denoiser(rows: Sequence[int]) -> GuidedDenoiser:
            embeds, mask = rows_of(text, rows, dtype, pipe.device)
            network_of = lambda network, plan, cache: text_network(pipe, network, embeds, mask, plan, cache, temporal)
            return guided_denoiser(pipe, network_of, guidance, plan, scales, embeds)

        return denoiser


def text_network(
    pipe: "LattePipeline", network: Any, embeds: dict[str, Tensor], mask: Tensor | None, plan: Plan,
    cache: LayerCache | None, temporal: bool,
) -> tuple[Network, bool]:  # fmt: skip
    """A network at the evaluations of a plan, for the embeddings of texts; and whether it is the fast form.

    A callback may replace the embeddings between evaluations.
    """
    times, dtype = plan.times(pipe.device), next(network.parameters()).dtype
    known: list[Tensor] = []  # the embeddings that `run` was made from
    run: FastNetwork | None = None

    def fast(x: Tensor, k: int, halves: int) -> Tensor:
        nonlocal run
        if run is None:
            condition = network.text_condition(times, torch.cat(list(embeds.values())).to(dtype), mask)
            run = fast_run(pipe, network, condition, plan, cache)
        elif any(new is not old for new, old in zip(embeds.values(), known)):
            run.replace_text(network.text_condition(times[:1], torch.cat(list(embeds.values())).to(dtype), mask))
        known[:] = embeds.values()
        return run(x, k, halves)

    def plain(x: Tensor, k: int, halves: int) -> Tensor:
        x = torch.cat([x] * halves)
        table, masks = torch.cat(list(embeds.values())).to(dtype)[: len(x)], None if mask is None else mask[: len(x)]
        return network(x.to(dtype), times[k].expand(len(x)), table, masks, temporal=temporal)

    is_fast = runs_fast(pipe, network, plan, temporal)
    return (fast if is_fast else plain), is_fast


def rows_of(
    text: Text, rows: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, Tensor], Tensor | None]:
    """For some videos: embeddings by the names that a callback knows, and the mask (n, l) of all of them in order."""
    parts = {"prompt_embeds": text.prompt, "negative_prompt_embeds": text.negative}
    embeds = {name: part[list(rows)].to(device, dtype) for name, part in parts.items() if part is not None}
    masks = [mask[list(rows)].to(device) for mask in (text.prompt_mask, text.negative_mask) if mask is not None]
    return embeds, torch.cat(masks) if masks else None


def embedding_width(pipe: "LattePipeline") -> int:
    """Width of the text embeddings that a pipeline works with. Raises ValueError if it is unknown."""
    if pipe.transformer is not None:
        return pipe.transformer.config.caption_channels
    if pipe.text_encoder is None:
        raise ValueError("this pipeline has neither a text encoder nor a model to tell the width of its embeddings")
    return pipe.text_encoder.config.d_model


def encode_prompt(
    pipe: "LattePipeline",
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None = "",
    prompt_embeds: Tensor | Text | None = None,
    negative_prompt_embeds: Tensor | None = None,
    copies: int = 1,
    clean_caption: bool = True,
    mask_feature: bool = True,
    text_mask: str = "single",
) -> Text:
    """Embed prompts and negative prompts: see LattePipeline.encode_prompt."""
    given = (prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
    count = check_texts(*given, embedding_width(pipe), mask_feature, text_mask)
    mask = other = None
    text = kept(prompt_embeds, negative_prompt_embeds)
    prompt_embeds, negative_prompt_embeds = text.prompt, None if negative_prompt is None else text.negative
    encodes = prompt_embeds is None or (negative_prompt_embeds is None and negative_prompt is not None)
    with encoder_on_device(pipe) if encodes else nullcontext():
        if prompt_embeds is None:
            prompts = [prompt] if isinstance(prompt, str) else prompt
            prompt_embeds, mask = embed(pipe.text_encoder, pipe.tokenizer, prompts, MAX_LENGTH, clean_caption)
            for lost in (dropped_words(each) for each in prompts if clean_caption):
                if lost:
                    warnings.warn(f"cleaning removes from a prompt: {' '.join(lost)!r}", stacklevel=2)
        if negative_prompt_embeds is None and negative_prompt is not None:
            length = prompt_embeds.shape[1]
            several = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt]
            encoded = embed(pipe.text_encoder, pipe.tokenizer, several, length, clean_caption)
            negative_prompt_embeds, other = (z.expand(count, *z.shape[1:]) for z in encoded)
    each: Callable[[Any], Any] = lambda z: None if z is None else z.repeat_interleave(copies, 0)
    if mask is None:  # a negative prompt that was encoded here gets the mask of the prompt's own tokens, as in "single"
        theirs = text.prompt_mask if text.negative is None else text.negative_mask
        masks = (text.prompt_mask, None if negative_prompt_embeds is None else theirs)
        return Text(each(prompt_embeds), each(negative_prompt_embeds), *map(each, masks))
    text = Text(each(prompt_embeds), each(negative_prompt_embeds))
    if not mask_feature:
        return text
    # diffusers repeats embeddings one by one, but masks as a whole
    repeated = mask.repeat(copies, 1) if text_mask == "reference" else each(mask)
    return masked(text.prompt, repeated, text.negative, each(other), text_mask)


@contextmanager
def encoder_on_device(pipe: "LattePipeline") -> Iterator[None]:
    """Within the context, the text encoder is on the pipeline's device; then it moves to pipe.offload_text_encoder.

    Raises:
        ValueError: There is no text encoder, or no such device.
    """
    if pipe.text_encoder is None or pipe.tokenizer is None:
        raise ValueError("this pipeline has no text encoder: give prompt_embeds (and negative_prompt_embeds)")
    check_choice("offload_text_encoder", pipe.offload_text_encoder, OFFLOADS)
    with pipe.computing(pipe.text_encoder):
        yield
    if pipe.offload_text_encoder == "free":
        pipe.text_encoder = None


def read_text_parts(
    path: Path, parts: dict[str, Any], dtype: torch.dtype, memory: str, variant: str | None = None,
    local_files_only: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Read the parts of a text-to-video model that `parts` does not name.

    Args:
        path: A published folder, one of ours, or a run.
        parts: Parts by name; None leaves a part out, and a VAE may be given as the name of a folder.
        dtype: The dtype of the weights.
        memory: "low" reads the text encoder in 8 bits and lets the VAE work on one frame at a time.
        variant: The variant of the weight files, see latte.weights.state_files.
        local_files_only: Look up a VAE on the hub in the cache only.

    Returns:
        The parts, and under "sampling" the model folder's sampling defaults.

    Raises:
        CheckpointError: A part is missing, damaged or does not fit.
    """
    check_choice("memory", memory, ("normal", "low"))
    read, parts = readers(path, dtype, memory == "low", variant), dict(parts)
    if isinstance(parts.get("vae"), str | Path):
        parts["vae"] = load_vae(find_vae(parts["vae"], path, local_files_only), dtype, variant)
    sampling = load_sampling(model_root(path), TEXT_GUIDANCE)
    for name in TextConditioning.components:
        if name not in parts:
            parts[name] = read[name]()
    if WEAKER not in parts and parts["transformer"] is not None and own_weaker(path, sampling) is not None:
        parts[WEAKER] = read[WEAKER]()
    if memory == "low":
        if parts["text_encoder"] is not None:  # one that was passed in may still be in floating-point numbers
            in_eight_bits(parts["text_encoder"])
        if parts["vae"] is not None:
            parts["vae"].set_chunk(1)
    return {**parts, "sampling": sampling}
