"""The forms of a network that are for a GPU, as candidates of `latte bench speed`."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn

from latte.eval.bench.candidates import Candidate, with_network
from latte.fast.float8_products import to_float8
from latte.fast.temporal_attention import pack_frames
from latte.pipeline import LattePipeline

GPU_FORMS = {
    "packed": "fast, packed frames",
    "graphs": "fast, CUDA graphs",
    "float8": "fast, 8-bit products",
    "graphs-float8": "fast, CUDA graphs, 8-bit products",
}  # by the words of --gpu-forms, the names of the rows


@contextmanager
def with_graphs(network: nn.Module, pipe: LattePipeline) -> Iterator[None]:
    """Within this context, a pipeline uses another network, and records its steps as CUDA graphs."""
    own, pipe.cuda_graphs = pipe.cuda_graphs, True
    try:
        with with_network(network, True, pipe):
            yield
    finally:
        pipe.cuda_graphs = own


def gpu_candidates(pipe: LattePipeline, forms: Sequence[str]) -> list[Candidate]:
    """One candidate for each form, in the precision of the pipeline's network.

    Args:
        pipe: The pipeline. Its network stays as it is: each form has a copy of it.
        forms: Keys of GPU_FORMS. Graphs pack frames, too.

    Raises:
        ValueError: The network is not on CUDA.
    """
    if forms and pipe.device.type != "cuda":
        raise ValueError(f"--gpu-forms needs a model on CUDA, not on {pipe.device.type}: leave it out")
    dtype = str(next(pipe.transformer.parameters()).dtype).removeprefix("torch.")
    return [Candidate(GPU_FORMS[form], set_up_of(pipe, form), dtype, recorded="graphs" in form) for form in forms]


def set_up_of(pipe: LattePipeline, form: str) -> partial:
    """What sets a pipeline up for a form, on a copy of its network."""
    network = copy.deepcopy(pipe.transformer)
    if form == "packed":
        pack_frames(network)
    if "float8" in form:
        to_float8(network)
    return partial(with_graphs, network) if "graphs" in form else partial(with_network, network, True)
