"""The examiner's scores of a model of the built-in shapes: what the model is asked, and how its answers are judged."""

from itertools import product

import numpy as np
import torch

from latte.arguments import check_count
from latte.outputs import require_vae
from latte.pipeline import LattePipeline
from latte.shapes.clip_scores import score_clips
from latte.shapes.draw import COLOURS, MOTIONS, SHAPES, ShapeClip, caption, is_held_out, make_clip
from latte.text.tokenizer import Tokenizer
from latte.video.pixels import from_uint8

OTHERS = "the examiner judges models of the built-in shapes (compare others with real videos, --real)"
HELD_OUT = 1_000_000  # seed of the real clips, which training on the built-in shapes does not use by default


def questions(pipe: LattePipeline, count: int) -> tuple[dict, list[ShapeClip]]:
    """What to ask a model: motions in turn, or the captions of real clips.

    Args:
        pipe: The model's pipeline.
        count: Videos to ask for.

    Returns:
        Arguments of the pipeline's call, and for each video a real clip of the same motion or caption.

    Raises:
        ValueError: The model has no VAE, `count` is less than 1, or the model's classes are not the motions, or its
            vocabulary is not of their captions.
    """
    require_vae(pipe.vae, "this model")
    check_count("count", count)
    frames, side = pipe.conditioning.trained_size(pipe.transformer.config)
    size = side * pipe.vae.factor
    if pipe.takes_prompts:
        if pipe.tokenizer is not None and not knows_shapes_alone(pipe.tokenizer):
            raise ValueError(f"{OTHERS}; this one learned other captions")
        truths = [make_clip(HELD_OUT, i, frames=frames, size=size) for i in range(count)]
        return {"prompt": [clip.caption for clip in truths]}, truths
    if pipe.class_names != list(MOTIONS):
        raise ValueError(f"{OTHERS}; this one has other classes, another order of them, or none")
    truths = [make_clip(HELD_OUT, i, MOTIONS[i % len(MOTIONS)], frames, size) for i in range(count)]
    return {"class_labels": [clip.label for clip in truths]}, truths


def knows_shapes_alone(tokenizer: Tokenizer) -> bool:
    """Whether a vocabulary was made from captions of the built-in shapes: each of its pieces occurs in one of them."""
    words = product(COLOURS, SHAPES, MOTIONS)
    text = "".join(f"\u2581{caption(*three)}" for three in words).replace(" ", "\u2581")
    pieces = tokenizer.pieces
    plain = [i for i in range(len(tokenizer)) if not (pieces.is_control(i) or pieces.is_unknown(i))]
    return all(pieces.id_to_piece(i) in text for i in plain)


def judge(pipe: LattePipeline, videos: np.ndarray, truths: list[ShapeClip]) -> dict:
    """The examiner's scores of uint8 videos (b, f, 3, h, w), with colour and shape where captions asked for them."""
    asked = truths if pipe.takes_prompts else None
    return score_clips(list(videos), [clip.label for clip in truths], asked, copies=False)


@torch.no_grad()
def reconstruct(pipe: LattePipeline, videos: torch.Tensor) -> torch.Tensor:
    """Encode uint8 videos (b, f, 3, h, w) to the posterior's mean and decode them, one by one."""
    network = next(pipe.vae.parameters())
    return torch.cat([pipe.decode(pipe.vae.encode(from_uint8(video[None]).to(network)), "uint8") for video in videos])


def score_model(pipe: LattePipeline, count: int, **sampling) -> dict[str, dict]:
    """The examiner's scores of real clips, of their VAE reconstructions, and of a model's samples.

    Args:
        pipe: The model's pipeline.
        count: Clips of each kind.
        **sampling: Options of the pipeline's call.

    Returns:
        Scores by kind: "real clips", "VAE reconstructions" and "samples". Samples of captions whose combination of
        words training never sees (latte.shapes.draw.is_held_out) are also scored separately, as "unseen".

    Raises:
        ValueError: See `questions`; or the model has no such option.
    """
    asked, truths = questions(pipe, count)
    samples = pipe(**asked, output_type="uint8", progress=True, **sampling).frames.numpy()
    scores = {**score_real(pipe, truths), "samples": judge(pipe, samples, truths)}
    if pipe.takes_prompts and (rows := [i for i, clip in enumerate(truths) if is_held_out(clip)]):
        scores["unseen"] = judge(pipe, samples[rows], [truths[i] for i in rows])
    return scores


def score_real(pipe: LattePipeline, truths: list[ShapeClip]) -> dict[str, dict]:
    """The examiner's scores of real clips and of their reconstructions."""
    real, labels = [clip.video for clip in truths], [clip.label for clip in truths]
    copies = reconstruct(pipe, torch.stack([torch.from_numpy(video) for video in real]))
    return {
        "real clips": score_clips(real, labels, truths),
        "VAE reconstructions": score_clips(list(copies.numpy()), labels, truths),
    }


def score_table(scores: dict[str, dict]) -> str:
    """Scores as text: a row per score, with its parts (per motion, colour or shape) below it; a column per kind."""

    def line(name: str, values: list[float | None]) -> str:
        cells = ["-" if value is None else f"{value:d}" if name == "clips" else f"{value:.3f}" for value in values]
        return f"{name:20}" + "".join(f"{cell:>21}" for cell in cells)

    lines = [f"{'':20}" + "".join(f"{kind:>21}" for kind in scores)]
    columns = list(scores.values())
    for name, value in columns[0].items():
        if isinstance(value, dict):
            lines += [line(f"  {part}", [column[name].get(part) for column in columns]) for part in value]
        else:
            lines.append(line(name, [column.get(name) for column in columns]))
    return "\n".join(lines)
