"""The speed and fidelity of sampling runs: exact, with caches, in each precision, and diffusers', on the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latte.diffusion.randomness import START, generator, noise_source
from latte.eval.bench.candidates import Candidate, Entry, compare
from latte.eval.bench.peer import Peer
from latte.eval.bench.resources import OperationCount, seconds_of, working_memory
from latte.eval.exam import judge, questions
from latte.eval.fidelity import batch_lpips, psnr, ssim
from latte.eval.networks.lpips import LPIPS, SMALLEST
from latte.eval.structural_similarity import SMALLEST as SMALLEST_SSIM
from latte.pipeline import LattePipeline
from latte.scheduler import Scheduler
from latte.shapes.draw import ShapeClip
from latte.text.embed import Text
from latte.weights.published_export import scheduler_config


@dataclass(frozen=True)
class Job:
    """What is sampled: the same for every row.

    Attributes:
        pipe: The pipeline.
        inputs: Arguments of its call that say what to show, and initial latents (n, c, f, h, w).
        settings: Further arguments of its call.
        truths: Clips by which the examiner judges videos of the built-in shapes; otherwise None.
    """

    pipe: LattePipeline
    inputs: dict[str, Any]
    settings: dict[str, Any]
    truths: list[ShapeClip] | None

    @property
    def steps(self) -> int:
        """Denoising steps."""
        scheduler = Scheduler.from_config(self.pipe.scheduler.config, self.settings.get("sampler"))
        return len(scheduler.schedule(self.settings["num_inference_steps"], None))

    def sample(self) -> Tensor:
        """The latents (n, c, f, h, w) of all videos."""
        return self.pipe(**self.inputs, **self.settings, output_type="latent", progress=False).frames


def job_of(
    pipe: LattePipeline, count: int, size: dict[str, int], tokens: int, settings: dict[str, Any], exam: bool
) -> Job:
    """Sampling of some videos: classes in turn, captions of the built-in shapes, or random embeddings.

    Args:
        pipe: The pipeline.
        count: Videos.
        size: "num_frames", "height" and "width" where they are not those of training.
        tokens: Tokens of random embeddings, for a text-to-video model without a text encoder.
        settings: Further arguments of the pipeline's call.
        exam: Whether the examiner judges the videos.

    Raises:
        ValueError: The examiner cannot judge what the model generates.
    """
    shape = pipe.latent_shape(size.get("num_frames"), None, size.get("height"), size.get("width"))
    noise = noise_source(count, shape, seed=settings["seed"])(START, range(count))
    inputs: dict[str, Any] = {"latents": noise.transpose(1, 2)}
    asked, truths = questions(pipe, count) if exam or pipe.text_encoder is not None else ({}, None)
    config = pipe.transformer.config
    if pipe.text_encoder is not None:
        inputs["prompt_embeds"] = pipe.encode_prompt(asked["prompt"])
    elif pipe.takes_prompts:
        draw = lambda i: torch.randn(count, tokens, config.caption_channels, generator=generator(0, i)).to(pipe.device)
        inputs["prompt_embeds"] = Text(draw(1), draw(2))
    elif config.num_classes:
        inputs["class_labels"] = [i % config.num_classes for i in range(count)]
    else:
        inputs["num_videos"] = count
    return Job(pipe, inputs, {**settings, **size}, truths if exam else None)


def measure_sampling(
    job: Job, first: Job, candidates: Sequence[Candidate], peers: Sequence[Peer], rounds: int, alexnet: LPIPS | None
) -> dict:
    """Sample the same videos in turn with every candidate and with diffusers, and compare the videos.

    Args:
        job: What is sampled.
        first: Its first batch, for which memory is measured and operations are counted.
        candidates: Exact ones and caches; the first is the reference.
        peers: diffusers, if it is available.
        rounds: How often each is timed.
        alexnet: The network of LPIPS, if it is to be measured.

    Returns:
        "videos", "steps", and "rows" by name, see `compare`; seconds are those of denoising. A row also holds
        "per_step", the "psnr", "ssim" and "lpips" of its videos to the reference's, and the examiner's "scores".
    """
    entries = [entry_of(job, first, candidate) for candidate in candidates]
    entries += [peer_entry(job, peer, candidates[0].dtype) for peer in peers]
    rows, outputs = compare(entries, job.pipe.device, rounds, warm_up=False)
    reference = None
    for name, row in rows.items():
        videos = None if job.pipe.vae is None else decoded(job, outputs[name])
        reference = videos if reference is None else reference
        row |= {"per_step": row["min"] / job.steps, **fidelity(videos, reference, alexnet)}
        row["scores"] = None if job.truths is None else judge(job.pipe, videos.numpy(), job.truths)
    return {"videos": len(job.inputs["latents"]), "steps": job.steps, "rows": rows}


def entry_of(job: Job, first: Job, candidate: Candidate) -> Entry:
    """Sampling by a candidate."""
    pipe, outputs = job.pipe, []

    def inside(job: Job) -> Tensor:
        with candidate.set_up(pipe):
            return job.sample()

    def time() -> float:
        return seconds_of(lambda: outputs.append(inside(job)), pipe.device)

    def known() -> tuple[Tensor, int | None, int | None]:
        if not candidate.countable:
            return outputs[-1], None, None
        with OperationCount() as count:
            peak = working_memory(partial(inside, first), pipe.device)
        batches = -(-len(job.inputs["latents"]) // len(first.inputs["latents"]))
        return outputs[-1], count.total * batches, peak

    return Entry(candidate.name, candidate.dtype, candidate.compiled, time, known)


def peer_entry(job: Job, peer: Peer, dtype: str) -> Entry:
    """Sampling by diffusers, in its own loop."""
    text, settings, name = job.inputs["prompt_embeds"], job.settings, f"{peer.name}: sampling"
    inputs = {"x": job.inputs["latents"], "text": text.prompt}
    if settings["guidance_scale"] > 1:
        inputs["negative"] = text.negative
    peer.prepare(
        name, "sampling", inputs, dtype, steps=job.steps, guidance=settings["guidance_scale"],
        batch_size=settings["batch_size"],
        scheduler=scheduler_config(job.pipe.scheduler, job.pipe.transformer.config.prediction),
    )  # fmt: skip
    return Entry(peer.name, dtype, False, lambda: peer.time(name, 0.0), lambda: peer.inspect(name, False), peer=True)


def why_no_peer(job: Job) -> str | None:
    """Why diffusers' Latte cannot do the same sampling; None if it can."""
    text, settings = job.inputs["prompt_embeds"], job.settings
    if job.pipe.scheduler.flow:
        return "it has no noise levels of a flow"
    if job.pipe.weaker is not None:
        return "it has no autoguidance (--autoguidance none compares classifier-free guidance)"
    if job.pipe.scheduler.sampler != "ddim" or settings["eta"] or "guidance_interval" in settings:
        return "it is compared only in sampling with ddim, without noise and with guidance at all steps"
    if text.prompt_mask is not None:
        return "it attends to the padding of several prompts: sample one video"
    return None


@torch.no_grad()
def decoded(job: Job, latents: Tensor) -> Tensor:
    """uint8 videos (n, f, 3, h, w) of latents (n, c, f, h, w)."""
    parts = latents.transpose(1, 2).to(job.pipe.device).split(job.settings["batch_size"])
    return torch.cat([job.pipe.decode(part, "uint8").cpu() for part in parts])


def fidelity(videos: Tensor | None, reference: Tensor | None, alexnet: LPIPS | None) -> dict[str, float | None]:
    """PSNR in dB (100 where no pixel differs), SSIM and LPIPS of videos; None where they cannot be measured."""
    side = 0 if videos is None else min(videos.shape[-2:])
    return {
        "psnr": psnr(videos, reference) if side else None,
        "ssim": ssim(videos, reference) if side >= SMALLEST_SSIM else None,
        "lpips": batch_lpips(videos, reference, alexnet, 32) if alexnet is not None and side >= SMALLEST else None,
    }
