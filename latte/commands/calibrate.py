"""`latte calibrate`: search for which sampling steps to compute and what to reuse in the others, and write a plan.

Every plan is measured on the final videos of a few prompts or classes, against those of the exact plan.
"""

from argparse import Namespace

from latte.commands.sampling_options import open_pipeline
from latte.eval.calibration import Calibration, Found, describe
from latte.eval.replay import Replay
from latte.pipeline import LattePipeline
from latte.plans.picture import plan_table
from latte.plans.plan_file import write_plan
from latte.shapes.draw import make_clip
from latte.weights.sampling_defaults import WORDS

CLIPS = 2_000_000  # index of the first clip of the shapes whose caption is a default prompt


def main(args: Namespace) -> None:
    """Search for a plan, write it, and say what to do with it."""
    pipe, settings, _ = open_pipeline(args)
    labels = chosen_labels(pipe, args.prompts, args.videos, args.model)
    options = {name: settings[name] for name in (*WORDS, "sampler", "eta") if name in settings}
    replay = Replay(pipe, labels, settings["num_inference_steps"], args.seed, **options)
    calibration = Calibration(replay, args.budget)
    found = search(calibration)
    print(plan_table(found.plan, calibration.cost))
    write_plan(found.plan, args.out, describe(found, replay, labels, args.seed))
    print(f"wrote {args.out}, {found}")
    print(
        f"next: latte sample {args.model} --plan {args.out}; latte plan {args.model} --plan {args.out} --out plan.png"
    )


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
