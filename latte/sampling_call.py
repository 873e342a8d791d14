"""What a pipeline call samples: its steps, its sampler, its plan and the guidance scale of each evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latte.arguments import check_choice, check_eta
from latte.diffusion.guidance_methods import cfg_plus_plus_scale
from latte.diffusion.guidance_options import scheduled_scale
from latte.diffusion.randomness import Noise, noise_source
from latte.diffusion.schedule import Schedule
from latte.plans.records import NEVER, Plan, exact_plan
from latte.sampling_settings import Guidance, check_interval
from latte.scheduler import ALL, Scheduler

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline

Callback = Callable[["LattePipeline", int, float, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass(frozen=True)
class Steps:
    """The denoising steps that a call asks for; None takes the default of the model.

    Attributes:
        count: How many, or respaced ones such as "ddim50": the call's num_inference_steps.
        timesteps: Decreasing timesteps, in place of a number.
        sampler: A name in latte.scheduler.ALL.
        eta: The eta of DDIM, in [0, 1].
    """

    count: int | str | None = None
    timesteps: Sequence[float] | None = None
    sampler: str | None = None
    eta: float | None = None


@dataclass(frozen=True)
class SamplingCall:
    """How one call samples, apart from its classes or prompts.

    Attributes:
        plan: What each evaluation of the network computes.
        scales: The guidance scale at each evaluation.
        scheduler: The sampler.
        schedule: The noise levels that the sampler visits.
        noise: The source of noise: see latte.diffusion.randomness.noise_source.
        eta: The eta of DDIM.
        callback: The call's callback_on_step_end.
        tensors: Names of the tensors passed to the callback.
    """

    plan: Plan
    scales: list[float]
    scheduler: Scheduler
    schedule: Schedule
    noise: Noise
    eta: float
    callback: Callback | None
    tensors: Sequence[str]


def sampling_call(
    pipe: "LattePipeline", steps: Steps, guidance: Guidance, noise: Noise, callback: Callback | None = None,
    tensors: Sequence[str] = (),
) -> SamplingCall:  # fmt: skip
    """Build a SamplingCall from a call's arguments and the model folder's defaults; invalid ones raise ValueError."""
    defaults, tensors = pipe.sampling, getattr(callback, "tensor_inputs", tensors)
    for name in tensors:
        check_choice("callback_on_step_end_tensor_inputs", name, ("latents", *pipe.conditioning.tensors))
    if steps.sampler is not None:
        check_choice("sampler", steps.sampler, ALL)
    scheduler = Scheduler.from_config(pipe.scheduler.config, steps.sampler)
    eta = defaults.eta_of(scheduler.sampler, steps.eta)
    check_eta(eta, scheduler.sampler)
    count = defaults.num_inference_steps if steps.count is None else steps.count
    schedule = scheduler.schedule(count, steps.timesteps)
    if guidance.interval not in (None, defaults.guidance.interval):  # the default may hold none of the timesteps
        check_interval(guidance.interval, schedule.timesteps.tolist())
    no_noise = lambda step: torch.zeros(1, 1, 1, 1, 1)
    visited = evaluated_timesteps(lambda denoise, x: scheduler.run(denoise, x, schedule, no_noise, eta))
    guides = pipe.conditioning.guides(pipe, guidance)
    if pipe.weaker is not None and not guides:
        advice = "set autoguidance_scale above 1, or leave the weaker model out (weaker=None, --autoguidance none)"
        raise ValueError(f"autoguidance does nothing with {guidance.said}: {advice}")
    plan = exact_plan(visited, guidance.interval if guides else NEVER)
    scales = guidance_scales(guidance, plan, scheduler, schedule, eta)
    return SamplingCall(pipe.planned(plan), scales, scheduler, schedule, noise, eta, callback, tensors)


def call_plan(pipe: "LattePipeline", words: Mapping[str, Any]) -> Plan:
    """The plan of a call with these arguments, given by name, at the model's training size."""
    guidance = pipe.asked_guidance(words)
    noise = noise_source(1, pipe.latent_shape(None, None, None, None))
    steps = Steps(words.get("num_inference_steps"), sampler=words.get("sampler"), eta=words.get("eta"))
    return sampling_call(pipe, steps, guidance, noise).plan


def evaluated_timesteps(run: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Iterator[Tensor]]) -> list[float]:
    """The timesteps at which a sampler evaluates the network, found by running it on a single number.

    Args:
        run: (denoise, x (1, 1, 1, 1, 1)) -> the sampler's generator.

    Returns:
        One timestep for each evaluation, in order.
    """
    found: list[float] = []

    def record(x: Tensor, t: Tensor) -> Tensor:
        found.append(float(t[0]))
        return torch.zeros_like(x)

    for _ in run(record, torch.zeros(1, 1, 1, 1, 1)):
        pass
    return found


def guidance_scales(
    guidance: Guidance, plan: Plan, scheduler: Scheduler, schedule: Schedule, eta: float
) -> list[float]:
    """The guidance scale at each evaluation; raises ValueError for a sampler that the method does not support."""
    if guidance.method == "cfg++":
        if scheduler.sampler not in ("ddim", "euler"):
            raise ValueError(f"cfg++ changes ddim's step; sampler is {scheduler.sampler}: choose ddim or euler")
        levels = zip(schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.posterior_variance)
        rising = [(float(here), float(there), eta * float(variance) ** 0.5) for here, there, variance in levels]
        return [cfg_plus_plus_scale(guidance.strength, *step) for step in reversed(rising)]
    steps = scheduler.num_train_timesteps
    return [scheduled_scale(guidance.strength, each.timestep, steps, guidance.schedule) for each in plan.evaluations]
