"""`latte eval`: the examiner's scores of a model of the built-in shapes, beside real clips and reconstructions."""

import argparse
import time
from pathlib import Path

import torch

from latte.checkpoint import find_model
from latte.device import usable_device
from latte.eval.examiner import score
from latte.files import write_json
from latte.pipeline import LattePipeline
from latte.sample import add_sampling_options
from latte.shapes import MOTIONS, make_clip
from latte.video import from_uint8, to_uint8

HELD_OUT = 1_000_000  # seed of the real clips, which no training run of the built-in data draws from by default


def reconstruct(pipe: LattePipeline, videos: torch.Tensor) -> torch.Tensor:
    """uint8 videos (b, f, 3, h, w) through the VAE and back, one by one; the posterior's mean."""
    network = next(pipe.vae.parameters())
    with torch.no_grad():
        return torch.cat(
            [to_uint8(pipe.vae.decode(pipe.vae.encode(from_uint8(video[None]).to(network)))).cpu() for video in videos]
        )


def evaluate(pipe: LattePipeline, count: int, **sampling) -> dict[str, dict[str, float]]:
    """Scores of `count` clips, their classes in turn: of real ones, of their reconstructions, and of samples.

    sampling: what LattePipeline's call takes. ValueError: the model's classes are not the motions, or there is no VAE.
    """
    if pipe.class_names != list(MOTIONS):
        raise ValueError("the examiner judges models of the built-in shapes; this one has other classes, or none")
    if pipe.vae is None:
        raise ValueError("this model has no VAE to decode with: give --vae")
    if count < 1:
        raise ValueError(f"--num-videos is {count}; it must be 1 or more")
    cfg = pipe.transformer.config
    size = cfg.input_size * pipe.vae.factor
    motions = [MOTIONS[i % len(MOTIONS)] for i in range(count)]
    truths = [make_clip(HELD_OUT, i, motion, cfg.num_frames, size) for i, motion in enumerate(motions)]
    labels = [clip.label for clip in truths]
    real = torch.stack([torch.from_numpy(clip.video) for clip in truths])
    copies = reconstruct(pipe, real)
    samples = pipe(class_labels=labels, output_type="uint8", progress=True, **sampling).frames
    return {
        "real clips": score(list(real.numpy()), labels, truths),
        "VAE reconstructions": score(list(copies.numpy()), labels, truths),
        "samples": score(list(samples.numpy()), labels),
    }


def main(argv: list[str]) -> None:
    """Print the table and, if asked, write it with everything that it depends on."""
    parser = argparse.ArgumentParser(prog="latte eval", description=__doc__)
    parser.add_argument("model", nargs="?", default="shapes", help="a model of the built-in shapes (default: shapes)")
    parser.add_argument("--num-videos", type=int, default=256, help="clips of each kind (default: 256)")
    parser.add_argument("--out", type=Path, help="a .json file for the scores and their settings")
    add_sampling_options(parser)
    args = parser.parse_args(argv)
    pipe = LattePipeline.from_pretrained(find_model(args.model), vae=args.vae, weights=args.weights)
    pipe.to(usable_device(args.device))
    settings = {
        "num_inference_steps": args.num_sampling_steps,
        "guidance_scale": args.cfg_scale,
        "sampler": args.sampler,
        "eta": args.eta,
        "seed": args.seed,
        "batch_size": args.batch_size,
    }
    start = time.perf_counter()
    table = evaluate(pipe, args.num_videos, **settings)
    names = list(table["real clips"])
    print(f"{'':20}" + "".join(f"{name:>18}" for name in names))
    for row, scores in table.items():
        print(f"{row:20}" + "".join(f"{scores[name]:>18.3f}" if name in scores else f"{'':>18}" for name in names))
    print(f"{time.perf_counter() - start:.0f} s on {args.device}")
    if args.out:
        report = {"model": str(args.model), "examiner": "latte.eval.examiner", "real_seed": HELD_OUT, **settings}
        write_json(args.out, {**report, "scores": table})
        print(f"wrote {args.out}")
