"""Folders of latents: index.json, shards of latents of whole videos, and, if asked for, of their captions' embeddings.

shard-00000.safetensors holds, for some videos, NUMBER.mean and NUMBER.logvar (f, c, h, w) of the VAE's posterior,
unscaled, and the same of the mirrored video as NUMBER.mirrored.mean, ...; text.safetensors holds captions' embeddings.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from latte.files import read_json, write_json
from latte.train.config import TrainConfig
from latte.train.data.clips import Failures
from latte.train.data.windows import least_frames
from latte.weights.tensors import digest

LATENT_INDEX, LATENT_FORMAT, TEXT = "index.json", "latte-latents-1", "text.safetensors"
CAPTION, EMPTY = "caption.{}", "empty"  # tensors of TEXT; captions are numbered as sorted
MADE_WITH = ("kind", "data", "classes", "image_size", "transform", "flip")  # settings that latents depend on


@dataclass(frozen=True)
class StoredVideo:
    """A video whose latents are there."""

    shard: str
    name: str  # of its tensors
    frames: int
    label: int
    caption: str


@dataclass
class Stored:
    """What a folder holds; stands for the clips themselves, of which training then needs nothing more."""

    folder: Path
    settings: dict  # see made_with
    source: str  # fingerprint of the data
    vae: str  # digest of the VAE's folder
    names: list[str]  # of classes
    rows: list[StoredVideo]
    files: dict[str, dict]  # name -> bytes and sha256
    text: bool  # whether embeddings of captions are there
    clips: int = 0  # in an epoch, at least; as the run has it

    @property
    def videos(self) -> int:
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all that the numbers of clips mean: videos, and the bytes of their latents."""
        about = [self.source, self.files, [list(asdict(row).values()) for row in self.rows]]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return max(self.videos, self.clips)

    @property
    def captions(self) -> list[str]:
        return sorted({row.caption for row in self.rows})

    @cached_property
    def failures(self) -> Failures:
        return Failures(self.videos, 1.0)

    def video(self, number: int) -> StoredVideo:
        """The video that a clip's number stands for."""
        return self.rows[number % self.videos]

    def check(self, config: TrainConfig, vae: str) -> None:
        """ValueError: a run with these settings and that VAE has other latents."""
        here = made_with(config)
        for name, value in self.settings.items():
            if here.get(name) != value and not (name == "flip" and value):
                advice = f"{name} is {value!r} there, {here.get(name)!r} here"
                raise ValueError(f"{self.folder}: these latents are of other settings: {advice}: encode again")
        least = least_frames(config.selection, config.num_frames, config.frame_interval)
        if short := [row for row in self.rows if row.frames < least]:
            raise ValueError(
                f"{self.folder}: {len(short)} videos, first number {short[0].name}, have fewer than the {least} frames "
                "of a clip: encode again with these settings, which leaves them out"
            )
        if self.vae != vae:
            raise ValueError(f"{self.folder}: these latents are another VAE's: encode again, or name that one")

    @cached_property
    def embeddings(self) -> dict[str, Tensor]:
        """Captions' embeddings (l, d), l their own tokens; that of the empty one with all its padding."""
        return load_file(self.folder / TEXT)


def made_with(config: TrainConfig) -> dict:
    """The settings that latents depend on; of the built-in data, with num_frames for what its whole videos have."""
    values = {name: getattr(config, name) for name in MADE_WITH}
    if config.data != "shapes":
        return values
    return values | {"clips": config.clips, "num_frames": config.shape_frames, "seed": config.seed}


def write_index(latents: Stored) -> Path:
    """Write the list of what the folder holds, whole or not at all."""
    values = {"format": LATENT_FORMAT, "settings": latents.settings, "source": latents.source, "vae": latents.vae}
    values |= {"classes": latents.names, "text": latents.text, "files": latents.files}
    values |= {"videos": [list(asdict(row).values()) for row in latents.rows]}
    return write_json(latents.folder / LATENT_INDEX, values)


def open_latents(folder: Path, check: bool = False) -> Stored:
    """A folder of latents. check: its files' sha256 too, which takes a while.

    FileNotFoundError: there is none. ValueError: it is no such folder, unfinished, or a file is not what was written.
    """
    if not (folder / LATENT_INDEX).is_file():
        raise FileNotFoundError(f"no {LATENT_INDEX} in {folder}: `latte encode` writes one, when all is encoded")
    values = read_json(folder / LATENT_INDEX)
    if values.get("format") != LATENT_FORMAT:
        raise ValueError(f"{folder / LATENT_INDEX} is not a list that `latte encode` wrote (format {LATENT_FORMAT})")
    try:
        rows = [StoredVideo(*row) for row in values["videos"]]
        latents = Stored(
            folder, values["settings"], values["source"], values["vae"], values["classes"], rows, values["files"],
            values["text"],
        )  # fmt: skip
        shards = {row.shard for row in rows} | ({TEXT} if latents.text else set())
        sound = shards == latents.files.keys() and all(Path(name).name == name for name in shards)
        sizes = {name: about["bytes"] for name, about in latents.files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / LATENT_INDEX} is damaged: encode again") from error
    if not sound or not rows:
        raise ValueError(f"{folder / LATENT_INDEX} is damaged: encode again")
    for name, size in sizes.items():
        path = folder / name
        changed = not path.is_file() or path.stat().st_size != size
        if changed or (check and digest(path) != latents.files[name]["sha256"]):
            raise ValueError(f"{path} is missing or not what was written: delete it and encode again")
    return latents
