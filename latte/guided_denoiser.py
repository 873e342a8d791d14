"""A guided network in the sampling loop: what each evaluation of a plan computes, and how its halves are combined."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latte.diffusion.guidance import scale_bands
from latte.diffusion.guidance_methods import METHODS, GuidanceRule
from latte.diffusion.guidance_options import OPTIONS
from latte.diffusion.predictions import clean_of, factors_at, network_input, noise_of, split_output
from latte.models.denoiser import seen_channels
from latte.network_forms import layer_cache
from latte.plans.layer_cache import LayerCache
from latte.plans.records import Plan
from latte.sampling_settings import Guidance

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline

Network = Callable[[Tensor, int, int], Tensor]


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
        self.network, self.plan, self.prediction = network, plan, prediction
        self.rule, self.alpha_bars = rule, rule.alpha_bars
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
        (a, s), kept = factors_at(self.alpha_bars[self.k]), self.cache.reused("clean", 0, len(x))
        if kept is not None:
            return with_prediction(kept, x, lambda x0: noise_of("x0", x0, x, a, s))
        out = self.guided(x)
        clean = lambda eps: clean_of("eps", eps, x, a, s)
        self.cache.keep("clean", 0, lambda: with_prediction(out, x, clean))
        return out

    def guided(self, x: Tensor) -> Tensor:
        """The output of the network, guided as the current evaluation says."""
        out, branch = self.evaluated(x), self.plan[self.k].branch
        conditional, channels = out[: len(x)], x.shape[2]
        both, negative = branch == "both", out[len(x) :, :, :channels]
        if both and self.remembers:
            self.difference = conditional[:, :, :channels] - negative
        replaced = None if branch == "conditional" else self.rule.replacement(self.k, x)
        if replaced is not None:
            return with_prediction(conditional, x, lambda eps: replaced)
        if both:
            return with_prediction(conditional, x, lambda eps: self.rule(self.k, x, eps, negative))
        if branch == "difference" and self.difference is not None:
            bands = self.plan[self.k].bands
            difference = self.difference if bands == (1.0, 1.0) else scale_bands(self.difference, *bands)
            return with_prediction(conditional, x, lambda eps: self.rule.along(self.k, x, eps, difference))
        return conditional

    def evaluated(self, x: Tensor) -> Tensor:
        """The network's output in a state, as noise: of the conditional half, then of the negative one if it runs."""
        (a, s), halves = factors_at(self.alpha_bars[self.k]), self.plan[self.k].halves
        estimate = self.estimate
        if self.self_condition and estimate is None:
            estimate = torch.zeros_like(x)
        given = network_input(self.prediction, x, a, s, estimate)
        out = self.network(given, self.k, halves).float()
        if self.prediction != "eps":
            noisy = torch.cat([x] * halves)
            out = with_prediction(out, x, lambda value: noise_of(self.prediction, value, noisy, a, s))
        if self.self_condition:
            self.estimate = clean_of("eps", out[: len(x), :, : x.shape[2]].to(x), x, a, s)
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
    options = {**OPTIONS[guidance.method], **guidance.options}
    return METHODS[guidance.method](scales, alpha_bars_of(pipe, plan), pipe.scheduler.flow, **options)


def alpha_bars_of(pipe: "LattePipeline", plan: Plan) -> list[float]:
    """Alpha bar at each evaluation of a plan."""
    return pipe.scheduler.training_schedule().alpha_bar_at(plan.times(torch.device("cpu"))).tolist()
