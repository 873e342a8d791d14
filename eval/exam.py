"""The built-in shapes as an exam of a model: what to ask it, and what the examiner says of the answers."""

import argparse
from pathlib import Path

import numpy as np
import torch

from latte import __version__
from latte.device import device_name
from latte.pipeline import LattePipeline
from latte.shapes.draw import MOTIONS, ShapeClip, is_held_out, make_clip
from latte.shapes.examiner import score_clips
from latte.video.pixels import from_uint8
from latte.weights.tensors import digest

HELD_OUT = 1_000_000  # seed of the real clips, which no training run of the built-in data draws from by default


def questions(pipe: LattePipeline, count: int) -> tuple[dict, list[ShapeClip]]:
    """What a pipeline's call takes for `count` videos, and a real clip of each: motions in turn, or captions.

    ValueError: there is no VAE, nothing to judge, or the model's classes are not the motions.
    """
    if pipe.vae is None:
        raise ValueError("this model has no VAE to decode with: give --vae")
    if count < 1:
        raise ValueError(f"--num-videos is {count}; it must be 1 or more")
    cfg = pipe.transformer.config
    if pipe.takes_prompts:
        size, frames = cfg.sample_size * pipe.vae.factor, cfg.video_length
        truths = [make_clip(HELD_OUT, i, frames=frames, size=size) for i in range(count)]
        return {"prompt": [clip.caption for clip in truths]}, truths
    if pipe.class_names != list(MOTIONS):
        raise ValueError("the examiner judges models of the built-in shapes; this one has other classes, or none")
    size, frames = cfg.input_size * pipe.vae.factor, cfg.num_frames
    truths = [make_clip(HELD_OUT, i, MOTIONS[i % len(MOTIONS)], frames, size) for i in range(count)]
    return {"class_labels": [clip.label for clip in truths]}, truths


def judge(pipe: LattePipeline, videos: np.ndarray, truths: list[ShapeClip]) -> dict:
    """The examiner's scores of uint8 answers (b, f, 3, h, w); colour and shape too where a caption asked for them."""
    asked = truths if pipe.takes_prompts else None
    return score_clips(list(videos), [clip.label for clip in truths], asked, copies=False)


@torch.no_grad()
def reconstruct(pipe: LattePipeline, videos: torch.Tensor) -> torch.Tensor:
    """uint8 videos (b, f, 3, h, w) through the VAE and back, one by one; the posterior's mean."""
    network = next(pipe.vae.parameters())
    return torch.cat([pipe.decode(pipe.vae.encode(from_uint8(video[None]).to(network)), "uint8") for video in videos])


def evaluate(pipe: LattePipeline, count: int, **sampling) -> dict[str, dict]:
    """Scores of `count` real clips, of their reconstructions, and of what a model makes of their classes or captions.

    Captions whose combination no captioned training sees (latte.shapes.draw.is_held_out) are also scored apart, as
    "unseen".
    sampling: what the pipeline's call takes. ValueError: see questions, or an option the model does not have.
    """
    asked, truths = questions(pipe, count)
    samples = pipe(**asked, output_type="uint8", progress=True, **sampling).frames.numpy()
    scores = {**score_real(pipe, truths), "samples": judge(pipe, samples, truths)}
    if pipe.takes_prompts and (rows := [i for i, clip in enumerate(truths) if is_held_out(clip)]):
        scores["unseen"] = judge(pipe, samples[rows], [truths[i] for i in rows])
    return scores


def score_real(pipe: LattePipeline, truths: list[ShapeClip]) -> dict[str, dict]:
    """The examiner's scores of real clips and of their reconstructions."""
    real, labels = [clip.video for clip in truths], [clip.label for clip in truths]
    copies = reconstruct(pipe, torch.stack([torch.from_numpy(video) for video in real]))
    return {
        "real clips": score_clips(real, labels, truths),
        "VAE reconstructions": score_clips(list(copies.numpy()), labels, truths),
    }


def table(scores: dict[str, dict]) -> str:
    """One line a score, below the accuracy of motion one a class; one column a kind of clips; - where it has none."""

    def line(name: str, values: list[float | None]) -> str:
        cells = ["-" if value is None else f"{value:d}" if name == "clips" else f"{value:.3f}" for value in values]
        return f"{name:20}" + "".join(f"{cell:>21}" for cell in cells)

    lines = [f"{'':20}" + "".join(f"{kind:>21}" for kind in scores)]
    columns = list(scores.values())
    for name, value in columns[0].items():
        if name == "by_motion":
            lines += [line(f"  {motion}", [column[name].get(motion) for column in columns]) for motion in value]
        else:
            lines.append(line(name, [column.get(name) for column in columns]))
    return "\n".join(lines)


def origin(pipe: LattePipeline, settings: dict, files: list[Path], args: argparse.Namespace) -> dict:
    """What results depend on: the model, its files of weights, the settings, the machine, the versions."""
    return {
        "model": args.model,
        "weights": args.weights,
        "dtype": args.dtype,
        "memory": args.memory,
        "sha256": {f"{file.parent.name}/{file.name}": digest(file) for file in files},
        "device": device_name(pipe.device),
        "torch": torch.__version__,
        "latte": __version__,
        "real_seed": HELD_OUT,
        "sampler": settings.get("sampler") or pipe.scheduler.sampler,
        **settings,
    }
