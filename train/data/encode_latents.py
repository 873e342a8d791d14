"""`latte encode`: a data set's latents, once and for all, into a folder that training reads by number."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from latte.files import replacing
from latte.models.t5 import T5Encoder
from latte.models.vae import VideoVAE
from latte.text.embed import MAX_LENGTH, embed
from latte.text.tokenizer import Tokenizer
from latte.train.config import TrainConfig
from latte.train.data import latent_files
from latte.train.data.clips import Clips
from latte.train.data.latent_files import CAPTION, EMPTY, TEXT, Stored, StoredVideo, made_with, open_latents
from latte.weights.folder import digest_folder
from latte.weights.load import find_model
from latte.weights.tensors import digest
from latte.weights.vae_folder import load_vae


def encode(
    config: TrainConfig,
    clips: Clips,
    out: Path,
    text: tuple[T5Encoder, Tokenizer] | None = None,
    shard_size: int = 64,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> Stored:
    """Encode every frame of every video into `out`, shard_size videos a file, and with `text` their captions.

    Stopped and given again it goes on where it stopped: shards that are there stay. With config.flip the mirrored
    videos are encoded too. A video that cannot be read is left out, with a warning. ValueError: the folder holds other
    latents, or too many videos cannot be read.
    """
    folder = find_model(config.vae)
    vae, about = load_vae(folder).to(device), {"settings": made_with(config), "vae": digest_folder(folder)}
    about |= {"data": clips.fingerprint, "shard_size": shard_size, "dtype": str(dtype).removeprefix("torch.")}
    mark, rows, names = json.dumps(about, sort_keys=True), [], []
    for first in tqdm(range(0, clips.videos, shard_size), desc="encoding", unit="shard"):
        path = out / f"shard-{first // shard_size:05d}.safetensors"
        if not path.is_file():
            numbers = range(first, min(first + shard_size, clips.videos))
            write_shard(path, vae, clips, numbers, config.flip, dtype, mark)
        found = read_rows(path, mark)
        names += [path.name] * bool(found)
        rows += found
    if text:
        write_text(out / TEXT, text, sorted({row.caption for row in rows}), dtype, mark)
        names.append(TEXT)
    files = {name: {"bytes": (out / name).stat().st_size, "sha256": digest(out / name)} for name in names}
    stored = Stored(out, about["settings"], clips.fingerprint, about["vae"], clips.names, rows, files, bool(text))
    latent_files.write_index(stored)
    return open_latents(out, check=True)


def write_shard(
    path: Path, vae: VideoVAE, clips: Clips, numbers: range, mirrors: bool, dtype: torch.dtype, mark: str
) -> None:
    """Encode some videos into a file, whole or not at all."""
    tensors, rows = {}, []
    for number in numbers:
        blocks, label, caption = clips.whole(number)
        try:
            sides = list(moments(vae, blocks, mirrors))
        except (OSError, ValueError) as error:
            clips.failures.note(((Path(str(number)), str(error)),), "left out")
            clips.failures.check()
            continue
        for kind, parts in zip(("mean", "logvar", "mirrored.mean", "mirrored.logvar"), zip(*sides)):
            tensors[f"{number}.{kind}"] = torch.cat(parts).to(dtype)
        rows.append([path.name, str(number), len(tensors[f"{number}.mean"]), label, caption])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        # one entry: of several, the order is another in each process
        save_file(tensors, draft, metadata={"latte": json.dumps({"made": mark, "videos": rows})})


@torch.no_grad()
def moments(vae: VideoVAE, blocks: Iterator[Tensor], mirrors: bool) -> Iterator[list[Tensor]]:
    """Mean and log-variance (n, c, h, w) of a video's blocks, one after the other, and of the mirrored ones."""
    weights = next(vae.parameters())
    for block in blocks:
        sides = [block, block.flip(-1)] if mirrors else [block]
        yield [moment[0].cpu() for side in sides for moment in vae.posterior(side[None].to(weights))]


def read_rows(path: Path, mark: str) -> list[StoredVideo]:
    """The videos of a shard. ValueError: it was made of other data, or in another way."""
    with safe_open(path, "pt") as file:
        notes = json.loads((file.metadata() or {}).get("latte", "{}"))
    if notes.get("made") != mark:
        raise ValueError(f"{path} holds latents of other data, settings or another VAE: give another folder for --out")
    return [StoredVideo(*row) for row in notes["videos"]]


def write_text(
    path: Path, text: tuple[T5Encoder, Tokenizer], captions: list[str], dtype: torch.dtype, mark: str
) -> None:
    """Embeddings of captions, each without its padding, and of the empty one with it, which tokens fall back on."""
    encoder, tokenizer = text
    tensors = {}
    for number, caption in enumerate(tqdm(captions, desc="captions", unit="caption", leave=False)):
        table, mask = embed(encoder, tokenizer, [caption], MAX_LENGTH, True)
        tensors[CAPTION.format(number)] = table[0, : int(mask.sum())].to("cpu", dtype)
    tensors[EMPTY] = embed(encoder, tokenizer, [""], MAX_LENGTH, True)[0][0].to("cpu", dtype)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={"latte": json.dumps({"made": mark})})
