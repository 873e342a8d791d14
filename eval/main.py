"""`latte eval`: the examiner's scores of a model of the built-in shapes, beside real clips and reconstructions."""

import time
from pathlib import Path

import torch

from latte.eval.exam import judge, origin, questions
from latte.eval.examiner import score
from latte.files import writable, write_json
from latte.parser import Parser
from latte.pipeline import LattePipeline
from latte.sampling_options import add_sampling_options, opened
from latte.shapes import Clip, kept_apart
from latte.text_pipeline import TextPipeline
from latte.video import from_uint8


@torch.no_grad()
def reconstruct(pipe: LattePipeline, videos: torch.Tensor) -> torch.Tensor:
    """uint8 videos (b, f, 3, h, w) through the VAE and back, one by one; the posterior's mean."""
    network = next(pipe.vae.parameters())
    return torch.cat([pipe.decode(pipe.vae.encode(from_uint8(video[None]).to(network)), "uint8") for video in videos])


def evaluate(pipe: LattePipeline, count: int, **sampling) -> dict[str, dict]:
    """Scores of `count` real clips, of their reconstructions, and of what a model makes of their classes or captions.

    Captions whose combination no captioned training sees (latte.shapes.kept_apart) are also scored apart, as "unseen".
    sampling: what the pipeline's call takes. ValueError: see latte.eval.exam, or an option the model does not have.
    """
    asked, truths = questions(pipe, count)
    samples = pipe(**asked, output_type="uint8", progress=True, **sampling).frames.numpy()
    scores = {**score_real(pipe, truths), "samples": judge(pipe, samples, truths)}
    if isinstance(pipe, TextPipeline) and (rows := [i for i, clip in enumerate(truths) if kept_apart(clip)]):
        scores["unseen"] = judge(pipe, samples[rows], [truths[i] for i in rows])
    return scores


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
    pipe, settings, files = opened(args)
    start = time.perf_counter()
    scores = evaluate(pipe, args.num_videos, **settings)
    about = origin(pipe, settings, files, args)
    print(table(scores))
    print(f"{time.perf_counter() - start:.0f} s on {about['device']}")
    if args.out:
        write_json(args.out, {**about, "scores": scores})
        print(f"wrote {args.out}")
