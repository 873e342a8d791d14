"""The sampling loop from noise to videos, shared by all kinds of models."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from latte.device import to_device
from latte.diffusion.randomness import DIFFUSERS_ORDER, START
from latte.guided_denoiser import GuidedDenoiser
from latte.outputs import decode_latents
from latte.progress import Progress
from latte.sampling_call import SamplingCall

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline


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
                x = sample_latents(pipe, denoisers(rows), x, call, rows, bar, kept if in_batches else None)
            with pipe.computing(pipe.vae):
                videos.append(decode_latents(pipe.vae, x[:kept], output_type))
            if pipe._interrupt:
                break
    return torch.cat(videos)


def sample_latents(
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
