"""`latte calibrate`: search for which sampling steps to compute and what to reuse in the others, and write a plan.

Every plan is measured on the final videos of a few prompts or classes, against those of the exact plan.
"""

import shlex
from argparse import Namespace
from functools import partial

from latte.commands.options.planning import calibrate_parser, plan_parser
from latte.commands.options.sampling import sample_parser
from latte.commands.sampling_options import open_pipeline
from latte.eval.bench.resources import clock
from latte.eval.calibration import Calibration, Found, describe
from latte.eval.replay import Replay
from latte.pipeline import LattePipeline
from latte.plans.picture import plan_table
from latte.plans.plan_file import write_plan
from latte.sampling_settings import WORDS
from latte.shapes.draw import make_clip

CLIPS = 2_000_000  # index of the first clip of the shapes whose caption is a default prompt


def main(args: Namespace) -> None:
    """Search for a plan, write it, and say what to do with it."""
    pipe, settings, _ = open_pipeline(args)
    labels = chosen_labels(pipe, args.prompts, args.videos, args.model)
    options = {name: settings[name] for name in (*WORDS, "sampler", "eta") if name in settings}
    replay = Replay(pipe, labels, settings["num_inference_steps"], args.seed, **options)
    calibration = Calibration(replay, args.budget, partial(clock, pipe.device) if args.cost == "time" else None)
    found = search(calibration)
    print(plan_table(found.plan, calibration.cost))
    write_plan(found.plan, args.out, describe(found, replay, labels, args.seed))
    print(f"wrote {args.out}, {found}")
    sample, plan = next_commands(args, labels)
    print(f"next: {shlex.join(sample)}; {shlex.join(plan)}")


def next_commands(args: Namespace, labels: list[str] | list[int] | int) -> tuple[list[str], list[str]]:
    """The commands that sample with the plan that was written, and draw it, with the same options of sampling."""
    asked = vars(calibrate_parser().parse_args(args.given)) | {"model": args.model, "plan": args.out, "out": None}
    if isinstance(labels, list) and isinstance(labels[0], str) and not asked["prompts"]:
        asked["prompt"] = labels[:1]
    sample = ["latte", "sample", *sample_parser().words(Namespace(**asked))]
    asked["out"] = args.out.with_suffix(".png")
    return sample, ["latte", "plan", *plan_parser().words(Namespace(**asked))]


def search(calibration: Calibration) -> Found:
    """Find the best plan; each candidate is printed when it is measured."""
    found = None
    for found in calibration.search():
        print(f"  {found}", flush=True)
    assert found is not None
    return found


def chosen_labels(
    pipe: LattePipeline, prompts: list[str] | None, count: int, model: str
) -> list[str] | list[int] | int:
    """A prompt or class for each video; for an unconditional model, their number."""
    if pipe.takes_prompts:
        if prompts is None and model != "shapes-t2v":
            raise ValueError(f"{model} makes videos from prompts: give --prompts FILE, one per line; a few are enough")
        prompts = prompts or [make_clip(CLIPS, i).caption for i in range(count)]
        return [prompts[i % len(prompts)] for i in range(count)]
    if prompts is not None:
        raise ValueError(f"--prompts does nothing for {model}, which is not a text-to-video model: leave it out")
    classes = pipe.transformer.config.num_classes
    return [i % classes for i in range(count)] if classes else count
