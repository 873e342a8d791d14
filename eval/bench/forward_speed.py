"""The speed of one evaluation of a network, for one video with guidance: ours in every form, and diffusers'."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from latte.conditioning import Request
from latte.diffusion.randomness import generator
from latte.eval.bench.candidates import LEAST, Candidate, Entry, compare, inspect
from latte.eval.bench.peer import Peer
from latte.eval.bench.products import products_alone
from latte.eval.bench.resources import seconds_of
from latte.guided_denoiser import Network
from latte.pipeline import LattePipeline
from latte.plans.records import exact_plan
from latte.sampling_settings import Guidance

TIMESTEP = 501
FLOOR = "matmul + sdpa only"
GUIDANCE = Guidance(7.5)


class Evaluation:
    """One evaluation of a pipeline's network, as its sampling loop calls it, on random latents and text.

    Attributes:
        x: Latents (1, f, c, h, w).
        request: What to show: the first class, or embeddings of `tokens` tokens.
        halves: 2 with guidance, of which a weaker model may compute one; 1 for a model that cannot be guided.
    """

    def __init__(self, pipe: LattePipeline, frames: int, size: int, tokens: int):
        self.pipe, config = pipe, pipe.transformer.config
        shape = pipe.latent_shape(frames, None, size, size)
        draw = lambda i, *sizes: torch.randn(sizes, generator=generator(0, i)).to(pipe.device)
        self.x = draw(0, 1, *shape)
        if pipe.takes_prompts:
            prompt, negative = (draw(i, 1, tokens, config.caption_channels) for i in (1, 2))
            self.request = Request(prompt_embeds=prompt, negative_prompt_embeds=negative)
        else:
            self.request = Request(class_labels=0) if config.num_classes else Request()
        knows = pipe.takes_prompts or (config.num_classes and config.class_dropout_prob)
        guided = knows or pipe.weaker is not None
        self.guidance, self.halves = (GUIDANCE, 2) if guided else (Guidance(1.0), 1)

    def network(self) -> Network:
        """The network in the pipeline's current setting, with all that it prepares before its first evaluation."""
        plan = exact_plan([TIMESTEP])
        with torch.no_grad():
            return self.pipe.conditioning.denoisers(self.pipe, self.request, self.guidance, plan)([0]).network

    @torch.no_grad()
    def compute(self, network: Network) -> Tensor:
        """The output (halves, f, c or 2c, h, w)."""
        return network(self.x, 0, self.halves)

    def for_peer(self) -> dict[str, Tensor]:
        """The same inputs for diffusers: x (halves, c, f, h, w), text (halves, l, d) and t (halves,)."""
        text = torch.cat([self.request.prompt_embeds, self.request.negative_prompt_embeds])
        return {"x": self.x.transpose(1, 2).repeat(2, 1, 1, 1, 1), "text": text, "t": torch.tensor([TIMESTEP] * 2)}


def measure_forward(
    pipe: LattePipeline, candidates: Sequence[Candidate], peers: Sequence[Peer], frames: int, size: int, tokens: int,
    rounds: int,
) -> dict:  # fmt: skip
    """Time one evaluation in turn for every candidate, for its matrix products alone, and for diffusers.

    Args:
        pipe: The pipeline.
        candidates: Exact ones, see exact_candidates; the first is the reference.
        peers: diffusers, if it is available.
        frames: Frames of the video.
        size: Pixels of a side of a frame.
        tokens: Tokens of the text.
        rounds: How often each is timed.

    Returns:
        "frames", "size", "tokens", and "rows" by name, see `compare`. A row also holds "over_floor", its time over that
        of products and attention alone. "fast, first" is the fast form with what it prepares once per run.
    """
    evaluation = Evaluation(pipe, frames, size, tokens)
    reference, *others = candidates
    entries = [
        entry_of(evaluation, reference),
        floor_of(evaluation, reference),
        *(entry_of(evaluation, candidate) for candidate in others),
        *(first_of(evaluation, each) for each in others if each.name.startswith("fast") and not each.recorded),
        *(peer_entry(evaluation, peer, kind, reference.dtype) for peer in peers for kind in kinds_of(candidates)),
    ]
    rows, _ = compare(entries, pipe.device, rounds)
    for row in rows.values():
        row["over_floor"] = row["min"] / rows[FLOOR]["min"] if row["dtype"] == reference.dtype else None
    return {"frames": frames, "size": size, "tokens": tokens, "rows": rows}


def entry_of(evaluation: Evaluation, candidate: Candidate) -> Entry:
    """A step of a run by a candidate."""
    pipe = evaluation.pipe
    with candidate.set_up(pipe):
        network = evaluation.network()
    call = partial(inside, candidate, pipe, lambda: evaluation.compute(network))
    fresh = partial(inside, candidate, pipe, lambda: evaluation.compute(evaluation.network()))
    timer = partial(seconds_of, call, pipe.device, LEAST)
    known = partial(inspect, call, fresh, candidate.countable, pipe.device)
    return Entry(candidate.name, candidate.dtype, candidate.compiled, timer, known)


def first_of(evaluation: Evaluation, candidate: Candidate) -> Entry:
    """A step, with what the fast form prepares before a run."""
    pipe = evaluation.pipe
    call = partial(inside, candidate, pipe, lambda: evaluation.compute(evaluation.network()))
    timer = partial(seconds_of, call, pipe.device, LEAST)
    name = candidate.name.replace("fast", "fast, first")
    return Entry(name, candidate.dtype, False, timer, partial(inspect, call, call, True, pipe.device))


def floor_of(evaluation: Evaluation, candidate: Candidate) -> Entry:
    """The products and the attention of a step alone, each product by the faster of PyTorch and oneDNN."""
    with candidate.set_up(evaluation.pipe):
        again = products_alone(partial(evaluation.compute, evaluation.network()))
    timer = partial(seconds_of, again, evaluation.pipe.device, LEAST)
    return Entry(FLOOR, candidate.dtype, False, timer, lambda: (None, None, None))


def kinds_of(candidates: Sequence[Candidate]) -> list[tuple[str, bool]]:
    """The pairs of precision and compilation that occur among the candidates."""
    return list(dict.fromkeys((candidate.dtype, candidate.compiled) for candidate in candidates))


def peer_entry(evaluation: Evaluation, peer: Peer, kind: tuple[str, bool], usual: str) -> Entry:
    """The same evaluation by diffusers, in a precision, compiled or not."""
    dtype, compiled = kind
    name = peer.name + ("" if dtype == usual else f", {dtype}") + (", compiled" if compiled else "")
    peer.prepare(name, "evaluation", evaluation.for_peer(), dtype, compiled)

    def known() -> tuple[Tensor, int | None, int | None]:
        out, flops, peak = peer.inspect(name, compiled)
        return out.transpose(1, 2).to(evaluation.pipe.device), flops, peak

    return Entry(name, dtype, compiled, partial(peer.time, name, LEAST), known, peer=True)


def inside(candidate: Candidate, pipe: LattePipeline, call: Callable[[], Tensor]) -> Tensor:
    """The result of a call in a candidate's setting."""
    with candidate.set_up(pipe):
        return call()
