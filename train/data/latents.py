"""The sources of a step's latents.

There are three sources, by `config.latents`: "once" encodes every clip before the first step; "step" reads and encodes
new windows in each step; a folder holds latents that `latte encode` stored. With the same data, the last two give the
same numbers up to rounding. Each source has `prepare(micro_batches, first)`, called once before step `first`, and
`batch(step, slots)`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.files import refuse_pointer, utf8_path
from latte.models.vae import VideoVAE
from latte.processes import Ranks
from latte.progress import Progress
from latte.train.base_config import TrainConfig
from latte.train.data.batches import Batches
from latte.train.data.clip_order import ClipOrder, Draw
from latte.train.data.clips import Clips, TrainingData
from latte.train.data.folders import open_clips
from latte.train.data.kept_latents import EncodedClips, KeptLatents, parts_of
from latte.train.data.latent_files import LatentFolder, StoredVideo, open_latent_folder
from latte.train.data.windows import choose_frames


class Latents(NamedTuple):
    """The latents of some slots, as scaled Gaussians: those of a clip, then those of its still images."""

    mean: Tensor  # (b, f + num_images, c, h, w)
    deviation: Tensor  # as mean
    labels: Tensor  # (b, 1 + num_images)
    captions: list[list[str]]  # b lists of 1 + num_images


def scaled_posterior(vae: VideoVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """Encode videos.

    Args:
        vae: The VAE.
        video: Pixels (b, f, 3, h, w) in [-1, 1].

    Returns:
        Mean and standard deviation of the posterior, times the VAE's scaling factor; (b, f, c, h', w') in float32.
    """
    weights, scale = next(vae.parameters()), vae.config.scaling_factor
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
        mean, logvar = vae.posterior(video.to(weights))
    return scale * mean.float(), scale * (0.5 * logvar.float()).exp()


class LatentSource(Protocol):
    """A source of a step's latents.

    Attributes:
        kept: Where the latents that `prepare` encodes are kept for a resumed run; None: nowhere.
        ranks: The processes that share the encoding in `prepare`.
    """

    kept: KeptLatents | None = None
    ranks: Ranks = Ranks()

    def prepare(self, micro_batches: list[range], first: int) -> None:
        """Get the latents ready before step `first`; a micro-batch is some slots of a step."""

    def batch(self, step: int, slots: range) -> Latents:
        """Return the latents of some slots."""


class EncodedOnce(LatentSource):
    """Latents of clips that are encoded before the first step: clip i is one window of its video for the whole run.

    Short videos have fewer windows than clips. A clip with the same pixels as an earlier one gets its latents.
    """

    def __init__(self, vae: VideoVAE, clips: Clips, config: TrainConfig):
        self.vae, self.clips, self.config, self.order = vae, clips, config, ClipOrder(len(clips), config)
        self.mean = self.deviation = torch.empty(0)
        self.first_with: dict[bytes, int] = {}  # sha256 of the pixels of each encoded window: the first such clip
        self.of_this_part: dict[int, tuple[Tensor, Tensor]] = {}  # latents that are not yet in mean and deviation

    def prepare(self, micro_batches: list[range], first: int) -> None:
        """Encode all clips, or read the kept latents; mean and deviation (n, f, c, h, w) stay on the CPU."""
        found = self.kept.read_together() if self.kept else None
        if self.lacks(found) or found is None:
            found = self.encode()
        self.mean, self.deviation, self.labels, self.captions = found

    def lacks(self, found: EncodedClips | None) -> bool:
        """Whether any process did not find kept latents: then all processes encode them together."""
        return bool(self.ranks.sum(torch.tensor(float(found is None))))

    def encode(self) -> EncodedClips:
        """Read the kept parts, and encode the others, which are kept from then on."""
        count = len(self.clips)
        labels: list[int] = []
        captions: list[str] = []
        with Progress(desc="encoding", total=count, unit="clip", leave=False) as bar:
            for numbers in parts_of(count):
                part = self.kept.read(numbers) if self.kept else None
                if self.lacks(part) or part is None:
                    part = self.encode_part(numbers, bar)
                    if self.kept:
                        self.kept.write(numbers, part)
                else:
                    bar.skip(len(numbers))
                if not labels:
                    self.mean, self.deviation = (z.new_empty(count, *z.shape[1:]) for z in part[:2])
                place = slice(numbers.start, numbers.stop)
                self.mean[place], self.deviation[place] = part.mean, part.deviation
                labels += part.labels
                captions += part.captions
        self.first_with.clear()
        return EncodedClips(self.mean, self.deviation, labels, captions)

    def encode_part(self, numbers: range, bar: Progress) -> EncodedClips:
        """Encode the clips with these numbers, an equal share in each process."""
        rows = []
        for row, failed in bar.each(self.ranks.share(len(numbers), lambda i: self.encode_clip(numbers[i]))):
            self.clips.failures.note_replaced(failed)
            rows.append(row)
        self.of_this_part.clear()
        means, deviations, labels, captions = zip(*rows)
        return EncodedClips(torch.stack(means), torch.stack(deviations), list(labels), list(captions))

    def encode_clip(self, i: int) -> tuple[tuple[Tensor, Tensor, int, str], tuple[tuple[Path, str], ...]]:
        """Mean, deviation, label and caption of a clip, and the videos that could not be read for it, with reasons."""
        clip = self.clips.clip(i, generator(self.config.seed, i, Draw.WINDOW))
        return (*self.encode_window(i, clip.video), clip.label, clip.caption), clip.failed

    def encode_window(self, i: int, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the pixels of clip i, encoded unless this process has encoded the same ones."""
        first = self.first_with.setdefault(hashlib.sha256(video.contiguous().numpy()).digest(), i)
        if first == i:
            mean, deviation = scaled_posterior(self.vae, video[None])
            self.of_this_part[i] = mean[0].cpu(), deviation[0].cpu()
        return self.of_this_part[first] if first in self.of_this_part else (self.mean[first], self.deviation[first])

    def batch(self, step: int, slots: range) -> Latents:
        """Return the latents of some slots, on the CPU."""
        chosen = [self.order.slot(step, slot) for slot in slots]
        stills = [torch.randint(self.mean.shape[1], (len(s.images),), generator=s.image_random) for s in chosen]
        mean, deviation = (
            torch.stack([torch.cat([z[s.clip], z[s.images, still]]) for s, still in zip(chosen, stills)])
            for z in (self.mean, self.deviation)
        )
        numbers = [[s.clip, *s.images] for s in chosen]
        labels = torch.tensor([[self.labels[i] for i in row] for row in numbers])
        return Latents(mean, deviation, labels, [[self.captions[i] for i in row] for row in numbers])


class EncodedEachStep(LatentSource):
    """Latents of videos that are read and encoded in each step, from newly drawn windows."""

    def __init__(self, vae: VideoVAE, clips: Clips, config: TrainConfig):
        self.vae, self.batches = vae, Batches(clips, config)

    def prepare(self, micro_batches: list[range], first: int) -> None:
        """Start to read ahead."""
        self.batches.prepare(micro_batches, first)

    def batch(self, step: int, slots: range) -> Latents:
        """Return the latents of some slots, on the VAE's device."""
        batch = self.batches.batch(step, slots)
        return Latents(*scaled_posterior(self.vae, batch.videos), batch.labels, batch.captions)


class ReadFromFolder(LatentSource):
    """Latents of windows that are newly drawn in each step, read from a folder of latents of whole videos."""

    def __init__(self, vae: VideoVAE, clips: LatentFolder, config: TrainConfig):
        self.scale, self.clips, self.config = vae.config.scaling_factor, clips, config
        self.order, self.open_shards = ClipOrder(len(clips), config), {}

    def prepare(self, micro_batches: list[range], first: int) -> None:
        """Make sure that no file is damaged. The files are read on demand."""
        self.clips.verify(self.clips.files)

    def batch(self, step: int, slots: range) -> Latents:
        """Return the latents of some slots, on the CPU."""
        moments, videos = zip(*(self.read_slot(step, slot) for slot in slots))
        mean, deviation = (torch.stack(column) for column in zip(*moments))
        labels = torch.tensor([[video.label for video in row] for row in videos])
        return Latents(mean, deviation, labels, [[video.caption for video in row] for row in videos])

    def read_slot(self, step: int, slot: int) -> tuple[list[Tensor], list[StoredVideo]]:
        """Read the mean and deviation of a slot, its clip and then its images, and the videos that they come from."""
        chosen, cfg = self.order.slot(step, slot), self.config
        videos = [self.clips.video(number) for number in (chosen.clip, *chosen.images)]
        frames = choose_frames(cfg.selection, videos[0].frames, cfg.num_frames, cfg.frame_interval, chosen.clip_random)
        parts = [self.read(videos[0], frames, chosen.clip_random)]
        for video in videos[1:]:
            still = [int(torch.randint(video.frames, (), generator=chosen.image_random))]
            parts.append(self.read(video, still, chosen.image_random))
        return [torch.cat(column) for column in zip(*parts)], videos

    def read(self, video: StoredVideo, frames: Sequence[int], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Read the scaled mean and deviation of some frames, mirrored at random if `config.flip`."""
        mirrored = self.config.flip and bool(torch.rand((), generator=random) < 0.5)
        if video.shard not in self.open_shards:
            refuse_pointer(self.clips.folder / video.shard)
            with utf8_path(self.clips.folder / video.shard) as readable:
                self.open_shards[video.shard] = safe_open(readable, "pt")
        shard, first = self.open_shards[video.shard], min(frames)
        name, offsets = f"{video.name}{'.mirrored' if mirrored else ''}", [frame - first for frame in frames]
        mean, logvar = (shard.get_slice(f"{name}.{kind}")[first : max(frames) + 1] for kind in ("mean", "logvar"))
        return self.scale * mean[offsets].float(), self.scale * (0.5 * logvar[offsets].float()).exp()


SOURCES = {"once": EncodedOnce, "step": EncodedEachStep}  # sources that encode clips, by config.latents


def open_data(config: TrainConfig) -> Clips | LatentFolder:
    """Open the data of a run: the folder of latents that `config.latents` names, or the clips of `config.data`."""
    if config.latents in SOURCES:
        return open_clips(config)
    return replace(open_latent_folder(Path(config.latents)), clips_per_epoch=config.clips)


def open_latent_source(vae: VideoVAE, vae_digest: str, clips: TrainingData, config: TrainConfig) -> LatentSource:
    """Return the source of latents that `config.latents` names.

    Raises:
        ValueError: `clips` is not what `config.latents` names, or is a folder of latents that this run cannot use; see
            `LatentFolder.require_match` and `require_same_videos`.
    """
    if isinstance(clips, LatentFolder) != (config.latents not in SOURCES):
        needed = "clips" if config.latents in SOURCES else "a folder of latents"
        raise ValueError(
            f"latents={config.latents} needs {needed}, not a {type(clips).__name__}: use open_data(config)"
        )
    if isinstance(clips, LatentFolder):
        clips.require_match(config, vae_digest)
        require_same_videos(clips, config)
        return ReadFromFolder(vae, clips, config)
    return SOURCES[config.latents](vae, clips, config)


def require_same_videos(latents: LatentFolder, config: TrainConfig) -> None:
    """Make sure that `config.data` names the videos that were encoded, if it is not the path that was encoded.

    Raises:
        ValueError: It names other videos, or none.
    """
    encoded = latents.settings.get("data")
    if config.data == encoded:  # the latents need no videos: these may be gone
        return
    try:
        clips = open_clips(config)
        same = latents.data_fingerprint in (clips.former_fingerprint, clips.fingerprint)
        reason = "they are of other videos"
    except (OSError, ValueError) as error:
        same, reason = False, str(error).partition(": give data=")[0]
    if not same:
        raise ValueError(
            f"{latents.folder}: these latents were encoded with data={encoded!r}, but the run has {config.data!r}: "
            f"{reason}; give data={encoded}, even if it no longer exists, or encode again"
        )
