"""The same videos sampled along one plan after another, from where the plan begins to differ from the exact one."""

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from latte.arguments import check_count
from latte.conditioning import Request
from latte.diffusion.randomness import START, noise_source
from latte.outputs import decode_latents, require_vae
from latte.pipeline import LattePipeline
from latte.plans.records import Plan
from latte.sampling_call import SamplingCall, Steps, sampling_call


class Replay:
    """Some videos, sampled exactly once, and then along plans.

    Attributes:
        exact: The plan that computes everything.
        latents: The exact latents (b, f, c, h, w).
        videos: The exact videos, uint8 (b, f, 3, h, w), on the CPU.

    Args:
        pipe: The pipeline.
        labels: A prompt or a class for each video; for an unconditional model, the number of videos.
        steps: Sampling steps; None: those of the model's folder.
        seed: Seed of the noise.
        settings: Further options of the pipeline's call: those of guidance, sampler, eta.

    Raises:
        ValueError: Guidance remembers earlier evaluations, which a replay that begins later lacks; or see the pipeline.
    """

    def __init__(
        self, pipe: LattePipeline, labels: Sequence[int | str] | int, steps: int | str | None = None, seed: int = 0,
        **settings,
    ):  # fmt: skip
        require_vae(pipe.vae, "this model")
        check_count("videos", labels if isinstance(labels, int) else len(labels))
        self.pipe, self.guidance = pipe, pipe.asked_guidance(settings)
        if self.guidance.method == "apg" and self.guidance.options.get("momentum", True):
            raise ValueError("apg's momentum remembers steps that calibration leaves out: set its option momentum to 0")
        if pipe.takes_prompts:
            negative = pipe.conditioning.guides(pipe, self.guidance) and pipe.weaker is None
            self.request = Request(prompt_embeds=pipe.encode_prompt(list(labels), negative))
        elif isinstance(labels, int):
            self.request = Request(num_videos=labels)
        else:
            self.request = Request(class_labels=list(labels))
        count = pipe.conditioning.check_request(pipe, self.request, self.guidance)
        self.rows = list(range(count))
        noise = noise_source(count, pipe.latent_shape(None, None, None, None), seed=seed)
        asked = Steps(steps, sampler=settings.get("sampler"), eta=settings.get("eta"))
        self.call: SamplingCall = sampling_call(pipe, asked, self.guidance, noise)
        self.exact = self.call.plan
        self.outputs: list[Tensor] = []
        self.estimates: list[Tensor | None] = []  # of a self-conditioned network, after each exact evaluation
        self.latents = self.sample(self.exact)
        self.videos = self.decode(self.latents)

    @torch.no_grad()
    def sample(
        self, plan: Plan, start: int = 0, before: Collection[int] = (), after: Callable[[], object] = lambda: None
    ) -> Tensor:
        """The latents along a plan.

        Args:
            plan: For the same evaluations as the exact plan.
            start: Evaluations before this one take the exact plan's outputs, and so follow the same path.
            before: Which of those are computed too, to fill the plan's cache.
            after: Called after each evaluation.

        Returns:
            Latents (b, f, c, h, w).
        """
        pipe, call, known = self.pipe, self.call, self.outputs
        denoiser = pipe.conditioning.denoisers(pipe, self.request, self.guidance, plan, call.scales)(self.rows)
        fresh: list[Tensor] = []
        estimates: list[Tensor | None] = []

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            k = len(fresh)
            if k >= start or k in before:
                out = denoiser(x, t).float()
            else:
                denoiser.k, denoiser.estimate, out = k, self.estimates[k], known[k]
            estimates.append(denoiser.estimate)
            fresh.append(known[k] if k < start else out)
            after()
            return fresh[-1]

        x = call.scheduler.start(call.noise(START, self.rows), call.schedule).to(pipe.device)
        steps = call.scheduler.run(evaluate, x, call.schedule, lambda step: call.noise(step, self.rows), call.eta)
        with pipe.following(denoiser):
            *_, latents = steps
        self.outputs, self.estimates = known or fresh, self.estimates or estimates
        return latents

    def seconds_of(self, plan: Plan, clock: Callable[[], float]) -> list[float]:
        """How long each evaluation along a plan takes, with the sampler's step before it, by a clock in seconds."""
        times = [clock()]
        self.sample(plan, after=lambda: times.append(clock()))
        return [later - earlier for earlier, later in pairwise(times)]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents as uint8 videos (b, f, 3, h, w), on the CPU."""
        return decode_latents(self.pipe.vae, latents, "uint8")

    def error(self, latents: Tensor) -> float:
        """Mean squared difference to the exact latents."""
        return (latents - self.latents).square().mean().item()
