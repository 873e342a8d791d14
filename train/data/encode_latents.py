"""`latte encode`: the latents of all frames of a data set, encoded once and stored for training."""

import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from latte.fast.onednn import choose_products, onednn_is_faster
from latte.files import MOST_LIST_BYTES, read_json, replacing_folder, utf8_path
from latte.models.t5 import T5Encoder
from latte.models.vae import VideoVAE
from latte.progress import Progress
from latte.text.embed import MAX_LENGTH, embed
from latte.text.tokenizer import Tokenizer
from latte.train.base_config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.data.kept_latents import digest_tensors
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
from latte.weights.find_models import find_model
from latte.weights.manifest import digest, digest_folder
from latte.weights.tensors import write_tensors
from latte.weights.vae_folder import load_vae


def encode_data_set(
    config: TrainConfig,
    clips: Clips,
    out: Path,
    text: tuple[T5Encoder, Tokenizer] | None = None,
    shard_size: int = 64,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
    text_encoder: dict[str, str] | None = None,
) -> LatentFolder:
    """Encode every frame of every video into a folder, and with `flip` the mirrored videos too.

    A stopped encoding continues when this is called again: finished shards are kept if they are undamaged, and damaged
    ones are encoded again, with a warning. A video that cannot be read is left out, with a warning.

    Args:
        config: Settings of the training; `vae` names the VAE.
        clips: The data set.
        out: The folder to write.
        text: A text encoder and its tokenizer, to store embeddings of the captions too.
        shard_size: Videos per file.
        dtype: Type of the stored latents and embeddings.
        device: Where to compute.
        text_encoder: The "name", "path" and "sha256" of the text encoder, for the index.

    Raises:
        OSError: The folder cannot be written.
        ValueError: `out` holds other latents, or too many videos cannot be read.
    """
    vae_folder = find_model(config.vae)
    vae, vae_digest, settings = load_vae(vae_folder).to(device), digest_folder(vae_folder), latent_settings(config)
    made_from = {"settings": settings, "vae": vae_digest}
    made_from |= {"shard_size": shard_size, "dtype": str(dtype).removeprefix("torch.")}
    sums = recorded_sums(out)
    data = known_fingerprint(out, clips, made_from)
    mark, videos, files = mark_of(made_from, data), [], {}
    bar = Progress(desc="encoding", total=clips.num_videos, unit="video")
    with bar, choose_products(recorded_products(out)):
        for first in range(0, clips.num_videos, shard_size):
            path = out / f"shard-{first // shard_size:05d}.safetensors"
            numbers = range(first, min(first + shard_size, clips.num_videos))
            if is_sound(path, mark, sums.get(path.name)):
                bar.skip(len(numbers))
            else:
                write_shard(path, vae, clips, bar.each(numbers), config.flip, dtype, mark)
                sums[path.name] = digest(path)
            found = [StoredVideo(*row) for row in read_notes(path)["videos"]]
            if found:
                files[path.name] = about(path, sums.get(path.name))
            videos += found
    with ExitStack() as stack:
        # a finished folder stays readable while its embeddings change; its shards are linked, not copied
        changes = text is not None and (out / LATENT_INDEX).is_file()
        folder = stack.enter_context(replacing_folder(out, keep=True)) if changes else out
        if text:
            write_text_shard(folder / TEXT, text, sorted({video.caption for video in videos}), dtype, mark)
            files[TEXT] = about(folder / TEXT)
        facts = (settings, data, vae_digest, clips.names, videos, files, bool(text), text_encoder or {}, config.vae)
        write_latent_index(LatentFolder(folder, *facts))
    return open_latent_folder(out)


def write_shard(
    path: Path, vae: VideoVAE, clips: Clips, numbers: Iterator[int], mirrored: bool, dtype: torch.dtype, mark: str
) -> None:
    """Encode the videos with these numbers into a file, atomically; `mark` records what they are made from."""
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
    notes = {"made": mark, "videos": rows, "onednn": onednn_is_faster()}
    # a single metadata entry: safetensors writes several in an order that differs between processes
    write_tensors(path, tensors, {"latte": json.dumps(notes | {"sha256": digest_tensors(tensors, notes)})})


@torch.no_grad()
def encode_blocks(vae: VideoVAE, blocks: Iterator[Tensor], mirrored: bool) -> Iterator[list[Tensor]]:
    """Yield mean and log-variance (n, c, h, w) of each block of a video and, if `mirrored`, of its mirror image."""
    weights = next(vae.parameters())
    for block in blocks:
        sides = [block, block.flip(-1)] if mirrored else [block]
        yield [moment[0].cpu() for side in sides for moment in vae.posterior(side[None].to(weights))]


def recorded_products(out: Path) -> bool:
    """Whether oneDNN computed the shards of a folder; if none says so, as measured here."""
    said = (read_notes(path).get("onednn") for path in sorted(out.glob("shard-*.safetensors")))
    return next((onednn for onednn in said if isinstance(onednn, bool)), onednn_is_faster())


def recorded_sums(out: Path) -> dict[str, str]:
    """The sha256 of each file of a folder that was encoded before, from its index; empty without an index."""
    try:
        return {
            name: about["sha256"] for name, about in read_json(out / LATENT_INDEX, MOST_LIST_BYTES)["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def about(path: Path, known: str | None = None) -> dict:
    """The index entry of a file. A known sha256 is not computed again."""
    return {"bytes": path.stat().st_size, "sha256": known or digest(path)}


def mark_of(made_from: dict, data: str) -> str:
    """The record in a file of latents of what it was made from."""
    return json.dumps(made_from | {"data": data}, sort_keys=True)


def source_of(mark: str) -> dict:
    """The content of a mark without the path of the videos, which may move: their fingerprint is part of the mark."""
    try:
        values = json.loads(mark)
        settings = values["settings"]
        return values | {"settings": {name: z for name, z in settings.items() if name != "data" or z == "shapes"}}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def known_fingerprint(out: Path, clips: Clips, made_from: dict) -> str:
    """The fingerprint of the data, or the former one if existing shards have it, as earlier versions wrote."""
    former = source_of(mark_of(made_from, clips.former_fingerprint))
    kept = any(source_of(read_notes(path).get("made")) == former for path in out.glob("shard-*.safetensors"))
    return clips.former_fingerprint if kept else clips.fingerprint


def read_notes(path: Path) -> dict:
    """The metadata of a shard; empty if it cannot be read."""
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            notes = json.loads((file.metadata() or {}).get("latte", "{}"))
    except (OSError, ValueError, SafetensorError):
        return {}
    return notes if isinstance(notes, dict) else {}


def is_sound(path: Path, mark: str, recorded: str | None) -> bool:
    """Whether a shard exists and is undamaged. Warns if it is damaged.

    Args:
        path: The shard.
        mark: The record of what it must be made from.
        recorded: Its sha256 in the index. Without it, the shard's own digest of its tensors is used.

    Raises:
        ValueError: It was made from something else.
    """
    if not path.is_file():
        return False
    notes = read_notes(path)
    own = notes.pop("sha256", None)
    with utf8_path(path) as readable:
        agrees = lambda: own is not None and own == digest_tensors(load_file(readable), notes)
        sound = digest(path) == recorded if recorded else agrees()
    if source_of(notes.get("made", mark)) != source_of(mark) and (sound or own is None):
        raise ValueError(f"{path} holds latents of different data, settings or VAE: choose another folder for --out")
    if not sound:
        warnings.warn(f"{path} is damaged or was not finished; it is encoded again", stacklevel=3)
    return sound


def write_text_shard(
    path: Path, text: tuple[T5Encoder, Tokenizer], captions: list[str], dtype: torch.dtype, mark: str
) -> None:
    """Write the embeddings of captions, without padding, and of the empty caption, with the padding.

    A dropped caption is replaced by as many tokens of the empty caption as it had, hence the padding.
    """
    encoder, tokenizer = text
    tensors = {}
    for number, caption in enumerate(Progress(captions, desc="captions", unit="caption", leave=False)):
        embedding, mask = embed(encoder, tokenizer, [caption], MAX_LENGTH, True)
        tensors[CAPTION.format(number)] = embedding[0, : int(mask.sum())].to("cpu", dtype)
    tensors[EMPTY] = embed(encoder, tokenizer, [""], MAX_LENGTH, True)[0][0].to("cpu", dtype)
    write_tensors(path, tensors, {"latte": json.dumps({"made": mark})})
