"""What a pipeline's call asks a model to show, and what each kind of conditioning brings to the common loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from latte.text.embed import Text
from latte.weights.sampling_defaults import Guidance

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline


@dataclass(frozen=True)
class Request:
    """The arguments of a call that the conditioning interprets; LattePipeline.__call__ explains them."""

    prompt: Sequence[int | str] | int | str | None = None
    negative_prompt: str | list[str] | None = None
    prompt_embeds: Tensor | Text | None = None
    negative_prompt_embeds: Tensor | None = None
    class_labels: Sequence[int | str] | int | str | None = None
    num_videos: int | None = None
    copies: int = 1
    clean_caption: bool = True
    mask_feature: bool = True
    text_mask: str = "single"
    enable_temporal_attentions: bool = True

    def check_unused(self, names: Iterable[str], what: str) -> None:
        """Raise ValueError if one of these words was given, for a model that is `what`."""
        for name in names:
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if value is not default and not (isinstance(value, str) and value == default):
                raise ValueError(f"{name} does nothing for {what}: leave it out")


class GuidedDenoiser:
    """A guided network for some videos: denoiser(x, t) -> noise and, where it is learned, variance channels.

    Attributes:
        tensors: What it is conditioned on, by the names that a callback may ask for; a callback may replace them.
    """

    def __init__(self, evaluate: Callable[[Tensor, Tensor], Tensor], tensors: dict[str, Tensor] | None = None):
        self.evaluate, self.tensors = evaluate, tensors or {}

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (b, f, c, h, w), t (b,) -> (b, f, c or 2c, h, w)."""
        return self.evaluate(x, t)


class Conditioning(Protocol):
    """What a model is asked to show. Each kind brings its checks and the network that the common loop denoises with.

    Attributes:
        describes: The kind of model, in messages.
        components: Names of the pipeline's parts.
        tensors: What a callback may ask for besides latents.
    """

    describes: str
    components: tuple[str, ...]
    tensors: tuple[str, ...]

    def check_parts(self, pipe: "LattePipeline") -> None:
        """Raise ValueError if the pipeline's parts do not fit together."""

    def trained_size(self, config: Any) -> tuple[int, int]:
        """(frames, side of the latents) that a model was trained at."""

    def check_request(self, pipe: "LattePipeline", request: Request, guidance: Guidance, interval: bool) -> int:
        """The number of videos that a call asks for; raises ValueError for words that do not go together.

        interval: whether the call names a guidance_interval.
        """

    def save(self, pipe: "LattePipeline", folder: str | Path, published: bool) -> None:
        """Write the pipeline's parts as a folder, in our layout or in the published one."""

    def denoisers(
        self, pipe: "LattePipeline", request: Request, guidance: Guidance
    ) -> Callable[[Sequence[int]], GuidedDenoiser]:
        """A function from the numbers of some of a call's videos to their denoiser."""
