"""The built-in shapes as an exam of a model: what to ask it, and what the examiner says of the answers."""

import argparse
from pathlib import Path

import numpy as np
import torch

from latte import __version__
from latte.checkpoint import is_text_pipeline, weights_file
from latte.class_pipeline import ClassPipeline
from latte.device import usable_device
from latte.eval.examiner import score
from latte.pipeline import LattePipeline
from latte.published import find_pipeline, find_vae, state_files
from latte.sample import GUIDANCE
from latte.scheduler import Scheduler
from latte.shapes import MOTIONS, Clip, make_clip
from latte.tensors import digest
from latte.text_pipeline import TextPipeline
from latte.vae_io import vae_file

HELD_OUT = 1_000_000  # seed of the real clips, which no training run of the built-in data draws from by default


def questions(pipe: LattePipeline, count: int) -> tuple[dict, list[Clip]]:
    """What a pipeline's call takes for `count` videos, and a real clip of each: motions in turn, or captions.

    ValueError: there is no VAE, nothing to judge, or the model's classes are not the motions.
    """
    if pipe.vae is None:
        raise ValueError("this model has no VAE to decode with: give --vae")
    if count < 1:
        raise ValueError(f"--num-videos is {count}; it must be 1 or more")
    cfg = pipe.transformer.config
    if isinstance(pipe, TextPipeline):
        size, frames = cfg.sample_size * pipe.vae.factor, cfg.video_length
        truths = [make_clip(HELD_OUT, i, frames=frames, size=size) for i in range(count)]
        return {"prompt": [clip.caption for clip in truths]}, truths
    if not isinstance(pipe, ClassPipeline) or pipe.class_names != list(MOTIONS):
        raise ValueError("the examiner judges models of the built-in shapes; this one has other classes, or none")
    size, frames = cfg.input_size * pipe.vae.factor, cfg.num_frames
    truths = [make_clip(HELD_OUT, i, MOTIONS[i % len(MOTIONS)], frames, size) for i in range(count)]
    return {"class_labels": [clip.label for clip in truths]}, truths


def judge(pipe: LattePipeline, videos: np.ndarray, truths: list[Clip]) -> dict:
    """The examiner's scores of uint8 answers (b, f, 3, h, w); colour and shape too where a caption asked for them."""
    asked = truths if isinstance(pipe, TextPipeline) else None
    return score(list(videos), [clip.label for clip in truths], asked, copies=False)


def opened(args: argparse.Namespace) -> tuple[Path, LattePipeline, dict]:
    """The model that a command's words name (latte.sample.add_sampling_options), and the settings of its call.

    ValueError: words that this kind of model has no use for, or no such model.
    """
    path = find_pipeline(args.model)
    of_text = is_text_pipeline(path)
    if of_text and (not args.num_sampling_steps.isdecimal() or args.weights != "ema"):
        raise ValueError(
            f"{args.model} is a model of prompts: --num-sampling-steps is a count, and leave out --weights"
        )
    given = {} if of_text else {"weights": args.weights}
    pipe = LattePipeline.from_pretrained(path, **given, **({"vae": args.vae} if args.vae else {}))
    if of_text:
        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, args.sampler or pipe.scheduler.sampler)
    settings = {
        "num_inference_steps": int(args.num_sampling_steps) if of_text else args.num_sampling_steps,
        "guidance_scale": GUIDANCE[of_text] if args.cfg_scale is None else args.cfg_scale,
        "eta": args.eta,
        "seed": args.seed,
        "batch_size": args.batch_size,
        **({} if of_text else {"sampler": args.sampler or "ddim"}),
    }
    return path, pipe.to(usable_device(args.device)), settings


def origin(path: Path, pipe: LattePipeline, args: argparse.Namespace, settings: dict) -> dict:
    """What results depend on: the model, its files of weights, the settings, the machine, the versions."""
    of_text = isinstance(pipe, TextPipeline)
    parts = [path / part for part in ("transformer", "text_encoder") if of_text]
    weights = [file for part in parts for file in state_files(part)] or [weights_file(path, args.weights)]
    vae = vae_file(find_vae(args.vae, path) if args.vae else path / "vae")
    on_gpu = pipe.device.type == "cuda"
    return {
        "model": str(args.model),
        "weights": args.weights,
        "weights_sha256": " ".join(digest(file) for file in weights),
        "vae_sha256": digest(vae),
        "device": torch.cuda.get_device_name(pipe.device) if on_gpu else pipe.device.type,
        "torch": torch.__version__,
        "latte": __version__,
        "real_seed": HELD_OUT,
        "sampler": pipe.scheduler.sampler if of_text else settings["sampler"],
        **settings,
    }
