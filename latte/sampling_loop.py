"""The sampling loop from noise to videos, shared by all kinds of models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from latte.arguments import check_choice, check_eta
from latte.conditioning import GuidedDenoiser
from latte.device import to_device
from latte.diffusion.guidance_methods import cfg_plus_plus_scale
from latte.diffusion.guidance_options import scheduled_scale
from latte.diffusion.randomness import DIFFUSERS_ORDER, START, Noise, noise_source
from latte.diffusion.schedule import Schedule
from latte.outputs import decode_latents
from latte.plans.records import NEVER, Plan, exact_plan
from latte.progress import Progress
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
    still = lambda step: torch.zeros(1, 1, 1, 1, 1)
    visited = evaluated_timesteps(lambda denoise, x: scheduler.run(denoise, x, schedule, still, eta))
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


def batches(count: int, size: int) -> list[tuple[list[int], int]]:
    """Split videos into batches: (indices of the videos in a batch, how many of them are kept).

    The last batch is padded with copies of the last video. Since rounding depends on the batch size, this keeps every
    video bit-identical when more videos are requested.
    """
    found = []
    for start in range(0, count, size):
        rows = list(range(start, min(start + size, count)))
        found.append((rows + [count - 1] * (size - len(rows)), len(rows)))
    return found


def make_videos(
    pipe: "LattePipeline", denoisers: Callable[[Sequence[int]], GuidedDenoiser], work: list[tuple[list[int], int]],
    call: SamplingCall, output_type: str, progress: bool,
) -> Tensor:  # fmt: skip
    """Sample and decode every batch; the result is on the CPU, in the form of decode_latents."""
    pipe._interrupt, videos, count = False, [], sum(kept for _, kept in work)
    in_batches = len(work) > 1  # then the bar counts videos; those of a single batch all finish at once
    total, unit = (count, "video") if in_batches else (len(call.schedule), "step")
    with pipe.progress_bar(total=total, shown=progress, unit=unit) as bar:
        for rows, kept in work:
            with pipe.computing(pipe.transformer, pipe.weaker):
                x = call.scheduler.start(call.noise(START, rows), call.schedule).to(pipe.device)
                x = denoise(pipe, denoisers(rows), x, call, rows, bar, kept if in_batches else None)
            with pipe.computing(pipe.vae):
                videos.append(decode_latents(pipe.vae, x[:kept], output_type))
            if pipe._interrupt:
                break
    return torch.cat(videos)


def denoise(
    pipe: "LattePipeline", denoiser: GuidedDenoiser, x: Tensor, call: SamplingCall, rows: Sequence[int], bar: Progress,
    counted: int | None = None,
) -> Tensor:  # fmt: skip
    """Sample latents from noise (b, f, c, h, w). The network may compute in half precision; the sampler never does.

    The bar counts `counted` videos, a fraction of them per step; if that is None, it counts steps.
    """

    def evaluate(x: Tensor, t: Tensor) -> Tensor:
        pipe.current_timestep = t[0]
        return denoiser(x, t).float()

    steps = call.scheduler.run(
        evaluate, x, call.schedule, lambda step: to_device(call.noise(step, rows), x.device), call.eta
    )
    try:
        with pipe.following(denoiser):
            for step, x in enumerate(steps):
                if counted:
                    bar.set_postfix_str(f"step {step + 1} of {len(call.schedule)}", refresh=False)
                bar.update(counted / len(call.schedule) if counted else 1)
                call_back(pipe, call, step, x, denoiser)
                if pipe._interrupt:
                    break
    finally:
        pipe.current_timestep = None
    return x


def call_back(pipe: "LattePipeline", call: SamplingCall, step: int, x: Tensor, denoiser: GuidedDenoiser) -> None:
    """Call callback_on_step_end as diffusers does, and continue with the tensors that it returns.

    A sampler that joins steps in pairs (dpm_singlestep) uses returned latents only after the second step of a pair.
    """
    if call.callback is None:
        return
    known = {"latents": rearrange(x, "b f c h w -> b c f h w"), **denoiser.tensors}
    t = call.schedule.timesteps[-1 - step].item()
    changed = call.callback(pipe, step, t, {name: known[name] for name in call.tensors if name in known})
    for name, tensor in changed.items() if isinstance(changed, dict) else ():
        if tensor is None or name not in known or tensor is known[name]:
            continue
        if tensor.shape != known[name].shape:
            raise ValueError(f"callback_on_step_end returned {name} of shape {tuple(tensor.shape)}")
        if name == "latents":
            x.copy_(rearrange(tensor, DIFFUSERS_ORDER))  # in place: the sampler continues from x
        else:
            denoiser.tensors[name] = tensor.to(known[name])
