"""From classes or prompts to videos: one pipeline, one loop, with the names of diffusers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from latte.arguments import MOST_AT_ONCE, MOST_VIDEOS, check_choice, check_count, check_size, one_setting
from latte.autoguidance import AutoguidanceMixin, check_weaker
from latte.call_state import CallStateMixin
from latte.class_conditioning import ClassConditioning, class_index
from latte.conditioning import Conditioning, Request
from latte.description import DescriptionMixin
from latte.diffusion.randomness import noise_source
from latte.memory_saving import MemoryMixin
from latte.models.latte import Latte
from latte.models.latte_t2v import LatteT2V
from latte.models.t5 import T5Encoder
from latte.models.vae import VideoVAE
from latte.outputs import OUTPUT_TYPES, LatteOutput, as_output, decode_chunk, decode_latents, require_vae
from latte.plan_choice import PlanMixin
from latte.pretrained import PretrainedMixin
from latte.sampling_call import Callback, Steps, sampling_call
from latte.sampling_loop import batches, make_videos
from latte.sampling_settings import Guidance, Sampling, set_words
from latte.scheduler import Scheduler, check_scheduler, usual_scheduler
from latte.text.embed import Text
from latte.text.tokenizer import Tokenizer
from latte.text_conditioning import TextConditioning, encode_prompt
from latte.weights.sampling_defaults import TEXT_GUIDANCE, usual_guidance

Labels = Sequence[int | str] | int
Generators = torch.Generator | Sequence[torch.Generator]


class LattePipeline(PretrainedMixin, PlanMixin, AutoguidanceMixin, MemoryMixin, CallStateMixin, DescriptionMixin):
    """A Latte with the parts that are needed to make videos: class-conditional, unconditional or text-to-video.

    The parts are attributes and may be replaced. A class-conditional model has `transformer`, `vae`, `scheduler` and
    `class_names`; a text-to-video model has `transformer`, `vae`, `text_encoder`, `tokenizer` and `scheduler`. Both may
    have a `weaker` model, which autoguidance guides away from.

    Attributes:
        sampling: Defaults of a call: guidance, steps and eta.
        cuda_graphs: On CUDA, record each kind of denoising step once, and replay it (latte.fast.graph_run).
    """

    cuda_graphs: bool = False

    def __init__(
        self,
        transformer: Latte | LatteT2V | None = None,
        vae: VideoVAE | None = None,
        text_encoder: T5Encoder | None = None,
        tokenizer: Tokenizer | None = None,
        scheduler: Scheduler | None = None,
        class_names: Sequence[str] | None = None,
        weaker: Latte | LatteT2V | None = None,
    ):
        config: Any = getattr(transformer, "config", None)
        of_classes = hasattr(config, "num_classes")
        self.conditioning: Conditioning = ClassConditioning() if of_classes else TextConditioning()
        self.transformer: Any = None if transformer is None else transformer.eval()
        self.vae = vae
        self.text_encoder: Any = text_encoder
        self.tokenizer: Any = tokenizer
        prediction = "eps" if config is None else config.prediction
        self.scheduler = scheduler or usual_scheduler(prediction, "even" if of_classes else "leading")
        self.class_names = list(class_names or [])
        self.sampling = Sampling(Guidance(usual_guidance(config) if of_classes else TEXT_GUIDANCE))
        self.weaker = None if weaker is None else weaker.eval()
        self._progress_bar_options: dict[str, Any] = {}
        check_vae(vae, transformer)
        if config is not None:
            check_scheduler(self.scheduler, prediction)
        if weaker is not None:
            check_weaker(transformer, weaker)
        self.conditioning.check_parts(self)

    @property
    def takes_prompts(self) -> bool:
        """Whether it is a text-to-video model."""
        return isinstance(self.conditioning, TextConditioning)

    def class_index(self, label: int | str) -> int:
        """A class by number or name; raises ValueError, which lists the classes, if there is no such class."""
        return class_index(label, self)

    def encode_prompt(
        self, prompt: str | list[str] | None, do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = "", num_images_per_prompt: int = 1,
        device: str | torch.device | None = None, prompt_embeds: Tensor | Text | None = None,
        negative_prompt_embeds: Tensor | None = None, clean_caption: bool = True, mask_feature: bool = True,
        dtype: torch.dtype | None = None, *, text_mask: str = "single",
    ) -> Text:  # fmt: skip
        """Embed prompts, for a call's prompt_embeds; the arguments are in the order of diffusers.

        A call takes the result as prompt_embeds. If it has no masks, as with one prompt, its two embeddings may be
        passed as prompt_embeds and negative_prompt_embeds: `prompt, negative = pipe.encode_prompt("a dog")`.

        Args:
            prompt: One prompt or several, or None with prompt_embeds.
            do_classifier_free_guidance: Whether the negative prompts are embedded too.
            negative_prompt: One for all prompts, or one each.
            num_images_per_prompt: Rows for every prompt.
            device: The device of the result; None means that of the text encoder.
            prompt_embeds: Embeddings (b, l, d) from an earlier call.
            negative_prompt_embeds: The same for the negative prompts.
            clean_caption: Clean the text as the training captions were (latte.text.caption).
            mask_feature: Exclude padding from attention, as text_mask says.
            dtype: The dtype of the result; None means that of the text encoder.
            text_mask: "single", "strict" or "reference": see latte.text.embed.

        Raises:
            ValueError: Arguments that do not go together, shapes that do not fit, or no text encoder.
        """
        if not self.takes_prompts:
            purpose = self.conditioning.describe(self.transformer)
            raise ValueError(f"this pipeline is for {purpose}: it has no prompts to encode")
        if not isinstance(do_classifier_free_guidance, bool):  # such as a negative prompt by position
            given = repr(do_classifier_free_guidance)
            raise ValueError(f"do_classifier_free_guidance is {given}, not True or False: name negative_prompt")
        options = (num_images_per_prompt, clean_caption, mask_feature, text_mask)
        negative = (negative_prompt or "") if do_classifier_free_guidance else None
        text = encode_prompt(self, prompt, negative, prompt_embeds, negative_prompt_embeds, *options)
        return text.to(device, dtype)

    @torch.no_grad()
    def __call__(
        self, prompt: str | Labels | None = None, negative_prompt: str | list[str] | None = "",
        num_inference_steps: int | str | None = None, timesteps: Sequence[float] | None = None,
        guidance_scale: float | None = None, num_images_per_prompt: int = 1, video_length: int | None = None,
        height: int | None = None, width: int | None = None, eta: float | None = None,
        generator: Generators | None = None, latents: Tensor | None = None, prompt_embeds: Tensor | Text | None = None,
        negative_prompt_embeds: Tensor | None = None, output_type: str = "pil", return_dict: bool = True,
        callback_on_step_end: Callback | None = None, callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        clean_caption: bool = True, mask_feature: bool = True, enable_temporal_attentions: bool = True,
        decode_chunk_size: int | None = None, *, num_videos_per_prompt: int | None = None, seed: int | None = None,
        num_frames: int | None = None, text_mask: str = "single", class_labels: Labels | None = None,
        num_videos: int | None = None, sampler: str | None = None, batch_size: int = 1, first: int = 0,
        progress: bool = True, guidance_interval: tuple[float, float] | None = None, guidance_method: str | None = None,
        guidance_options: Mapping[str, float] | None = None, guidance_schedule: str | None = None,
        autoguidance_scale: float | None = None,
    ) -> LatteOutput | tuple:  # fmt: skip
        """Make videos from prompts or classes, or unconditionally; positional arguments are in the order of diffusers.

        Args:
            prompt: What to show: a text or several; for a class-conditional model its class_labels, by number or name.
            negative_prompt: What to guide away from, one for all prompts or one each; used if guidance_scale > 1.
            num_inference_steps, timesteps: Number of steps (or "ddim50" with "even" spacing); or decreasing timesteps.
            guidance_scale, guidance_interval, guidance_method, guidance_options, guidance_schedule, autoguidance_scale:
                latte.sampling_settings.Guidance. In text to video, as in diffusers, below 1 means none.
            num_videos_per_prompt, num_images_per_prompt: Videos of each prompt or label; two names of one setting.
            num_frames, video_length, height, width: Size in frames and pixels; None means the size of training.
            eta, sampler: DDIM's eta in [0, 1], and a name in latte.scheduler.ALL in place of the scheduler's.
            seed, generator, latents: Source of noise (see noise_source): video i has the noise of (seed, first + i).
            prompt_embeds, negative_prompt_embeds: From encode_prompt, or (b, l, caption_channels) without padding.
            output_type: "pil" lists of images, "np" (b, f, h, w, 3) or "pt" (b, f, 3, h, w) floats in [0, 1], "uint8"
                (b, f, 3, h, w) bytes, "latent" (b, c, f, h, w).
            callback_on_step_end, callback_on_step_end_tensor_inputs: Called as f(pipe, step, t, tensors); may return
                other tensors of those names, or set pipe.interrupt to stop early. An object with `tensor_inputs`, as
                diffusers' PipelineCallback has, names the tensors itself.
            clean_caption, mask_feature, text_mask, enable_temporal_attentions: See encode_prompt; False skips the
                temporal blocks of a text-to-video model.
            decode_chunk_size, batch_size: Frames that the VAE decodes at once; videos that are denoised at once, with
                the last batch padded. Both affect memory and rounding only.
            num_videos, first: Number of unconditional videos; number of the first video under a seed.

        Raises:
            ValueError: Arguments that conflict, or that this model does not support.
        """
        copies = one_setting("num_videos_per_prompt", num_images_per_prompt, num_videos_per_prompt, 1)
        request = Request(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, class_labels, num_videos,
                          copies, clean_caption, mask_feature, text_mask, enable_temporal_attentions)  # fmt: skip
        how = (guidance_interval, guidance_method, guidance_options, guidance_schedule)
        guidance = self.sampling.guidance.asked(guidance_scale, *how, autoguidance_scale, self.weaker is not None)
        self.check_call(output_type, decode_chunk_size, batch_size, first, copies)
        count = self.conditioning.check_request(self, request, guidance, set_words(*how))
        shape = self.latent_shape(num_frames, video_length, height, width)
        noise = noise_source(count, shape, generator, seed, latents, first)
        steps = Steps(num_inference_steps, timesteps, sampler, eta)
        call = sampling_call(self, steps, guidance, noise, callback_on_step_end, callback_on_step_end_tensor_inputs)
        self.guidance_scale, self.num_timesteps = guidance.strength, len(call.schedule)
        denoisers = self.conditioning.denoisers(self, request, guidance, call.plan, call.scales)
        with decode_chunk(self.vae, decode_chunk_size):
            videos = make_videos(self, denoisers, batches(count, batch_size), call, output_type, progress)
        output = LatteOutput(as_output(videos, output_type))
        return output if return_dict else output.to_tuple()

    def decode(self, latents: Tensor, output_type: str) -> Tensor:
        """Latents (b, f, c, h, w) -> videos (b, f, 3, h, w): see latte.outputs.decode_latents."""
        with self.computing(self.vae):
            return decode_latents(self.vae, latents, output_type)

    def latent_shape(
        self, num_frames: int | None, video_length: int | None, height: int | None, width: int | None
    ) -> tuple[int, int, int, int]:
        """Latents (f, c, h, w) of one video, from its size in frames and pixels; None means the size of training.

        Raises:
            ValueError: A size is not divisible by the factors of the VAE and the patches.
        """
        cfg, factor = self.transformer.config, self.vae.factor if self.vae is not None else 8
        called = "num_frames" if video_length is None else "video_length"
        frames = one_setting("num_frames", num_frames, video_length, None)
        trained_frames, side = self.conditioning.trained_size(cfg)
        height, width = (side * factor if size is None else size for size in (height, width))
        frames = trained_frames if frames is None else frames
        unit = factor * cfg.patch_size
        sizes = (("height", height, unit), ("width", width, unit), (called, frames, getattr(cfg, "tubelet", 1)))
        for name, size, multiple in sizes:
            check_size(name, size, multiple)
        return frames, cfg.in_channels, height // factor, width // factor

    def check_call(self, output_type: str, chunk: int | None, batch_size: int, first: int, copies: int) -> None:
        """Raise ValueError for numbers out of range, and for parts that are missing."""
        if self.transformer is None:
            raise ValueError("this pipeline has no transformer: it can only encode prompts (encode_prompt)")
        check_scheduler(self.scheduler, self.transformer.config.prediction)
        check_choice("output_type", output_type, OUTPUT_TYPES)
        check_count("num_videos_per_prompt", copies, MOST_VIDEOS)
        check_count("batch_size", batch_size, MOST_AT_ONCE)
        check_count("first", first, MOST_VIDEOS, 0)
        if chunk is not None:
            check_count("decode_chunk_size", chunk)
        if output_type != "latent":
            require_vae(self.vae, "this pipeline", ", or output_type='latent'")


def check_vae(vae: VideoVAE | None, transformer: Latte | LatteT2V | None) -> None:
    """Raise ValueError if the channels of the VAE do not match the model's latents, or those of a video."""
    if vae is None or transformer is None:
        return
    channels = (vae.config.latent_channels, vae.config.in_channels, vae.config.out_channels)
    if channels != (transformer.config.in_channels, 3, 3):
        latent, pixels = f"{channels[0]} latent", f"{channels[1]} and {channels[2]} pixel"
        raise ValueError(
            f"the VAE has {latent} and {pixels} channels; the model's latents have "
            f"{transformer.config.in_channels}, and a video has 3"
        )
