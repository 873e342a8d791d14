"""What a pipeline call asks a model to show, and what each kind of conditioning adds to the sampling loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from latte.diffusion.guidance import scale_bands
from latte.diffusion.guidance_methods import METHODS, GuidanceRule
from latte.diffusion.predictions import clean_of, factors_at, network_input, noise_of, split_output
from latte.fast.fast_run import FastRun
from latte.fast.graph_run import GraphRun
from latte.fast.switch import is_enabled
from latte.fast.temporal_attention import pack_frames
from latte.fast.trunk import has_fast_form
from latte.models.denoiser import Condition, seen_channels
from latte.parallel.sequence import sharing_of
from latte.parallel.shared_run import SharedRun
from latte.plans.layer_cache import LayerCache
from latte.plans.records import Plan
from latte.plans.tracks import holding_blocks
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


Network = Callable[[Tensor, int, int], Tensor]
FastNetwork = FastRun | GraphRun | SharedRun


class GuidedDenoiser:
    """A guided network for some videos: denoiser(x, t) -> noise and, where it is learned, variance channels.

    It is called once for each evaluation of its plan, in order.

    Attributes:
        tensors: The conditions, by the names that a callback may ask for; a callback may replace them.

    Args:
        network: (x (b, f, c, h, w), k, halves) -> its output at evaluation k (halves * b, f, c or 2c, h, w). The first
            half is for the videos' conditions; the second one, if there are 2, for the null condition.
        plan: What each evaluation computes.
        rule: How each evaluation is guided, and its alpha bar.
        prediction: What the network predicts: see latte.diffusion.predictions.
        cache: The cache of the outputs that the plan reuses.
        fast: Whether the network itself uses the cache; otherwise the layers of the readable network must be made to
            use it.
        tensors: See above.
        self_condition: Whether the network sees its last estimate of the clean latents: network is then given
            (b, f, 2c, h, w).
    """

    def __init__(
        self, network: Network, plan: Plan, rule: GuidanceRule, prediction: str = "eps",
        cache: LayerCache | None = None, fast: bool = True, tensors: dict[str, Tensor] | None = None,
        self_condition: bool = False,
    ):  # fmt: skip
        self.network, self.plan, self.rule, self.levels, self.prediction = network, plan, rule, rule.levels, prediction
        self.cache, self.fast, self.tensors, self.k = cache, fast, tensors or {}, -1
        self.self_condition = self_condition
        self.estimate: Tensor | None = None  # of the clean latents, by the last evaluation without guidance
        self.remembers = any(evaluation.branch == "difference" for evaluation in plan.evaluations)
        self.difference: Tensor | None = None  # conditional minus unconditional noise, when both were computed last

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (b, f, c, h, w), t (b,) -> (b, f, c or 2c, h, w)."""
        self.k += 1
        if self.cache is None:
            return self.guided(x)
        self.cache.begin(self.k)
        (a, s), kept = factors_at(self.levels[self.k]), self.cache.reused("clean", 0, len(x))
        if kept is not None:
            return with_prediction(kept, x, lambda x0: noise_of("x0", x0, x, a, s))
        out = self.guided(x)
        clean = lambda eps: clean_of("eps", eps, x, a, s)
        self.cache.keep("clean", 0, lambda: with_prediction(out, x, clean))
        return out

    def guided(self, x: Tensor) -> Tensor:
        """The output of the network, guided as the current evaluation says."""
        evaluation, channels = self.plan[self.k], x.shape[2]
        a, s = factors_at(self.levels[self.k])
        given = network_input(self.prediction, x, a, s)
        if self.self_condition:
            given = torch.cat([given, torch.zeros_like(x) if self.estimate is None else self.estimate], 2)
        out = self.network(given, self.k, evaluation.halves).float()
        if self.prediction != "eps":
            noisy = torch.cat([x] * evaluation.halves)
            out = with_prediction(out, x, lambda value: noise_of(self.prediction, value, noisy, a, s))
        if self.self_condition:
            self.estimate = clean_of("eps", out[: len(x), :, :channels].to(x), x, a, s)
        both = evaluation.branch == "both"
        if both and self.remembers:
            conditional, negative = out[:, :, :channels].chunk(2)
            self.difference = conditional - negative
        still = None if evaluation.branch == "conditional" else self.rule.still(self.k, x)
        if still is not None:
            return with_prediction(out[: len(x)], x, lambda eps: still)
        if both:
            negative = out[len(x) :, :, :channels]
            return with_prediction(out[: len(x)], x, lambda eps: self.rule(self.k, x, eps, negative))
        if evaluation.branch == "difference" and self.difference is not None:
            even = evaluation.bands == (1.0, 1.0)
            difference = self.difference if even else scale_bands(self.difference, *evaluation.bands)
            return with_prediction(out, x, lambda eps: self.rule.along(self.k, x, eps, difference))
        return out


def guided_denoiser(
    pipe: "LattePipeline", network_of: Callable[[Any, Plan, LayerCache | None], tuple[Network, bool]],
    guidance: Guidance, plan: Plan, scales: Sequence[float] | None = None, tensors: dict[str, Tensor] | None = None,
) -> GuidedDenoiser:  # fmt: skip
    """The pipeline's network for some videos, guided as a call asks, away from the weaker network if there is one.

    Args:
        pipe: The pipeline.
        network_of: (network, plan, cache) -> the network at the evaluations of the plan, under the videos' conditions,
            and whether it is the fast form.
        guidance: How the call is guided.
        plan: What each evaluation computes.
        scales: The guidance scale at each evaluation; None: the same at all.
        tensors: See GuidedDenoiser.
    """
    cache, config = layer_cache(pipe, plan), pipe.transformer.config
    run, is_fast = network_of(pipe.transformer, plan, cache)
    if pipe.weaker is not None:
        away, _ = network_of(pipe.weaker, without_reuse(plan), None)
        run = with_weaker(run, away, seen_channels(pipe.weaker.config))
    rule = guidance_rule(pipe, guidance, plan, scales)
    return GuidedDenoiser(run, plan, rule, config.prediction, cache, is_fast, tensors, config.self_condition)


def with_prediction(out: Tensor, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the prediction of an output (b, f, c or 2c, h, w), but not its variance channels."""
    prediction, variance = split_output(out, x.shape[2])
    prediction = change(prediction)
    return prediction if variance is None else torch.cat([prediction, variance], dim=2)


def with_weaker(network: Network, weaker: Network, channels: int) -> Network:
    """A network for autoguidance: its second half is a weaker network's, for the same conditions.

    Args:
        network: See GuidedDenoiser.
        weaker: Likewise, for one half.
        channels: The channels of x that the weaker network sees.
    """

    def run(x: Tensor, k: int, halves: int) -> Tensor:
        out = network(x, k, 1)
        return out if halves == 1 else torch.cat([out, weaker(x[:, :, :channels], k, 1).to(out)])

    return run


def without_reuse(plan: Plan) -> Plan:
    """The plan of a weaker network, which computes everything whenever it is called."""
    return replace(plan, evaluations=tuple(replace(each, reuse={}) for each in plan.evaluations))


def guidance_rule(
    pipe: "LattePipeline", guidance: Guidance, plan: Plan, scales: Sequence[float] | None = None
) -> GuidanceRule:
    """How the evaluations of a batch are guided; `scales` are the scales of each, None the same for all."""
    scales = [guidance.strength] * len(plan) if scales is None else scales
    return METHODS[guidance.method](scales, levels_of(pipe, plan), pipe.scheduler.flow, **guidance.options)


def runs_fast(pipe: "LattePipeline", network: Any, plan: Plan, temporal: bool = True) -> bool:
    """Whether a call computes a network by its fast form; raises ValueError for CUDA graphs without one."""
    halves = {"spatial", "temporal"} & set(plan.kinds)
    split = getattr(network.config, "variant", 1) == 4 and halves  # the fast form computes both halves at once
    sharing = sharing_of(network)
    if pipe.cuda_graphs and sharing is not None:
        raise ValueError("cuda_graphs is for one process, and several share this call: set it to False")
    known = None if sharing is None else sharing.attached
    is_fast = temporal and is_enabled() and not split and has_fast_form(network, known)
    if pipe.cuda_graphs and not is_fast:
        raise ValueError("cuda_graphs records the fast form, which this call does not take: set it to False")
    return is_fast


def fast_run(
    pipe: "LattePipeline", network: Any, condition: Condition, plan: Plan, cache: LayerCache | None
) -> FastNetwork:
    """The fast form of a network for one condition; raises ValueError for graphs on a device without them."""
    if (sharing := sharing_of(network)) is not None:
        return SharedRun(sharing, condition, len(plan), cache)
    if not pipe.cuda_graphs:
        return FastRun(network, condition, len(plan), cache)
    if pipe.device.type != "cuda":
        raise ValueError(f"cuda_graphs needs a model on CUDA, not on {pipe.device.type}: set it to False")
    pack_frames(network)
    return GraphRun(network, condition, plan)


def levels_of(pipe: "LattePipeline", plan: Plan) -> list[float]:
    """Alpha bar at each evaluation of a plan."""
    return pipe.scheduler.training_schedule().alpha_bar_at(plan.times(torch.device("cpu"))).tolist()


def layer_cache(pipe: "LattePipeline", plan: Plan) -> LayerCache | None:
    """The cache of the outputs that a plan reuses; None if it reuses none.

    Several processes that share a network (latte.parallel) split the batch anew where guidance begins or ends, so that
    rows cached before belong to other videos.
    """
    if not plan.kinds:
        return None
    shared = sharing_of(pipe.transformer) is not None
    if shared and "block" in plan.kinds:
        raise ValueError(
            "the plan reuses whole blocks, which several processes cannot do together: choose another plan"
        )
    if shared and plan.tested:
        raise ValueError("the plan tests the data, of which each process would see another part: choose another plan")
    return LayerCache(plan, holding_blocks(pipe.transformer), same_halves=shared)


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
