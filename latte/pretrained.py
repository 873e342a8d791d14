"""Reading a pipeline from a folder, a file or the Hugging Face hub, and writing it to them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import nn

from latte.arguments import one_setting
from latte.class_conditioning import read_class_parts
from latte.conditioning import Conditioning
from latte.files import write_text
from latte.models.t5 import T5Encoder
from latte.models.vae import VideoVAE
from latte.plans.plan_file import copy_plans
from latte.sampling_settings import Sampling
from latte.scheduler import Scheduler
from latte.text.tokenizer import Tokenizer
from latte.text_conditioning import TextConditioning, read_text_parts
from latte.weights.find_models import WEAKER, find_model, is_text_pipeline, model_root
from latte.weights.hub import find_file, find_pipeline, upload
from latte.weights.model_card import CARD, ModelCard, card_on_hub, card_text

NOT_GIVEN: Any = object()  # a part that from_pretrained is to read


class PretrainedMixin:
    """Loading and saving a pipeline, with the method names of diffusers."""

    conditioning: Conditioning
    transformer: Any
    sampling: Sampling
    plan_folder: Path | None
    offload_text_encoder: str | None
    name_or_path: str | None
    weaker: Any

    @classmethod
    def from_pretrained(
        cls, path: str | Path, torch_dtype: torch.dtype | None = None, *, dtype: torch.dtype | None = None,
        transformer: nn.Module | None = NOT_GIVEN, vae: VideoVAE | str | Path | None = NOT_GIVEN,
        text_encoder: T5Encoder | None = NOT_GIVEN, tokenizer: Tokenizer | None = NOT_GIVEN,
        scheduler: Scheduler | None = NOT_GIVEN, memory: str = "normal", weights: str = "ema",
        num_heads: int | None = None, variant: str | None = None, local_files_only: bool = True,
        weaker: nn.Module | None = NOT_GIVEN,
    ) -> Self:  # fmt: skip
        """Read a model and the parts that its folder holds.

        Args:
            path: Anything that latte.load_model takes, a text-to-video folder (published or ours), a training run, the
                name of a bundled model, or a name on the Hugging Face hub.
            torch_dtype, dtype: The dtype of the loaded weights, float32 by default; two names for one setting.
            transformer: A part that is passed in is used as it is, neither read nor converted. The same holds for
                text_encoder, tokenizer and scheduler. None leaves a part out (or takes the default scheduler).
            vae: The same; or another VAE folder, or the name of one in this folder, such as "vae_temporal_decoder".
            memory: "low" keeps the text encoder in 8 bits, and on the CPU between encodings, and lets the VAE work on
                one frame at a time. For text-to-video models.
            weights: "ema" or "model", if a checkpoint holds both. For class-conditional models.
            num_heads: Attention heads of an original file of an unpublished width. For class-conditional models.
            variant: A word in the names of the weight files, such as "fp16". None takes the plain files or, if there
                are none, the only variant present, provided that it differs in precision only.
            local_files_only: Look up a name on the hub in the local cache only. False downloads missing files with the
                package huggingface_hub.
            weaker: Like transformer. None leaves the folder's weaker model out, and guidance is classifier-free.

        Raises:
            CheckpointError: A part is missing, damaged or does not fit, or cannot be downloaded.
            ValueError: An option does nothing for this kind of model, or a class-conditional model is left out.
        """
        name, path = path, find_pipeline(path, local_files_only, variant)
        given: dict[str, Any] = dict(transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
        given |= {"scheduler": scheduler, "weaker": weaker}
        given = {name: part for name, part in given.items() if part is not NOT_GIVEN}
        of_text = is_text_pipeline(path)
        unused = {"weights": weights != "ema", "num_heads": num_heads is not None} if of_text else {
            "memory": memory != "normal",
            "text_encoder": "text_encoder" in given, "tokenizer": "tokenizer" in given
        }  # fmt: skip
        check_used(unused, path, of_text)
        dtype = one_setting("torch_dtype", torch_dtype, dtype, None) or torch.float32
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype is {dtype!r}; it must be one of torch's, such as torch.float16")
        if of_text:
            parts = read_text_parts(path, given, dtype, memory, variant, local_files_only)
        else:
            parts = read_class_parts(path, given, dtype, weights, num_heads, variant, local_files_only)
        sampling = parts.pop("sampling")
        pipe = cls(**parts)
        pipe.sampling, pipe.plan_folder = sampling, model_root(path if of_text else find_model(path))
        pipe.name_or_path = str(name)
        if memory == "low":
            pipe.offload_text_encoder = "cpu"
        return pipe

    @classmethod
    def from_single_file(cls, path: str | Path, local_files_only: bool = True, **options: Any) -> Self:
        """Read a class-conditional model from one file, such as the original's ffs.pt.

        Such a file has no VAE: pass one in as `vae`, or take latents.

        Args:
            path: The file, or its address or name on the Hugging Face hub: "https://huggingface.co/OWNER/NAME/blob/
                main/FILE" or "OWNER/NAME/FILE".
            local_files_only: Look up a file on the hub in the local cache only. False downloads it.
            options: As from_pretrained takes.

        Raises:
            CheckpointError: There is no such file, or it does not hold such a model.
        """
        return cls.from_pretrained(find_file(path, local_files_only), local_files_only=local_files_only, **options)

    def save_pretrained(self, folder: str | Path, published: bool = False, variant: str | None = None) -> None:
        """Write the pipeline, with the plans of the folder that it came from, as a folder that from_pretrained reads.

        Args:
            folder: Where to write. A folder written by an earlier call is replaced.
            published: Use the published layout, which diffusers reads too (text to video only), in place of ours.
            variant: A word for the names of the weight files, such as "fp16" in model.fp16.safetensors; the dtype
                of the weights is the pipeline's.

        Raises:
            CheckpointError: The folder holds something that would be lost. Nothing was changed.
            ValueError: The model has no published form, or `variant` is not a word.
        """
        self.conditioning.save(self, folder, published, variant)  # type: ignore[arg-type]
        if self.plan_folder is not None:
            copy_plans(self.plan_folder, Path(folder))

    def push_to_hub(
        self, repo_id: str, commit_message: str | None = None, private: bool | None = None, token: str | None = None,
        create_pr: bool = False, published: bool = False, variant: str | None = None,
    ) -> str:  # fmt: skip
        """Upload the pipeline and its model card to the Hugging Face hub, with the package huggingface_hub.

        The card is taken from the folder that the pipeline came from; if it has none, a short card is written.

        Args:
            repo_id: "OWNER/NAME"; it is created if it does not exist.
            commit_message: The message of the commit, by default "Upload LattePipeline".
            private: Whether a newly created repository is private. None takes the owner's default.
            token: The account's token. None takes the one of `hf auth login`.
            create_pr: Propose the change as a pull request.
            published, variant: See save_pretrained.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: The package is not installed, or the upload failed.
        """
        with TemporaryDirectory() as draft:
            folder = Path(draft, "model")
            self.save_pretrained(folder, published, variant)
            own = None if self.plan_folder is None else self.plan_folder / CARD
            text = own.read_text() if own is not None and own.is_file() else card_text(self.card())
            write_text(folder / CARD, card_on_hub(text, repo_id))
            message = commit_message or f"Upload {type(self).__name__}"
            return upload(folder, repo_id, message, private, token, create_pr)

    def card(self) -> ModelCard:
        """A short model card, for a pipeline that comes without one."""
        of_text = isinstance(self.conditioning, TextConditioning)
        summary = f"A Latte (arXiv 2401.03048) for {self.conditioning.describe(self.transformer)}."
        if self.weaker is not None:
            summary += f" {WEAKER}/ holds the weaker model that it is guided away from (arXiv 2406.02507)."
        use = 'latte sample . --prompt "a red star moving left"' if of_text else "latte sample ."
        return ModelCard(summary, [use], task="text-to-video" if of_text else "")


def check_used(unused: dict[str, bool], path: Path, of_text: bool) -> None:
    """Raise ValueError if an option is given that does nothing for this kind of model."""
    if idle := [name for name, is_given in unused.items() if is_given]:
        kind = "a text-to-video model" if of_text else "a model without prompts"
        raise ValueError(f"{idle[0]} does nothing for {path}, {kind}: leave it out")
