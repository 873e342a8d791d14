"""Autoguidance of a pipeline: a weaker model of the same kind replaces the unconditional half of guidance."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte.sampling_settings import Guidance, Sampling
from latte.weights.find_models import is_text_pipeline
from latte.weights.hub import find_pipeline
from latte.weights.load import load_model
from latte.weights.published import readers

ALIKE = (  # settings of a network that both must share
    *("in_channels", "out_channels", "prediction", "num_classes", "caption_channels"),
    *("num_frames", "video_length", "input_size", "sample_size"),
)


class AutoguidanceMixin:
    """A pipeline's weaker model (Karras et al. 2024, arXiv 2406.02507).

    A model's folder may hold one, in its subfolder weaker/, and its sampling.json the scale, autoguidance_scale.

    Attributes:
        weaker: Its network, or None for classifier-free guidance.
    """

    weaker: Any = None
    transformer: Any
    sampling: Sampling

    def enable_autoguidance(
        self, model: str | Path | nn.Module, weights: str = "ema", scale: float | None = None
    ) -> None:
        """Guide away from a weaker model, under the same class or prompt, from the next call on.

        The weaker model is a smaller network, one with less training, such as an early checkpoint, or one with a
        shorter average of the weights. Guidance then needs no unconditional predictions: an unconditional model can be
        guided, too. save_pretrained writes the weaker model and the scale with the others.

        Args:
            model: A network, or anything that from_pretrained takes, of which only the network is read.
            weights: "ema" or "model", if a checkpoint of a class-conditional model holds both.
            scale: The autoguidance_scale of calls that give none. None takes the one from the model's folder, or else
                their guidance_scale.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
            ValueError: The model is of another kind, or the scale is not a number.
        """
        if self.transformer is None:
            raise ValueError("this pipeline has no transformer, and so nothing to guide")
        if not isinstance(model, nn.Module):
            path = find_pipeline(model)
            model = readers(path)["transformer"]() if is_text_pipeline(path) else load_model(path, weights=weights)
        check_weaker(self.transformer, model)
        if scale is not None:
            guidance = replace(self.sampling.guidance, autoguidance_scale=scale)
            self.sampling = replace(self.sampling, guidance=guidance)
        own = next(self.transformer.parameters())
        self.weaker = model.to(own.device, own.dtype).eval()

    def disable_autoguidance(self) -> None:
        """Guide by classifier-free guidance again."""
        self.weaker = None

    def asked_guidance(self, words: Mapping[str, Any]) -> Guidance:
        """The guidance of a call, given its arguments by name; unrelated ones are ignored."""
        return self.sampling.guidance.asked_in(words, away=self.weaker is not None)

    @property
    def saved_sampling(self) -> Sampling:
        """The defaults of calls, as they are saved: without a weaker model, there is no autoguidance_scale."""
        if self.weaker is not None:
            return self.sampling
        return replace(self.sampling, guidance=replace(self.sampling.guidance, autoguidance_scale=None))

    def weaker_record(self) -> dict[str, Any] | None:
        """The weaker model's configuration and the sha256 of its weights; None without one."""
        if self.weaker is None:
            return None
        total = sha256()
        for name, tensor in sorted(self.weaker.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return {**asdict(self.weaker.config), "sha256": total.hexdigest()}


def check_weaker(network: nn.Module | None, weaker: nn.Module) -> None:
    """Raise ValueError if a weaker model does not make the same latents, from the same conditions, as a network."""
    if type(weaker) is not type(network):
        kinds = " and ".join(type(each).__name__ for each in (network, weaker))
        raise ValueError(f"autoguidance needs two models of one kind; these are {kinds}")
    ours, theirs = (each.config for each in (network, weaker))
    for name in (name for name in ALIKE if getattr(ours, name, None) != getattr(theirs, name, None)):
        values = f"{getattr(ours, name)} and {getattr(theirs, name)}"
        raise ValueError(f"autoguidance needs two models with the same {name}; these have {values}")
