"""Autoguidance of a pipeline: a weaker model of its own kind takes the place of the unconditional half of guidance."""

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte.weights.hub import find_pipeline
from latte.weights.load import is_text_pipeline, load_model
from latte.weights.published import readers

ALIKE = (  # settings of a network that both must share
    *("in_channels", "out_channels", "prediction", "num_classes", "caption_channels"),
    *("num_frames", "video_length", "input_size", "sample_size"),
)


class AutoguidanceMixin:
    """A pipeline's weaker model (Karras et al. 2024, arXiv 2406.02507).

    Attributes:
        weaker: Its network, or None: guidance is classifier-free.
    """

    weaker: Any = None
    transformer: Any

    def enable_autoguidance(self, model: str | Path | nn.Module, weights: str = "ema") -> None:
        """Guide away from a weaker model, under the same class or prompt, from the next call on.

        The weaker model is a smaller network, one that was trained less, such as an early checkpoint, or a shorter
        average of weights. Guidance then needs no unconditional predictions: an unconditional model can be guided, too.

        Args:
            model: A network, or anything that from_pretrained takes, of which only the network is read.
            weights: "ema" or "model", if a checkpoint of a class-conditional model holds both.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
            ValueError: The model is of another kind.
        """
        if self.transformer is None:
            raise ValueError("this pipeline has no transformer, and so nothing to guide")
        if not isinstance(model, nn.Module):
            path = find_pipeline(model)
            model = readers(path)["transformer"]() if is_text_pipeline(path) else load_model(path, weights=weights)
        ours, theirs = self.transformer.config, model.config
        if type(model) is not type(self.transformer):
            kinds = " and ".join(type(each).__name__ for each in (self.transformer, model))
            raise ValueError(f"autoguidance needs two models of one kind; these are {kinds}")
        for name in (name for name in ALIKE if getattr(ours, name, None) != getattr(theirs, name, None)):
            values = f"{getattr(ours, name)} and {getattr(theirs, name)}"
            raise ValueError(f"autoguidance needs two models of one {name}; these have {values}")
        own = next(self.transformer.parameters())
        self.weaker = model.to(own.device, own.dtype).eval()

    def disable_autoguidance(self) -> None:
        """Guide by classifier-free guidance again."""
        self.weaker = None

    def weaker_record(self) -> dict[str, Any] | None:
        """The weaker model's configuration and the sha256 of its weights; None without one."""
        if self.weaker is None:
            return None
        total = sha256()
        for name, tensor in sorted(self.weaker.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return {**asdict(self.weaker.config), "sha256": total.hexdigest()}
