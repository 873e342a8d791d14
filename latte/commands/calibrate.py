"""`latte calibrate`: search which steps of sampling to compute and what to reuse in the others, and write a plan.

Every plan is measured on the final videos of a handful of prompts or classes, against those of the exact one.
"""

from pathlib import Path

from latte.arguments import check_count
from latte.commands.parser import Parser, check_out_file
from latte.commands.sampling_options import add_sampling_options, open_pipeline, read_prompts
from latte.eval.calibration import Calibration, Found, describe
from latte.eval.replay import Replay
from latte.pipeline import LattePipeline
from latte.plans.picture import plan_table
from latte.plans.plan_file import write_plan
from latte.shapes.draw import make_clip

CLIPS = 2_000_000  # the shapes whose captions are the default prompts begin at this number


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = Parser(prog="latte calibrate", description=__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a folder, or a model that ships (default: shapes)")
    words = "what the plan may compute, as a share of the exact FLOPs (default: 0.45)"
    add("--budget", type=float, default=0.45, metavar="SHARE", help=words)
    add("--videos", type=int, default=8, help="videos to measure on, in one batch: classes in turn (default: 8)")
    words = "a file of prompts, one a line (default: captions of the built-in shapes, for shapes-t2v)"
    add("--prompts", type=Path, metavar="FILE", help=words)
    add("--out", type=Path, default=Path("plan.json"), help="the plan to write (default: plan.json)")
    add_sampling_options(parser)
    args = parser.parse_args(argv)
    check_count("--videos", args.videos, 256)
    check_out_file(args.out)
    if not 0 < args.budget <= 1:
        raise ValueError(f"--budget is {args.budget:g}; it is a share of the exact FLOPs, above 0 and up to 1")
    prompts = None if args.prompts is None else read_prompts(args.prompts)
    pipe, settings, _ = open_pipeline(args)
    labels = chosen_labels(pipe, prompts, args.videos, args.model)
    options = {name: settings[name] for name in ("guidance_interval", "sampler") if name in settings}
    options |= {"guidance_scale": settings["guidance_scale"], "eta": settings["eta"]}
    replay = Replay(pipe, labels, settings["num_inference_steps"], args.seed, **options)
    found = search(Calibration(replay, args.budget))
    print(plan_table(found.plan, Calibration(replay, args.budget).cost))
    write_plan(found.plan, args.out, describe(found, replay, labels, args.seed))
    print(f"wrote {args.out}, {found}")
    print(
        f"next: latte sample {args.model} --plan {args.out}; latte plan {args.model} --plan {args.out} --out plan.png"
    )


def search(calibration: Calibration) -> Found:
    """The best plan; what is tried is printed as it is measured."""
    found = None
    for found in calibration.search():
        print(f"  {found}", flush=True)
    assert found is not None
    return found


def chosen_labels(
    pipe: LattePipeline, prompts: list[str] | None, count: int, model: str
) -> list[str] | list[int] | int:
    """A prompt or class for each video; for an unconditional model, how many."""
    if pipe.takes_prompts:
        if prompts is None and model != "shapes-t2v":
            raise ValueError(f"{model} makes videos of prompts: give --prompts FILE, one a line; a handful is enough")
        prompts = prompts or [make_clip(CLIPS, i).caption for i in range(count)]
        return [prompts[i % len(prompts)] for i in range(count)]
    if prompts is not None:
        raise ValueError(f"--prompts does nothing for {model}, which is not a text-to-video model: leave it out")
    classes = pipe.transformer.config.num_classes
    return [i % classes for i in range(count)] if classes else count
