"""The form in which a call computes a network: as it is written, fast, as CUDA graphs, or shared by processes."""

from typing import TYPE_CHECKING, Any

from latte.fast.fast_run import FastRun
from latte.fast.graph_run import GraphRun
from latte.fast.switch import is_enabled
from latte.fast.temporal_attention import pack_frames
from latte.fast.trunk import has_fast_form
from latte.models.denoiser import Condition
from latte.parallel.sequence import sharing_of
from latte.parallel.shared_run import SharedRun
from latte.plans.layer_cache import LayerCache
from latte.plans.records import Plan
from latte.plans.tracks import holding_blocks

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline

FastNetwork = FastRun | GraphRun | SharedRun


def runs_fast(pipe: "LattePipeline", network: Any, plan: Plan, temporal: bool = True) -> bool:
    """Whether a call computes a network by its fast form; raises ValueError for CUDA graphs without one."""
    halves = {"spatial", "temporal"} & set(plan.kinds)
    split = getattr(network.config, "variant", 1) == 4 and halves  # the fast form computes both halves at once
    sharing = sharing_of(network)
    if pipe.cuda_graphs and sharing is not None:
        raise ValueError("cuda_graphs is for one process, and several share this call: set it to False")
    known = None if sharing is None else sharing.attached
    is_fast = temporal and is_enabled() and not split and has_fast_form(network, known)
    if pipe.cuda_graphs and not is_fast:
        raise ValueError("cuda_graphs records the fast form, which this call does not take: set it to False")
    return is_fast


def fast_run(
    pipe: "LattePipeline", network: Any, condition: Condition, plan: Plan, cache: LayerCache | None
) -> FastNetwork:
    """The fast form of a network for one condition; raises ValueError for graphs on a device without them."""
    if (sharing := sharing_of(network)) is not None:
        return SharedRun(sharing, condition, len(plan), cache)
    if not pipe.cuda_graphs:
        return FastRun(network, condition, len(plan), cache)
    if pipe.device.type != "cuda":
        raise ValueError(f"cuda_graphs needs a model on CUDA, not on {pipe.device.type}: set it to False")
    pack_frames(network)
    return GraphRun(network, condition, plan)


def layer_cache(pipe: "LattePipeline", plan: Plan) -> LayerCache | None:
    """The cache of the outputs that a plan reuses; None if it reuses none.

    Several processes that share a network (latte.parallel) split the batch anew where guidance begins or ends, so that
    rows cached before belong to other videos.
    """
    if not plan.kinds:
        return None
    shared = sharing_of(pipe.transformer) is not None
    if shared and "block" in plan.kinds:
        raise ValueError(
            "the plan reuses whole blocks, which several processes cannot do together: choose another plan"
        )
    if shared and plan.tested:
        raise ValueError("the plan tests the data, of which each process would see another part: choose another plan")
    return LayerCache(plan, holding_blocks(pipe.transformer), same_halves=shared)
