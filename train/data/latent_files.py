"""Folders of latents that `latte encode` writes and training reads (`latents=FOLDER`).

index.json lists the videos and files. shard-00000.safetensors and so on each hold, for several videos, the mean and the
log-variance of the VAE's posterior, unscaled, as NUMBER.mean and NUMBER.logvar (f, c, h, w); NUMBER.mirrored.mean and
NUMBER.mirrored.logvar are those of the mirrored video. text.safetensors, which is optional, holds caption embeddings.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from latte.arguments import counted
from latte.files import MOST_LIST_BYTES, read_json, utf8_path, write_json
from latte.train.base_config import TrainConfig
from latte.train.data.content_digests import ContentDigests, progress
from latte.train.data.failures import Failures
from latte.train.data.windows import min_video_frames

LATENT_INDEX, LATENT_FORMAT, TEXT = "index.json", "latte-latents-1", "text.safetensors"
CAPTION, EMPTY = "caption.{}", "empty"  # tensors of TEXT: captions are numbered in sorted order
LATENT_SETTINGS = ("kind", "data", "classes", "image_size", "transform", "flip")  # settings that change the latents


@dataclass(frozen=True)
class StoredVideo:
    """A video whose latents are in a shard."""

    shard: str  # file name
    name: str  # prefix of its tensors
    frames: int
    label: int
    caption: str


@dataclass
class LatentFolder:
    """A folder of latents: training data (see `TrainingData`) that no longer needs the videos.

    Attributes:
        folder: The folder.
        settings: The settings that the latents depend on; see `latent_settings`.
        data_fingerprint: Fingerprint of the clips that were encoded.
        vae_digest: Digest of the VAE's folder.
        names: Names of the classes; empty for unconditional training.
        videos: The videos, in the order of their numbers.
        files: File name -> its size, "bytes", and its "sha256".
        has_text: Whether the captions' embeddings are stored too.
        text_encoder: The "name", "path" and "sha256" of their encoder; empty if there are none, or unknown.
        vae: The path of the VAE that encoded the videos, as it was given; empty if it is unknown.
        clips_per_epoch: Number of clips that a run asks for; there is at least one per video.
    """

    folder: Path
    settings: dict
    data_fingerprint: str
    vae_digest: str
    names: list[str]
    videos: list[StoredVideo]
    files: dict[str, dict]
    has_text: bool
    text_encoder: dict[str, str] = field(default_factory=dict)
    vae: str = ""
    clips_per_epoch: int = 0

    @property
    def num_videos(self) -> int:
        return len(self.videos)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the videos and of the bytes of their latents: it changes when a clip's number changes meaning."""
        about = [self.data_fingerprint, self.files, [list(asdict(video).values()) for video in self.videos]]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @property
    def former_fingerprint(self) -> str:
        return self.fingerprint

    def verify(self, names: Iterable[str]) -> None:
        """Raise ValueError if a file has changed since it was written. Files known to be unmodified are not read."""
        with ContentDigests(self.folder) as digests:
            for name in progress(sorted(names)):
                if digests.of(self.folder / name) != self.files[name]["sha256"]:
                    raise ValueError(f"{self.folder / name} is damaged: run `latte encode` again, which repairs it")

    def __len__(self) -> int:
        return max(self.num_videos, self.clips_per_epoch)

    @property
    def captions(self) -> list[str]:
        """All distinct captions, sorted."""
        return sorted({video.caption for video in self.videos})

    @cached_property
    def failures(self) -> Failures:
        """Always empty: videos that could not be read were left out when the folder was written."""
        return Failures(self.num_videos, 1.0)

    def video(self, index: int) -> StoredVideo:
        """Return the video that clip `index` is taken from."""
        return self.videos[index % self.num_videos]

    def require_match(self, config: TrainConfig, vae_digest: str) -> None:
        """Make sure that a run can use these latents.

        Latents that were encoded with `flip` also serve a run without it. The videos' location does not matter here.

        Args:
            config: The run's settings.
            vae_digest: Digest of the run's VAE.

        Raises:
            ValueError: The run's settings or its VAE would give other latents, or some videos are too short for its
                clips.
        """
        wanted = latent_settings(config)
        moved = {"data"} if "shapes" not in (self.settings.get("data"), config.data) else set()
        for name, value in self.settings.items():
            if name not in moved and wanted.get(name) != value and not (name == "flip" and value):
                raise ValueError(
                    f"{self.folder}: these latents were encoded with {name}={value!r}, but the run has "
                    f"{wanted.get(name)!r}: encode again"
                )
        needed = min_video_frames(config.selection, config.num_frames, config.frame_interval)
        if short := [video for video in self.videos if video.frames < needed]:
            count = counted(len(short), "video has", "videos have")
            raise ValueError(
                f"{self.folder}: {count} fewer than the {needed} frames of a clip, the first is {short[0].name}: "
                "encode again with these settings, which leaves them out"
            )
        if self.vae_digest != vae_digest:
            raise ValueError(f"{self.folder}: {self.advice_on_vae(config.vae)}")

    def advice_on_vae(self, other: str) -> str:
        """Say that another VAE encoded these latents than the one at this path, and what to do."""
        if self.vae == other:
            return f"the VAE at {other} has changed since it encoded these latents: encode again, or put it back"
        encoded = f"vae={self.vae}" if self.vae else "the one that was used, vae=..."
        return f"these latents were not encoded with the VAE at {other}: give {encoded}, or encode again"

    @cached_property
    def embeddings(self) -> dict[str, Tensor]:
        """Embeddings of the captions, (l, d) without padding, and of the empty caption, with all its padding."""
        self.verify([TEXT])
        with utf8_path(self.folder / TEXT) as readable:
            return load_file(readable)


def latent_settings(config: TrainConfig) -> dict:
    """Return the settings that latents depend on.

    For the built-in shapes, these include the number of frames of a whole motion, as num_frames.
    """
    values = {name: getattr(config, name) for name in LATENT_SETTINGS}
    if config.data != "shapes":
        return values
    return values | {"clips": config.clips, "num_frames": config.shape_frames, "seed": config.seed}


def encoder_of(clips: object) -> dict[str, str]:
    """The "name", "path" and "sha256" of the text encoder of stored captions; empty for other clips.

    The path is as `latte encode` was given it; folders of earlier versions do not have it.
    """
    return getattr(clips, "text_encoder", {})


def write_latent_index(latents: LatentFolder) -> Path:
    """Write index.json atomically. It comes last: a folder without it is not finished."""
    values = {"format": LATENT_FORMAT, "settings": latents.settings, "source": latents.data_fingerprint}
    values |= {"vae": latents.vae_digest, "classes": latents.names, "text": latents.has_text, "files": latents.files}
    values |= {"text_encoder": latents.text_encoder} if latents.text_encoder else {}
    values |= {"vae_path": latents.vae} if latents.vae else {}
    values |= {"videos": [list(asdict(video).values()) for video in latents.videos]}
    return write_json(latents.folder / LATENT_INDEX, values)


def open_latent_folder(folder: Path) -> LatentFolder:
    """Open a folder of latents, whose files must have the sizes that they were written with.

    Raises:
        FileNotFoundError: There is no index.json: the folder does not exist or is not finished.
        ValueError: The index is not an index of latents or is damaged, or a file is missing or has changed.
    """
    index = folder / LATENT_INDEX
    if not index.is_file():
        raise FileNotFoundError(f"no {LATENT_INDEX} in {folder}: run `latte encode`, which writes it last")
    values = read_json(index, MOST_LIST_BYTES)
    if values.get("format") != LATENT_FORMAT:
        raise ValueError(f"{index} is not an index by `latte encode` (format {LATENT_FORMAT})")
    try:
        videos = [StoredVideo(*row) for row in values["videos"]]
        head = [values[key] for key in ("settings", "source", "vae", "classes")]
        latents = LatentFolder(folder, *head, videos, values["files"], values["text"])
        if encoder := values.get("text_encoder"):  # earlier versions did not record it
            known = ("name", "sha256", *(["path"] if "path" in encoder else []))
            latents.text_encoder.update({key: str(encoder[key]) for key in known})
        latents.vae = str(values.get("vae_path", ""))  # nor this
        expected = {video.shard for video in videos} | ({TEXT} if latents.has_text else set())
        sound = expected == latents.files.keys() and all(Path(name).name == name for name in expected)
        sound = sound and all(isinstance(about["sha256"], str) for about in latents.files.values())
        sizes = {name: about["bytes"] for name, about in latents.files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is damaged: run `latte encode` again") from error
    if not sound or not videos:
        raise ValueError(f"{index} is damaged: run `latte encode` again")
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"{path} is missing or has changed: run `latte encode` again")
    return latents
