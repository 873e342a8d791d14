"""Latents that a run encodes before its first step, kept in its folder so that it can resume without encoding them.

They are kept in parts, each written as soon as it is encoded: a run that is stopped meanwhile continues where it was.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from latte.fast.onednn import onednn_is_faster
from latte.files import utf8_path
from latte.train.base_config import TrainConfig
from latte.weights.tensors import write_tensors

KEPT_LATENTS = "latents"  # in the folder of a run: a folder with a file for each part
KEPT_TOGETHER = "latents.safetensors"  # the single file of earlier versions
CLIPS_OF_A_PART = 64


def parts_of(count: int) -> Iterator[range]:
    """The numbers of the clips in each part, of `count` clips."""
    for first in range(0, count, CLIPS_OF_A_PART):
        yield range(first, min(first + CLIPS_OF_A_PART, count))


class EncodedClips(NamedTuple):
    """The latents of some clips, as scaled Gaussians."""

    mean: Tensor  # (n, f, c, h, w)
    deviation: Tensor  # as mean
    labels: list[int]
    captions: list[str]


class KeptLatents(NamedTuple):
    """The files in which a run keeps its latents.

    Attributes:
        run: The folder of the run.
        made_from: Digest of what they depend on: the data, the VAE and the settings. Other latents are not used.
        writes: Whether this process writes the files; one of several does.
    """

    run: Path
    made_from: str
    writes: bool

    def read(self, numbers: range) -> EncodedClips | None:
        """The latents of a part, the clips with these numbers. None without them; warns if they are damaged."""
        return self.read_file(self.path(numbers), {"clips": [numbers.start, numbers.stop]})

    def read_together(self) -> EncodedClips | None:
        """All latents, from the single file of an earlier version. None without it; warns if it is damaged."""
        if (self.run / KEPT_LATENTS).is_dir():
            return None
        return self.read_file(self.run / KEPT_TOGETHER, {})

    def write(self, numbers: range, clips: EncodedClips) -> None:
        """Write the latents of a part, atomically. If that fails, warn: the run continues without it."""
        if not self.writes:
            return
        tensors = {"mean": clips.mean, "deviation": clips.deviation}
        notes = {"made_from": self.made_from, "clips": [numbers.start, numbers.stop]}
        notes |= {"labels": clips.labels, "captions": clips.captions}
        try:
            notes_and_sum = notes | {"sha256": digest_tensors(tensors, notes)}
            write_tensors(self.path(numbers), tensors, {"latte": json.dumps(notes_and_sum)})
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error  # the same for all parts, so that one warning is shown
            message = f"{self.run / KEPT_LATENTS} lacks parts, so a resumed run encodes their clips again: {reason}"
            warnings.warn(message, stacklevel=2)

    def path(self, numbers: range) -> Path:
        """The file of a part."""
        return self.run / KEPT_LATENTS / f"part-{numbers.start // CLIPS_OF_A_PART:05d}.safetensors"

    def read_file(self, path: Path, holds: dict[str, Any]) -> EncodedClips | None:
        """The latents in a file, unless its metadata say that they are others than those that `holds` describes."""
        if not path.is_file():
            return None
        try:
            with utf8_path(path) as readable, safe_open(readable, "pt") as file:
                notes = json.loads((file.metadata() or {}).get("latte", "{}"))
            own = notes.pop("sha256", None)
            if not (holds | {"made_from": self.made_from}).items() <= notes.items():
                return None
            with utf8_path(path) as readable:
                tensors = load_file(readable)
            if own == digest_tensors(tensors, notes):
                return EncodedClips(tensors["mean"], tensors["deviation"], notes["labels"], notes["captions"])
        except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError):
            pass
        if self.writes:
            warnings.warn(f"{path} is damaged; its clips are encoded again", stacklevel=3)
        return None


def keep_latents(run: Path, config: TrainConfig, data: dict[str, Any], writes: bool) -> KeptLatents:
    """The files in which a run keeps its latents.

    Args:
        run: The run folder.
        config: Its settings. Latents depend on those that a run never changes.
        data: The fingerprints of the data and the VAE, by name.
        writes: Whether this process writes the files.
    """
    fixed = config.defaults().keys() - config.resumable() - config.movable() - config.tunable()
    about = {"data": data, "settings": {name: getattr(config, name) for name in sorted(fixed)}}
    about |= {"onednn": True} if onednn_is_faster() else {}  # it rounds differently
    made_from = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return KeptLatents(run, made_from, writes)


def digest_tensors(tensors: dict[str, Tensor], notes: dict) -> str:
    """The sha256 of the tensors of a file, and of its metadata."""
    found = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
