"""`latte plan`: print, draw or write what a plan computes, and its FLOPs, before anything is sampled."""

from argparse import Namespace
from pathlib import Path

from latte.commands.options.planning import PLAN_FILE
from latte.commands.sampling_options import apply_plan_options, open_pipeline
from latte.plans.cost import WEAKER_KIND, network_cost
from latte.plans.picture import draw_plan, plan_table
from latte.plans.plan_file import write_plan
from latte.sampling_call import call_plan


def main(args: Namespace) -> None:
    """Print the plan, and draw or write it if --out is given."""
    pipe, settings, _ = open_pipeline(args)
    exact = call_plan(pipe, settings)
    apply_plan_options(pipe, args)
    plan = call_plan(pipe, settings)
    frames, _, height, width = pipe.latent_shape(None, None, None, None)
    weaker = getattr(pipe.weaker, "config", None)
    cost = network_cost(pipe.transformer.config, frames, height, width, args.tokens, weaker)
    flops, whole = sum(cost.of_plan(plan)), sum(cost.of_plan(exact))
    name = str(args.plan or " ".join(args.pab or []) or "exact")
    print(plan_table(plan, cost))
    away = sum(cost.of_kinds(plan).get(WEAKER_KIND, []))
    print(f"{name}: {flops / 1e9:.1f} of {whole / 1e9:.1f} GFLOPs per video, {whole / flops:.2f} times fewer"
          + (f"; {away / 1e9:.1f} of them are the weaker network's" if away else "")
          + (", or even fewer, depending on the data" if plan.tested else ""))  # fmt: skip
    if args.out is None:
        return
    if args.out.suffix.lower() == PLAN_FILE:
        share = {} if plan.tested else {"share_of_flops": round(flops / whole, 4)}
        print(f"wrote {write_plan(plan, args.out, {'made': Path(name).name, **share})}")
    else:
        title = f"{args.model}, {name}: {whole / flops:.2f} times fewer FLOPs than the exact plan"
        print(f"wrote {draw_plan(plan, exact, cost, args.out, title)}")
