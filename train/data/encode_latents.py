"""`latte encode`: the latents of all frames of a data set, encoded once and stored for training."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from latte.files import replacing_folder
from latte.models.t5 import T5Encoder
from latte.models.vae import VideoVAE
from latte.text.embed import MAX_LENGTH, embed
from latte.text.tokenizer import Tokenizer
from latte.train.config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.data.latent_files import (
    CAPTION,
    EMPTY,
    LATENT_INDEX,
    TEXT,
    LatentFolder,
    StoredVideo,
    latent_settings,
    open_latent_folder,
    write_latent_index,
)
from latte.weights.folder import digest_folder
from latte.weights.load import find_model
from latte.weights.tensors import digest, write_tensors
from latte.weights.vae_folder import load_vae


def encode_data_set(
    config: TrainConfig,
    clips: Clips,
    out: Path,
    text: tuple[T5Encoder, Tokenizer] | None = None,
    shard_size: int = 64,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> LatentFolder:
    """Encode every frame of every video into a folder, and with `flip` the mirrored videos too.

    An encoding that was stopped continues when it is called again: finished shards are kept. A video that cannot be
    read is left out, with a warning.

    Args:
        config: Settings of the training; `vae` names the VAE.
        clips: The data set.
        out: The folder to write.
        text: A text encoder and its tokenizer, to store embeddings of the captions too.
        shard_size: Videos per file.
        dtype: Type of the stored latents and embeddings.
        device: Where to compute.

    Raises:
        OSError: The folder cannot be written.
        ValueError: `out` holds other latents, or too many videos cannot be read.
    """
    vae_folder = find_model(config.vae)
    vae, vae_digest, settings = load_vae(vae_folder).to(device), digest_folder(vae_folder), latent_settings(config)
    made_from = {"settings": settings, "vae": vae_digest, "data": clips.fingerprint}
    made_from |= {"shard_size": shard_size, "dtype": str(dtype).removeprefix("torch.")}
    mark, videos, names = json.dumps(made_from, sort_keys=True), [], []
    for first in tqdm(range(0, clips.num_videos, shard_size), desc="encoding", unit="shard"):
        path = out / f"shard-{first // shard_size:05d}.safetensors"
        if not path.is_file():
            write_shard(
                path, vae, clips, range(first, min(first + shard_size, clips.num_videos)), config.flip, dtype, mark
            )
        found = read_shard_videos(path, mark)
        names += [path.name] * bool(found)
        videos += found
    with ExitStack() as stack:
        # a finished folder whose embeddings change is readable meanwhile; its shards are linked, not copied
        changes = text is not None and (out / LATENT_INDEX).is_file()
        folder = stack.enter_context(replacing_folder(out, keep=True)) if changes else out
        if text:
            write_text_shard(folder / TEXT, text, sorted({video.caption for video in videos}), dtype, mark)
            names.append(TEXT)
        files = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)} for name in names}
        about = (settings, clips.fingerprint, vae_digest, clips.names, videos, files, bool(text))
        write_latent_index(LatentFolder(folder, *about))
    return open_latent_folder(out)


def write_shard(
    path: Path, vae: VideoVAE, clips: Clips, numbers: range, mirrored: bool, dtype: torch.dtype, mark: str
) -> None:
    """Encode the videos of these numbers into a file, atomically; `mark` says what they are made from."""
    tensors, rows = {}, []
    for number in numbers:
        video = clips.full_video(number)
        try:
            moments = list(encode_blocks(vae, video.blocks, mirrored))
        except (OSError, ValueError) as error:
            clips.failures.note(((video.path, str(error)),), "left out")
            clips.failures.raise_if_too_many()
            continue
        for kind, parts in zip(("mean", "logvar", "mirrored.mean", "mirrored.logvar"), zip(*moments)):
            tensors[f"{number}.{kind}"] = torch.cat(parts).to(dtype)
        rows.append([path.name, str(number), len(tensors[f"{number}.mean"]), video.label, video.caption])
    # a single metadata entry: safetensors writes several in an order that differs between processes
    write_tensors(path, tensors, {"latte": json.dumps({"made": mark, "videos": rows})})


@torch.no_grad()
def encode_blocks(vae: VideoVAE, blocks: Iterator[Tensor], mirrored: bool) -> Iterator[list[Tensor]]:
    """Yield mean and log-variance (n, c, h, w) of each block of a video, and if `mirrored` of its mirror image."""
    weights = next(vae.parameters())
    for block in blocks:
        sides = [block, block.flip(-1)] if mirrored else [block]
        yield [moment[0].cpu() for side in sides for moment in vae.posterior(side[None].to(weights))]


def read_shard_videos(path: Path, mark: str) -> list[StoredVideo]:
    """Read which videos a shard holds. Raises ValueError if it was made from something else than `mark` says."""
    with safe_open(path, "pt") as file:
        notes = json.loads((file.metadata() or {}).get("latte", "{}"))
    if notes.get("made") != mark:
        raise ValueError(f"{path} holds latents of other data, settings or another VAE: give another folder for --out")
    return [StoredVideo(*row) for row in notes["videos"]]


def write_text_shard(
    path: Path, text: tuple[T5Encoder, Tokenizer], captions: list[str], dtype: torch.dtype, mark: str
) -> None:
    """Write the embeddings of captions, without padding, and of the empty caption, with the padding.

    A dropped caption is replaced by as many tokens of the empty one as it had, hence the padding.
    """
    encoder, tokenizer = text
    tensors = {}
    for number, caption in enumerate(tqdm(captions, desc="captions", unit="caption", leave=False)):
        embedding, mask = embed(encoder, tokenizer, [caption], MAX_LENGTH, True)
        tensors[CAPTION.format(number)] = embedding[0, : int(mask.sum())].to("cpu", dtype)
    tensors[EMPTY] = embed(encoder, tokenizer, [""], MAX_LENGTH, True)[0][0].to("cpu", dtype)
    write_tensors(path, tensors, {"latte": json.dumps({"made": mark})})
