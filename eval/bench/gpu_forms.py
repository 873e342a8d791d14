"""The forms of a network that are for a GPU, as candidates of `latte bench speed`."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from torch import nn

from latte.eval.bench.candidates import Candidate, SetUp, with_network
from latte.fast.float8_products import multiplies_in_float8, to_float8
from latte.fast.temporal_attention import pack_frames, runs_kernels
from latte.pipeline import LattePipeline
from latte.weights.tensors import DTYPES


@dataclass(frozen=True)
class Form:
    """A way to compute the fast form on a GPU.

    Attributes:
        name: Its row in tables.
        packed: Whether temporal attention packs frames into one tile; recorded steps do so in any case.
        recorded: Whether steps are recorded as CUDA graphs.
        float8: Whether products compute in 8 bits.
    """

    name: str
    packed: bool = False
    recorded: bool = False
    float8: bool = False


GPU_FORMS = {
    "packed": Form("fast, packed frames", packed=True),
    "graphs": Form("fast, CUDA graphs, packed frames", packed=True, recorded=True),
    "float8": Form("fast, 8-bit products", float8=True),
    "graphs-float8": Form("fast, CUDA graphs, packed frames, 8-bit products", packed=True, recorded=True, float8=True),
}  # by the words of --gpu-forms


@contextmanager
def with_graphs(network: nn.Module, weaker: nn.Module | None, pipe: LattePipeline) -> Iterator[None]:
    """Within this context, a pipeline uses other networks, and records its steps as CUDA graphs."""
    before = pipe.cuda_graphs, pipe.weaker
    pipe.cuda_graphs, pipe.weaker = True, weaker
    try:
        with with_network(network, True, pipe):
            yield
    finally:
        pipe.cuda_graphs, pipe.weaker = before


def gpu_candidates(pipe: LattePipeline, forms: Sequence[str], dtype: str) -> list[Candidate]:
    """One candidate for each form.

    Args:
        pipe: The pipeline. Its networks stay as they are: forms that change one have a copy.
        forms: Keys of GPU_FORMS.
        dtype: The precision of the networks.

    Raises:
        ValueError: The device does not have a form.
    """
    asked = [GPU_FORMS[form] for form in dict.fromkeys(forms)]
    if asked and pipe.device.type != "cuda":
        raise ValueError(f"--gpu-forms needs a model on CUDA, not on {pipe.device.type}: leave it out")
    if any(form.packed for form in asked) and not runs_kernels(pipe.device):
        raise ValueError("--gpu-forms packed, graphs and graphs-float8 need Triton, which is not installed")
    if any(form.float8 for form in asked) and not multiplies_in_float8(pipe.device):
        raise ValueError("--gpu-forms float8 and graphs-float8 need a GPU of compute capability 9.0 or higher")
    networks = {key: changed(pipe, dtype, *key) for key in {(form.packed, form.float8) for form in asked}}
    weaker = copy.deepcopy(pipe.weaker) if any(form.recorded for form in asked) else None  # graphs pack it, too
    return [candidate(form, networks[form.packed, form.float8], weaker, dtype) for form in asked]


def candidate(form: Form, network: nn.Module, weaker: nn.Module | None, dtype: str) -> Candidate:
    """The candidate of a form, for a network that was changed for it."""
    set_up: SetUp = partial(with_network, network, True)
    if form.recorded:
        set_up = partial(with_graphs, network, weaker)
    return Candidate(form.name, set_up, dtype, recorded=form.recorded)


@contextmanager
def both(form: SetUp, cache: SetUp, pipe: LattePipeline) -> Iterator[None]:
    """Within this context, a pipeline has a form and follows the plan of a cache."""
    with form(pipe), cache(pipe):
        yield


def recorded_caches(forms: Sequence[Candidate], caches: Sequence[Candidate]) -> list[Candidate]:
    """Each cache once more in each form that records CUDA graphs, where a step costs the host least."""
    graphs = [form for form in forms if form.recorded]
    return [
        replace(form, name=f"{cache.name}, {form.name}", set_up=partial(both, form.set_up, cache.set_up))
        for cache, form in product(caches, graphs)
    ]


def changed(pipe: LattePipeline, dtype: str, packed: bool, float8: bool) -> nn.Module:
    """A copy of a pipeline's network in a precision, with packed frames, 8-bit products or both."""
    network = copy.deepcopy(pipe.transformer).to(DTYPES[dtype])
    if packed:
        pack_frames(network)
    if float8:
        to_float8(network)
    return network
