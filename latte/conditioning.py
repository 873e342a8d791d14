"""What a pipeline call asks a model to show, and what each kind of conditioning adds to the sampling loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from latte.guided_denoiser import GuidedDenoiser
from latte.plans.records import Plan
from latte.sampling_settings import Guidance
from latte.text.embed import Text

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
        """Raise ValueError if one of these arguments was given; `what` names the kind of model."""
        for name in names:
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if value is not default and not (isinstance(value, str) and value == default):
                raise ValueError(f"{name} does nothing for {what}: leave it out")


class Conditioning(Protocol):
    """What a model is asked to show. Each kind has its own checks, and provides the network of the sampling loop.

    Attributes:
        components: Names of the pipeline's parts.
        tensors: Names of the tensors that a callback may ask for besides latents.
    """

    components: tuple[str, ...]
    tensors: tuple[str, ...]

    def describe(self, transformer: Any) -> str:
        """What the model makes videos for, in words."""

    def check_parts(self, pipe: "LattePipeline") -> None:
        """Raise ValueError if the pipeline's parts do not fit together."""

    def trained_size(self, config: Any) -> tuple[int, int]:
        """(frames, side of the latents) that a model was trained at."""

    def check_request(
        self, pipe: "LattePipeline", request: Request, guidance: Guidance, given: Sequence[str] = ()
    ) -> int:
        """The number of videos that a call asks for; raises ValueError for arguments that do not go together.

        `given` names the settings of guidance besides its scale that the call gives.
        """

    def save(self, pipe: "LattePipeline", folder: str | Path, published: bool, variant: str | None) -> None:
        """Write the pipeline's parts as a folder, in our layout or in the published one."""

    def denoisers(
        self, pipe: "LattePipeline", request: Request, guidance: Guidance, plan: Plan,
        scales: Sequence[float] | None = None,
    ) -> Callable[[Sequence[int]], GuidedDenoiser]:  # fmt: skip
        """A function from the indices of some videos of a call to their denoiser, which follows a plan.

        `scales` are the guidance scales at each evaluation; None means the same at all.
        """

    def guides(self, pipe: "LattePipeline", guidance: Guidance) -> bool:
        """Whether a call is guided."""
