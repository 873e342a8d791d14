"""`latte eval`: the examiner's scores of a model of the built-in shapes, beside real clips and reconstructions."""

import time
from pathlib import Path

import torch

from latte import __version__
from latte.checkpoint import find_model, weights_file
from latte.device import usable_device
from latte.eval.examiner import score
from latte.files import writable, write_json
from latte.parser import Parser
from latte.pipeline import LattePipeline
from latte.sample import add_sampling_options
from latte.shapes import MOTIONS, make_clip
from latte.tensors import digest
from latte.vae_io import vae_file
from latte.video import from_uint8

HELD_OUT = 1_000_000  # seed of the real clips, which no training run of the built-in data draws from by default


@torch.no_grad()
def reconstruct(pipe: LattePipeline, videos: torch.Tensor) -> torch.Tensor:
    """uint8 videos (b, f, 3, h, w) through the VAE and back, one by one; the posterior's mean."""
    network = next(pipe.vae.parameters())
    return torch.cat([pipe.decode(pipe.vae.encode(from_uint8(video[None]).to(network)), "uint8") for video in videos])


def evaluate(pipe: LattePipeline, count: int, **sampling) -> dict[str, dict]:
    """Scores of `count` clips, their classes in turn: of real ones, of their reconstructions, and of samples.

    sampling: what LattePipeline's call takes. ValueError: the model's classes are not the motions, there is no VAE,
    or an option that the model does not have.
    """
    if pipe.class_names != list(MOTIONS):
        raise ValueError("the examiner judges models of the built-in shapes; this one has other classes, or none")
    if pipe.vae is None:
        raise ValueError("this model has no VAE to decode with: give --vae")
    if count < 1:
        raise ValueError(f"--num-videos is {count}; it must be 1 or more")
    cfg = pipe.transformer.config
    size = cfg.input_size * pipe.vae.factor
    labels = [i % len(MOTIONS) for i in range(count)]
    samples = pipe(class_labels=labels, output_type="uint8", progress=True, **sampling).frames
    truths = [make_clip(HELD_OUT, i, MOTIONS[label], cfg.num_frames, size) for i, label in enumerate(labels)]
    real = [clip.video for clip in truths]
    copies = reconstruct(pipe, torch.stack([torch.from_numpy(video) for video in real]))
    return {
        "real clips": score(real, labels, truths),
        "VAE reconstructions": score(list(copies.numpy()), labels, truths),
        "samples": score(list(samples.numpy()), labels),
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
            lines += [line(f"  {motion}", [column[name][motion] for column in columns]) for motion in value]
        else:
            lines.append(line(name, [column.get(name) for column in columns]))
    return "\n".join(lines)


def origin(model: Path, vae: Path, weights: str, device: torch.device) -> dict[str, str]:
    """What scores depend on beside the sampling options: the files of weights, the machine, the versions."""
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "weights": weights,
        "weights_sha256": digest(weights_file(model, weights)),
        "vae_sha256": digest(vae_file(vae)),
        "device": on,
        "torch": torch.__version__,
        "latte": __version__,
    }


def main(argv: list[str]) -> None:
    """Print the table and, if asked, write it with everything that it depends on."""
    parser = Parser(prog="latte eval", description=__doc__)
    parser.add_argument("model", nargs="?", default="shapes", help="a model of the built-in shapes (default: shapes)")
    parser.add_argument("--num-videos", type=int, default=256, help="clips of each kind (default: 256)")
    parser.add_argument("--out", type=Path, help="a .json file for the scores and their settings")
    add_sampling_options(parser)
    args = parser.parse_args(argv)
    if args.out and (args.out.is_dir() or not writable(args.out.parent)):
        raise ValueError(f"--out {args.out} is not a file that can be written: name one, such as scores.json")
    path, device = find_model(args.model), usable_device(args.device)
    pipe = LattePipeline.from_pretrained(path, vae=args.vae, weights=args.weights).to(device)
    settings = {
        "num_inference_steps": args.num_sampling_steps,
        "guidance_scale": 4.0 if args.cfg_scale is None else args.cfg_scale,
        "sampler": args.sampler,
        "eta": args.eta,
        "seed": args.seed,
        "batch_size": args.batch_size,
    }
    start = time.perf_counter()
    scores = evaluate(pipe, args.num_videos, **settings)
    about = origin(path, find_model(args.vae) if args.vae else path / "vae", args.weights, device)
    print(table(scores))
    print(f"{time.perf_counter() - start:.0f} s on {about['device']}")
    if args.out:
        report = {"model": str(args.model), **about, "real_seed": HELD_OUT, **settings, "scores": scores}
        write_json(args.out, report)
        print(f"wrote {args.out}")
