"""`latte eval`: the examiner's scores of a model of the built-in shapes, beside real clips and reconstructions."""

import time
from pathlib import Path

import torch

from latte import __version__
from latte.checkpoint import is_text_pipeline, weights_file
from latte.class_pipeline import ClassPipeline
from latte.device import usable_device
from latte.eval.examiner import score
from latte.files import writable, write_json
from latte.parser import Parser
from latte.pipeline import LattePipeline
from latte.published import find_pipeline, find_vae, state_files
from latte.sample import GUIDANCE, add_sampling_options
from latte.scheduler import Scheduler
from latte.shapes import MOTIONS, Clip, kept_apart, make_clip
from latte.tensors import digest
from latte.text_pipeline import TextPipeline
from latte.vae_io import vae_file
from latte.video import from_uint8

HELD_OUT = 1_000_000  # seed of the real clips, which no training run of the built-in data draws from by default


@torch.no_grad()
def reconstruct(pipe: LattePipeline, videos: torch.Tensor) -> torch.Tensor:
    """uint8 videos (b, f, 3, h, w) through the VAE and back, one by one; the posterior's mean."""
    network = next(pipe.vae.parameters())
    return torch.cat([pipe.decode(pipe.vae.encode(from_uint8(video[None]).to(network)), "uint8") for video in videos])


def evaluate(pipe: ClassPipeline, count: int, **sampling) -> dict[str, dict]:
    """Scores of `count` clips, their classes in turn: of real ones, of their reconstructions, and of samples.

    sampling: what the pipeline's call takes. ValueError: the model's classes are not the motions, there is no VAE, or
    an option that the model does not have.
    """
    if pipe.class_names != list(MOTIONS):
        raise ValueError("the examiner judges models of the built-in shapes; this one has other classes, or none")
    check(pipe, count)
    labels = [i % len(MOTIONS) for i in range(count)]
    samples = pipe(class_labels=labels, output_type="uint8", progress=True, **sampling).frames
    size, frames = pipe.transformer.config.input_size * pipe.vae.factor, pipe.transformer.config.num_frames
    truths = [make_clip(HELD_OUT, i, MOTIONS[label], frames, size) for i, label in enumerate(labels)]
    return {**score_real(pipe, truths), "samples": score(list(samples.numpy()), labels)}


def evaluate_prompts(pipe: TextPipeline, count: int, **sampling) -> dict[str, dict]:
    """Scores for the captions of `count` real clips: of these, of their reconstructions, and of what the captions give.

    Captions whose combination no captioned training sees (latte.shapes.kept_apart) are also scored apart.
    """
    check(pipe, count)
    size, frames = pipe.transformer.config.sample_size * pipe.vae.factor, pipe.transformer.config.video_length
    truths = [make_clip(HELD_OUT, i, frames=frames, size=size) for i in range(count)]
    samples = pipe([clip.caption for clip in truths], output_type="uint8", **sampling).frames.numpy()
    scores = score_real(pipe, truths)
    for name, some in (("samples", (True, False)), ("unseen", (True,))):
        rows = [(video, clip) for video, clip in zip(samples, truths) if kept_apart(clip) in some]
        if rows:
            videos, asked = zip(*rows)
            scores[name] = score(list(videos), [clip.label for clip in asked], list(asked), copies=False)
    return scores


def check(pipe: LattePipeline, count: int) -> None:
    """ValueError: there is no VAE, or nothing to judge."""
    if pipe.vae is None:
        raise ValueError("this model has no VAE to decode with: give --vae")
    if count < 1:
        raise ValueError(f"--num-videos is {count}; it must be 1 or more")


def score_real(pipe: LattePipeline, truths: list[Clip]) -> dict[str, dict]:
    """The examiner's scores of real clips and of their reconstructions."""
    real, labels = [clip.video for clip in truths], [clip.label for clip in truths]
    copies = reconstruct(pipe, torch.stack([torch.from_numpy(video) for video in real]))
    return {
        "real clips": score(real, labels, truths),
        "VAE reconstructions": score(list(copies.numpy()), labels, truths),
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


def origin(weights: list[Path], vae: Path, device: torch.device) -> dict[str, str]:
    """What scores depend on beside the sampling options: the files of weights, the machine, the versions."""
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "weights_sha256": " ".join(digest(file) for file in weights),
        "vae_sha256": digest(vae),
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
    path, device = find_pipeline(args.model), usable_device(args.device)
    of_text = is_text_pipeline(path)
    if of_text and (not args.num_sampling_steps.isdecimal() or args.weights != "ema"):
        raise ValueError(
            f"{args.model} is a model of prompts: --num-sampling-steps is a count, and leave out --weights"
        )
    given = {} if of_text else {"weights": args.weights}
    pipe = LattePipeline.from_pretrained(path, **given, **({"vae": args.vae} if args.vae else {})).to(device)
    settings = {
        "num_inference_steps": int(args.num_sampling_steps) if of_text else args.num_sampling_steps,
        "guidance_scale": GUIDANCE[of_text] if args.cfg_scale is None else args.cfg_scale,
        "eta": args.eta,
        "seed": args.seed,
        "batch_size": args.batch_size,
    }
    start, sampler = time.perf_counter(), args.sampler or (pipe.scheduler.sampler if of_text else "ddim")
    if of_text:
        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, sampler)
        scores = evaluate_prompts(pipe, args.num_videos, **settings)
    else:
        scores = evaluate(pipe, args.num_videos, sampler=sampler, **settings)
    parts = [path / part for part in ("transformer", "text_encoder") if of_text]
    weights = [file for part in parts for file in state_files(part)] or [weights_file(path, args.weights)]
    vae = vae_file(find_vae(args.vae, path) if args.vae else path / "vae")
    about = origin(weights, vae, device)
    print(table(scores))
    print(f"{time.perf_counter() - start:.0f} s on {about['device']}")
    if args.out:
        more = {"weights": args.weights, **about, "real_seed": HELD_OUT, "sampler": sampler, **settings}
        write_json(args.out, {"model": str(args.model), **more, "scores": scores})
        print(f"wrote {args.out}")
