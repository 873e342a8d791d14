"""What a pipeline's call asks a model to show, and what each kind of conditioning brings to the common loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from latte.diffusion.gaussian import clean_of_noise, noise_of_clean, split_output
from latte.diffusion.guidance import guide, scale_bands
from latte.diffusion.predictions import factors_at, network_input, noise_of
from latte.fast.graph_run import GraphRun
from latte.fast.switch import is_enabled
from latte.fast.temporal_attention import pack_frames
from latte.fast.trunk import FastRun, has_fast_form
from latte.models.denoiser import Condition
from latte.plans.layer_cache import LayerCache
from latte.plans.records import Plan
from latte.plans.tracks import holding_blocks
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
        levels: Alpha bar at each evaluation.
        prediction: What the network predicts: see latte.diffusion.predictions.
        cache: What keeps the outputs that the plan reuses.
        fast: Whether the network itself asks the cache; else the readable network's layers are to be led to it.
        tensors: See above.
    """

    def __init__(
        self, network: Network, plan: Plan, scale: float, levels: Sequence[float], prediction: str = "eps",
        cache: LayerCache | None = None, fast: bool = True,
        tensors: dict[str, Tensor] | None = None,
    ):  # fmt: skip
        self.network, self.plan, self.scale, self.levels, self.prediction = network, plan, scale, levels, prediction
        self.cache, self.fast, self.tensors, self.k = cache, fast, tensors or {}, -1
        self.remembers = any(evaluation.branch == "difference" for evaluation in plan.evaluations)
        self.difference: Tensor | None = None  # conditional minus unconditional noise, when both were computed last

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (b, f, c, h, w), t (b,) -> (b, f, c or 2c, h, w)."""
        self.k += 1
        if self.cache is None:
            return self.guided(x)
        self.cache.begin(self.k)
        kept = self.cache.reused("clean", 0, len(x))
        if kept is not None:
            return with_prediction(kept, x, lambda x0: noise_of_clean(x, x0, self.levels[self.k]))
        out = self.guided(x)
        clean = lambda eps: clean_of_noise(x, eps, self.levels[self.k])
        self.cache.keep("clean", 0, lambda: with_prediction(out, x, clean))
        return out

    def guided(self, x: Tensor) -> Tensor:
        """The output of the network, guided as the present evaluation says."""
        evaluation, channels = self.plan[self.k], x.shape[2]
        a, s = factors_at(self.levels[self.k])
        out = self.network(network_input(self.prediction, x, a, s), self.k, evaluation.halves).float()
        if self.prediction != "eps":
            noisy = torch.cat([x] * evaluation.halves)
            out = with_prediction(out, x, lambda value: noise_of(self.prediction, value, noisy, a, s))
        if evaluation.branch == "both":
            if self.remembers:
                conditional, unconditional = out[:, :, :channels].chunk(2)
                self.difference = conditional - unconditional
            return guide(out, self.scale, channels)
        if evaluation.branch == "difference" and self.difference is not None:
            even = evaluation.bands == (1.0, 1.0)
            difference = self.difference if even else scale_bands(self.difference, *evaluation.bands)
            out = with_prediction(out, x, lambda eps: eps + (self.scale - 1) * difference)
        return out


def with_prediction(out: Tensor, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """An output (b, f, c or 2c, h, w) whose prediction is changed, and whose variance channels are not."""
    prediction, variance = split_output(out, x.shape[2])
    prediction = change(prediction)
    return prediction if variance is None else torch.cat([prediction, variance], dim=2)


def runs_fast(pipe: "LattePipeline", plan: Plan, temporal: bool = True) -> bool:
    """Whether a call computes its network by its fast form; raises ValueError for CUDA graphs of what has none."""
    halves = {"spatial", "temporal"} & set(plan.kinds)
    split = getattr(pipe.transformer.config, "variant", 1) == 4 and halves  # the fast form computes both halves at once
    is_fast = temporal and is_enabled() and not split and has_fast_form(pipe.transformer)
    if pipe.cuda_graphs and not is_fast:
        raise ValueError("cuda_graphs records the fast form, which this call does not take: set it to False")
    return is_fast


def fast_run(pipe: "LattePipeline", condition: Condition, plan: Plan, cache: LayerCache | None) -> FastRun | GraphRun:
    """A pipeline's network on one condition by its fast form; raises ValueError for graphs on a device without them."""
    if not pipe.cuda_graphs:
        return FastRun(pipe.transformer, condition, len(plan), cache)
    if pipe.device.type != "cuda":
        raise ValueError(f"cuda_graphs needs a model on CUDA, not on {pipe.device.type}: set it to False")
    pack_frames(pipe.transformer)
    return GraphRun(pipe.transformer, condition, plan)


def levels_of(pipe: "LattePipeline", plan: Plan) -> list[float]:
    """Alpha bar at each evaluation of a plan."""
    return pipe.scheduler.training_schedule().alpha_bar_at(plan.times(torch.device("cpu"))).tolist()


def layer_cache(pipe: "LattePipeline", plan: Plan) -> LayerCache | None:
    """What keeps the outputs that a plan reuses; None if it reuses none.

    Several processes that share a network (latte.parallel) split the batch anew where guidance begins or ends, so that
    rows that were kept before belong to other videos.
    """
    if not plan.kinds:
        return None
    shared = "trunk" in vars(pipe.transformer)
    if shared and "block" in plan.kinds:
        raise ValueError(
            "the plan reuses whole blocks, which several processes cannot do together: choose another plan"
        )
    return LayerCache(plan, holding_blocks(pipe.transformer), same_halves=shared)


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
