"""What a pipeline's call asks a model to show, and what each kind of conditioning brings to the common loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from latte.diffusion.gaussian import noise_of_v, split_output
from latte.diffusion.guidance import guide
from latte.fast.graph_run import GraphRun
from latte.fast.switch import is_enabled
from latte.fast.temporal_attention import pack_frames
from latte.fast.trunk import FastRun, has_fast_form
from latte.models.denoiser import Condition
from latte.plans.plan import Plan
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


Network = Callable[[Tensor, int, int], Tensor]


class GuidedDenoiser:
    """A guided network for some videos: denoiser(x, t) -> noise and, where it is learned, variance channels.

    It is called once for each evaluation of its plan, in order.

    Attributes:
        tensors: What it is conditioned on, by the names that a callback may ask for; a callback may replace them.

    Args:
        network: (x (b, f, c, h, w), k, halves) -> its output at evaluation k (halves * b, f, c or 2c, h, w). The first
            half is for the videos' conditions; the second one, if there are 2, for what stands for no condition.
        plan: What each evaluation computes.
        scale: Of guidance.
        levels: For a network that predicts v, alpha bar at each evaluation; None, it predicts noise.
        tensors: See above.
    """

    def __init__(
        self, network: Network, plan: Plan, scale: float, levels: Sequence[float] | None = None,
        tensors: dict[str, Tensor] | None = None,
    ):  # fmt: skip
        self.network, self.plan, self.scale, self.levels, self.tensors = network, plan, scale, levels, tensors or {}
        self.k = -1

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (b, f, c, h, w), t (b,) -> (b, f, c or 2c, h, w)."""
        self.k += 1
        both = self.plan[self.k].branch == "both"
        out = self.network(x, self.k, 2 if both else 1).float()
        if self.levels is not None:
            v, variance = split_output(out, x.shape[2])
            eps = noise_of_v(torch.cat([x, x]) if both else x, v, self.levels[self.k])
            out = eps if variance is None else torch.cat([eps, variance], dim=2)
        return guide(out, self.scale, x.shape[2]) if both else out


def runs_fast(pipe: "LattePipeline") -> bool:
    """Whether a call computes its network by its fast form, which knows the layers that are kept by a plan."""
    split = pipe._broadcast is not None and getattr(pipe.transformer.config, "variant", 1) == 4  # halves share one gate
    return is_enabled() and not split and has_fast_form(pipe.transformer)


def fast_run(pipe: "LattePipeline", condition: Condition, plan: Plan) -> FastRun | GraphRun:
    """A pipeline's network on one condition by its fast form; raises ValueError for graphs on a device without them."""
    if not pipe.cuda_graphs:
        return FastRun(pipe.transformer, condition, len(plan), pipe.layer_cache(plan))
    if pipe.device.type != "cuda":
        raise ValueError(f"cuda_graphs needs a model on CUDA, not on {pipe.device.type}: set it to False")
    pack_frames(pipe.transformer)
    return GraphRun(pipe.transformer, condition, plan, bool(pipe._broadcast and pipe._broadcast[1]))


def alpha_bars(pipe: "LattePipeline", plan: Plan) -> list[float] | None:
    """Alpha bar at each evaluation of a plan, for a network that predicts v; None for one that predicts noise."""
    if pipe.transformer.config.prediction != "v":
        return None
    return pipe.scheduler.training_schedule().alpha_bar_at(plan.times(torch.device("cpu"))).tolist()


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
        self, pipe: "LattePipeline", request: Request, guidance: Guidance, plan: Plan
    ) -> Callable[[Sequence[int]], GuidedDenoiser]:
        """A function from the numbers of some of a call's videos to their denoiser, which follows a plan."""

    def guides(self, pipe: "LattePipeline", guidance: Guidance) -> bool:
        """Whether a call's network has an unconditional half."""
