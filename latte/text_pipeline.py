"""From prompts to videos: LatteT2V, T5, a VAE and a scheduler behind one call, in diffusers' words."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from latte.diffusion.guidance import guided, predicting_noise
from latte.diffusion.randomness import draws
from latte.models.latte_t2v import LatteT2V
from latte.models.t5 import T5Encoder
from latte.models.vae import VideoVAE
from latte.pipeline import (
    MOST_VIDEOS,
    OUTPUT_TYPES,
    LatteOutput,
    LattePipeline,
    as_output,
    check_choice,
    check_count,
    check_vae,
    chunked,
    told,
)
from latte.scheduler import Scheduler
from latte.text.embed import MAX_LENGTH, Text, check_texts, embed, kept, masked
from latte.text.tokenizer import Tokenizer
from latte.weights.eight_bits import in_eight_bits
from latte.weights.hub import find_pipeline, find_vae
from latte.weights.load import model_root
from latte.weights.published import GUIDANCE, readers
from latte.weights.sampling_defaults import Guidance, Sampling, check_interval, load_sampling
from latte.weights.vae_folder import load_vae

KEEPING = (None, "cpu", "free")
READ = "read it from the folder"  # what a part is unless it is passed in, or left out by None


class TextPipeline(LattePipeline):
    """Text-to-video generation. Its parts, each of which can be replaced: see __init__."""

    made_of = "prompts"
    sampling = Sampling(Guidance(GUIDANCE))  # what a call takes where it does not say
    # where the text encoder goes after each encoding: None, it stays; "cpu", there, also from .to(); "free", nowhere
    offload_text_encoder: str | None = None

    def __init__(
        self,
        transformer: LatteT2V | None = None,
        vae: VideoVAE | None = None,
        text_encoder: T5Encoder | None = None,
        tokenizer: Tokenizer | None = None,
        scheduler: Scheduler | None = None,
    ):
        self.transformer, self.vae = None if transformer is None else transformer.eval(), vae
        self.text_encoder, self.tokenizer, self.scheduler = text_encoder, tokenizer, scheduler or Scheduler()
        check_vae(vae, transformer)
        if text_encoder is None:
            return
        width, known = text_encoder.config.d_model, text_encoder.config.vocab_size
        if transformer is not None and width != transformer.config.caption_channels:
            captions = transformer.config.caption_channels
            raise ValueError(f"the text encoder's width is {width}; the model's captions have {captions}")
        if tokenizer is not None and len(tokenizer) > known:
            raise ValueError(f"the tokenizer has {len(tokenizer)} pieces; the text encoder knows {known}")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        torch_dtype: torch.dtype = torch.float32,
        transformer: LatteT2V | None = READ,
        vae: VideoVAE | str | Path | None = READ,
        text_encoder: T5Encoder | None = READ,
        tokenizer: Tokenizer | None = READ,
        scheduler: Scheduler | None = READ,
        memory: str = "normal",
    ) -> "TextPipeline":
        """Read a published folder or one of ours: transformer/, vae/, text_encoder/, tokenizer/, scheduler/; or a run.

        A part that is passed in is not read; None leaves it out (and of the scheduler takes DDIM). vae: also another
        folder, or the name of one within this one, such as "vae_temporal_decoder". memory "low": the text encoder is in
        8 bits (latte.weights.eight_bits), and on the CPU between encodings; the VAE decodes frame by frame,
        or, with a temporal
        decoder, computes so inside its layers. CheckpointError says what is missing, damaged or does not fit.
        """
        check_choice("memory", memory, ("normal", "low"))
        path = find_pipeline(path)
        if isinstance(vae, str | Path) and vae != READ:
            vae = load_vae(find_vae(vae, path), torch_dtype)
        given = dict(transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
        given["scheduler"] = scheduler
        read = readers(path, torch_dtype, memory == "low")
        pipe = cls(**{name: read[name]() if part is READ else part for name, part in given.items()})
        pipe.sampling = load_sampling(model_root(path), GUIDANCE)
        if memory == "low":
            pipe.offload_text_encoder = "cpu"
            if pipe.text_encoder is not None:  # one that was passed in may still be in floating-point numbers
                in_eight_bits(pipe.text_encoder)
            if pipe.vae is not None:
                pipe.vae.set_chunk(1)
        return pipe

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] = "",
        num_inference_steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        num_videos_per_prompt: int = 1,
        video_length: int | None = None,
        height: int | None = None,
        width: int | None = None,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | Text | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable | None = None,
        clean_caption: bool = True,
        mask_feature: bool = True,
        text_mask: str = "single",
        enable_temporal_attentions: bool = True,
        decode_chunk_size: int | None = None,
        num_images_per_prompt: int | None = None,
        batch_size: int | None = None,
        first: int = 0,
        progress: bool = True,
    ) -> LatteOutput:
        """Make num_videos_per_prompt (or num_images_per_prompt) videos of every prompt; .frames holds them in order.

        prompt: text, or prompt_embeds: what encode_prompt made, or (b, l, caption_channels) without padding;
        negative_prompt: one for all, or one each; it counts where guidance_scale is above 1, which is by default what
        the model's folder says, or 7.5.
        guidance_interval: timesteps between which it guides. num_inference_steps, guidance_interval, eta None: as the
        model's folder says, or 50, all, 0.
        timesteps: falling, in place of num_inference_steps.
        video_length, height, width: None: as the model was trained; 1 frame makes a picture. eta: of ddim alone.
        Video i has the noise of (seed, i), seed 0 unless given, or of `generator`, one for all or one a video, or
        begins at latents (b, c, f, h, w). first: the number of the first video under a seed, so that a call makes a
        part of what a larger one makes. mask_feature: padding of the prompts is left out, as text_mask says
        (latte.text.embed). output_type: "pil" lists of images, "np" (b, f, h, w, 3) and "pt" (b, f, 3, h, w) in [0, 1],
        "uint8", "latent" (b, c, f, h, w). callback_on_step_end: see latte.pipeline.told. decode_chunk_size: frames that
        the VAE decodes at once in this call; batch_size: videos that go through denoiser and VAE at once (None: all);
        both, and a call of its own (first), change memory, and results by rounding alone (but for one generator of all
        videos and fresh noise in a step).
        Raises ValueError for what does not go together or the model does not have.
        """
        if self.transformer is None:
            raise ValueError("this pipeline has no transformer: it can only encode prompts (encode_prompt)")
        if num_images_per_prompt is not None:
            if num_videos_per_prompt not in (1, num_images_per_prompt):
                raise ValueError("num_videos_per_prompt and num_images_per_prompt are one setting: give one")
            num_videos_per_prompt = num_images_per_prompt
        guidance = self.sampling.guidance.asked(guidance_scale, guidance_interval)
        eta = self.sampling.eta_of(self.scheduler.sampler, eta)
        check_choice("output_type", output_type, OUTPUT_TYPES)
        self.check_numbers(num_videos_per_prompt, eta, decode_chunk_size, batch_size, output_type)
        check_count("first", first, MOST_VIDEOS, 0)
        guides = guidance.scale > 1
        if negative_prompt and not guides:
            raise ValueError(f"negative_prompt does nothing with guidance_scale {guidance.scale:g}: more than 1 guides")
        if guidance_interval is not None and not guides:
            raise ValueError(f"guidance_interval does nothing with guidance_scale {guidance.scale:g}: above 1 guides")
        negative_prompt = (negative_prompt or "") if guides else None
        negative_prompt_embeds = negative_prompt_embeds if guides else None
        texts = (prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        count = num_videos_per_prompt * check_texts(*texts, self.width, mask_feature, text_mask)
        cfg = self.transformer.config
        shape = self.latent_shape("video_length", video_length, height, width, cfg.video_length, cfg.sample_size)
        steps = self.sampling.num_inference_steps if num_inference_steps is None else num_inference_steps
        schedule = self.scheduler.schedule(steps, timesteps)
        if guidance.interval != self.sampling.guidance.interval:
            check_interval(guidance.interval, schedule.timesteps.tolist())
        noise = draws(count, shape, generator, seed, latents, first)
        text = self.encode_prompt(*texts, num_videos_per_prompt, clean_caption, mask_feature, text_mask)
        batch_size = batch_size or count
        units, done = [slice(i, min(i + batch_size, count)) for i in range(0, count, batch_size)], []
        with (
            tqdm(total=len(units) * len(schedule), disable=not progress, unit="step", desc="sampling") as bar,
            chunked(self.vae, decode_chunk_size),
        ):

            def after(step: int, t: float, x: Tensor) -> None:
                bar.update()
                told(self, callback_on_step_end, step, t, x)

            for unit in units:
                denoiser = self.denoiser(text.rows(unit), guidance, enable_temporal_attentions)
                x = self.scheduler.start(noise(-1, unit), schedule).to(self.device)
                fresh = partial(noise, rows=unit)
                x = self.denoise(denoiser, x, partial(self.scheduler.run, eta=eta), schedule, fresh, after)
                done.append(self.decode(x, output_type))
        return LatteOutput(as_output(torch.cat(done), output_type))

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = "",
        prompt_embeds: Tensor | Text | None = None,
        negative_prompt_embeds: Tensor | None = None,
        copies: int = 1,
        clean_caption: bool = True,
        mask_feature: bool = True,
        text_mask: str = "single",
    ) -> Text:
        """What the network attends to, `copies` rows for every prompt; negative_prompt None: no guidance.

        A call takes it as prompt_embeds, or where it has no masks (of one prompt), its .prompt and .negative as
        prompt_embeds and negative_prompt_embeds. ValueError: both or neither of a prompt and its embeddings, shapes
        that do not fit, or no encoder for it.
        """
        given = (prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        count = check_texts(*given, self.width, mask_feature, text_mask)
        mask = other = None
        text = kept(prompt_embeds, negative_prompt_embeds)
        prompt_embeds, negative_prompt_embeds = text.prompt, None if negative_prompt is None else text.negative
        encodes = prompt_embeds is None or (negative_prompt_embeds is None and negative_prompt is not None)
        with self.at_hand() if encodes else nullcontext():
            if prompt_embeds is None:
                prompts = [prompt] if isinstance(prompt, str) else prompt
                prompt_embeds, mask = embed(self.text_encoder, self.tokenizer, prompts, MAX_LENGTH, clean_caption)
            if negative_prompt_embeds is None and negative_prompt is not None:
                length = prompt_embeds.shape[1]
                several = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt]
                encoded = embed(self.text_encoder, self.tokenizer, several, length, clean_caption)
                negative_prompt_embeds, other = (z.expand(count, *z.shape[1:]) for z in encoded)
        each = lambda z: None if z is None else z.repeat_interleave(copies, 0)
        if mask is None:  # of a negative prompt that was encoded here the prompt's own tokens count, as in "single"
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
    def at_hand(self) -> Iterator[None]:
        """The text encoder where it is to compute, and afterwards where offload_text_encoder says.

        ValueError: there is none.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("this pipeline has no text encoder: give prompt_embeds (and negative_prompt_embeds)")
        check_choice("offload_text_encoder", self.offload_text_encoder, KEEPING)
        if self.offload_text_encoder == "cpu":
            self.text_encoder.to(self.device)
        try:
            yield
        finally:
            if self.offload_text_encoder == "cpu":
                self.text_encoder.to("cpu")
        if self.offload_text_encoder == "free":
            self.text_encoder = None

    @property
    def width(self) -> int:
        """Of embeddings."""
        if self.transformer is None:
            return self.text_encoder.config.d_model
        return self.transformer.config.caption_channels

    def stays(self, network: nn.Module) -> bool:
        """Whether .to() leaves it on its device."""
        return network is self.text_encoder and self.offload_text_encoder == "cpu"

    def denoiser(self, text: Text, guidance: Guidance, temporal: bool) -> Callable:
        """(x, t) -> guided noise and the variance of the prompt's half, as the samplers want it."""
        dtype = next(self.transformer.parameters()).dtype
        table, mask = text.table(dtype, self.device)

        def model(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            kept = None if mask is None else mask[rows]
            return self.transformer(x.to(dtype), t, table[rows], kept, temporal=temporal).float()

        if self.transformer.config.prediction == "v":
            model = predicting_noise(model, self.scheduler.training_schedule())
        rows = torch.arange(len(text.prompt), device=self.device)
        scale = 1 if text.negative is None else guidance.scale
        return guided(model, rows, rows + len(rows), scale, guidance.interval)

    def check_numbers(self, copies: int, eta: float, chunk: int | None, batch: int | None, output_type: str) -> None:
        """One clear ValueError for a number that makes no sense, or what this pipeline has no part for."""
        check_count("num_videos_per_prompt", copies, MOST_VIDEOS)
        if not 0 <= eta <= 1 or (eta and self.scheduler.sampler != "ddim"):
            raise ValueError(f"eta is {eta}; it must be in 0 to 1, and is ddim's alone")
        for name, value in (("decode_chunk_size", chunk), ("batch_size", batch)):
            if value is not None:
                check_count(name, value)
        if self.vae is None and output_type != "latent":
            raise ValueError("this pipeline has no VAE to decode with: pass one in, or take output_type='latent'")
