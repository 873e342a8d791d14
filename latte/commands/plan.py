"""`latte plan`: print and draw what a plan computes, and the FLOPs that it takes, before anything is sampled."""

from pathlib import Path

from latte.commands.parser import Parser, check_out_file
from latte.commands.sampling_options import add_plan_options, add_sampling_options, apply_plan_options, open_pipeline
from latte.diffusion.randomness import noise_source
from latte.pipeline import LattePipeline
from latte.plans.cost import network_cost
from latte.plans.picture import draw_plan, plan_table
from latte.plans.records import Plan
from latte.sampling_loop import sampling_call

PICTURES = (".png", ".pdf", ".svg")


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = Parser(prog="latte plan", description=__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a folder, or a model that ships (default: shapes)")
    add_plan_options(parser)
    add("--tokens", type=int, default=120, help="tokens of a prompt, for text to video (default: 120)")
    add("--out", type=Path, help="also draw the plan: a .png, .pdf or .svg file")
    add_sampling_options(parser)
    args = parser.parse_args(argv)
    if args.out is not None and args.out.suffix.lower() not in PICTURES:
        raise ValueError(f"--out {args.out} is not a picture: give a .png, .pdf or .svg")
    check_out_file(args.out)
    if not 1 <= args.tokens <= 4096:
        raise ValueError(f"--tokens is {args.tokens}; it must be in 1 to 4096")
    pipe, settings, _ = open_pipeline(args)
    exact = planned(pipe, settings)
    apply_plan_options(pipe, args)
    plan = planned(pipe, settings)
    frames, _, height, width = pipe.latent_shape(None, None, None, None)
    cost = network_cost(pipe.transformer.config, frames, height, width, args.tokens)
    flops, whole = sum(cost.of_plan(plan)), sum(cost.of_plan(exact))
    name = str(args.plan or " ".join(args.pab or []) or "exact")
    print(plan_table(plan, cost))
    tested = any(reuse.threshold for evaluation in plan.evaluations for reuse in evaluation.reuse.values())
    print(f"{name}: {flops / 1e9:.1f} of {whole / 1e9:.1f} GFLOPs a video, {whole / flops:.2f} times fewer"
          + (", or fewer still, as the data says" if tested else ""))  # fmt: skip
    if args.out is not None:
        title = f"{args.model}, {name}: {whole / flops:.2f} times fewer FLOPs than the exact plan"
        print(f"wrote {draw_plan(plan, exact, cost, args.out, title)}")


def planned(pipe: LattePipeline, settings: dict) -> Plan:
    """What a call with these settings computes."""
    guidance = pipe.sampling.guidance.asked(settings["guidance_scale"], settings.get("guidance_interval"))
    noise = noise_source(1, pipe.latent_shape(None, None, None, None))
    steps, interval, sampler = (
        settings["num_inference_steps"],
        settings.get("guidance_interval"),
        settings.get("sampler"),
    )
    return sampling_call(pipe, steps, None, guidance, interval, sampler, settings["eta"], noise, None, ()).plan
