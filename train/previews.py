"""Videos that show what a run's network has learned so far: for people, and for the distance to real videos."""

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from latte.eval.networks.shape_features import ShapeFeatures
from latte.models.latte import Latte
from latte.models.latte_t2v import LatteT2V, TextToVideo
from latte.models.vae import AutoencoderKL, VideoVAE
from latte.pipeline import LattePipeline
from latte.shapes.draw import COLOURS, MOTIONS, SHAPES, caption
from latte.train.base_config import TrainConfig
from latte.train.export import scheduler_of
from latte.train.objectives import Captioned, ClassConditional, Embedded, Objective, Recognition, Reconstruction
from latte.train.watch import SHOWN
from latte.video.pixels import to_uint8


@singledispatch
def preview(objective: Objective, network: nn.Module) -> tuple[Tensor, list[str]]:
    """Make the videos of a grid: samples of a diffusion model, or another network's output for clips of the first step.

    Args:
        objective: The objective that the network is trained with.
        network: The network, with averaged weights.

    Returns:
        At most SHOWN videos, uint8 (n, f, 3, h, w), and a caption for each.
    """
    names = preview_captions(objective)
    return sample_videos(objective, network, len(names)), names


@preview.register(Reconstruction)
@torch.no_grad()
def preview_reconstructions(objective: Reconstruction, network: AutoencoderKL) -> tuple[Tensor, list[str]]:
    count = min(SHOWN // 2, objective.config.global_batch_size)
    clips, vae = objective.batches[0, range(count)].videos.to(objective.device), VideoVAE(network)
    pairs = torch.stack([clips, vae.decode(vae.encode(clips))], 1).flatten(0, 1).cpu()
    return to_uint8(pairs.clamp(-1, 1)), ["clip", "reconstruction"] * len(clips)


@preview.register(Recognition)
@torch.no_grad()
def preview_recognition(objective: Recognition, network: ShapeFeatures) -> tuple[Tensor, list[str]]:
    videos, _ = objective.batch(0, range(min(SHOWN, objective.config.global_batch_size)))
    predicted = network(videos)
    indices = (predicted[name].argmax(1).tolist() for name in ("colour", "shape", "motion"))
    vocabularies = (list(COLOURS), list(SHAPES), MOTIONS)
    words = [[vocabulary[i] for i in column] for vocabulary, column in zip(vocabularies, indices)]
    return to_uint8(videos.cpu()), list(map(caption, *words))


def preview_captions(objective: ClassConditional | Captioned | Embedded) -> list[str]:
    """Return the captions of the samples in a grid: the first classes, or captions evenly from the data."""
    if isinstance(objective, ClassConditional):
        return objective.clips.names[:SHOWN] or [f"sample {i}" for i in range(SHOWN // 2)]
    captions = objective.clips.captions
    return choose_evenly(captions, min(SHOWN, len(captions)))


def choose_evenly(captions: list[str], count: int) -> list[str]:
    """Choose `count` captions evenly from a list; if it has fewer, some of them repeat."""
    return [captions[i * len(captions) // count] for i in range(count)]


@singledispatch
def sample_videos(objective: Objective, network: nn.Module, count: int) -> Tensor:
    """Sample a diffusion model in training, with the seed of the run, evenly from all classes or captions.

    Args:
        objective: The objective that the network is trained with.
        network: The network, with averaged weights.
        count: The number of videos.

    Returns:
        uint8 (count, f, 3, h, w).

    Raises:
        TypeError: If the network makes no videos.
    """
    raise TypeError(f"the network of {type(objective).__name__} makes no videos")


@sample_videos.register
def sample_classes(objective: ClassConditional, network: Latte, count: int) -> Tensor:
    names = objective.clips.names
    request = {"class_labels": [i % len(names) for i in range(count)]} if names else {"num_videos": count}
    pipe = LattePipeline(network, objective.vae, scheduler=scheduler_of(objective), class_names=names)
    return pipe(**request, batch_size=SHOWN, **preview_options(objective.config)).frames


@sample_videos.register
def sample_captions(objective: Captioned, network: TextToVideo, count: int) -> Tensor:
    parts = (network.transformer, objective.vae, network.text_encoder, objective.tokenizer)
    pipe = LattePipeline(*parts, scheduler_of(objective))
    prompts = choose_evenly(objective.clips.captions, count)
    return pipe(prompts, batch_size=SHOWN, **preview_options(objective.config)).frames


@sample_videos.register
def sample_embeddings(objective: Embedded, network: LatteT2V, count: int) -> Tensor:
    pipe, videos = LattePipeline(network, objective.vae, scheduler=scheduler_of(objective)), []
    for number, prompt in enumerate(choose_evenly(objective.clips.captions, count)):  # one by one: lengths differ
        text = objective.embedding(prompt)[None]
        request = {"prompt_embeds": text, "negative_prompt_embeds": objective.empty[None, : text.shape[1]]}
        options = {**preview_options(objective.config), "seed": objective.config.seed + number}
        videos.append(pipe(**request, **options).frames)
    return torch.cat(videos)


def preview_options(config: TrainConfig) -> dict[str, Any]:
    """Return the sampling options of previews; without config.sample_guidance, the pipeline's defaults apply."""
    options = {"seed": config.seed, "output_type": "uint8", "progress": False, "num_inference_steps": 50}
    defaults = config.sampling_defaults()
    return options if defaults is None else options | defaults.settings
