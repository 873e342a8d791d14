"""Latents that a run encoded before its first step, kept in its folder so that it can resume without encoding them."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from latte.files import utf8_path
from latte.train.base_config import TrainConfig
from latte.weights.tensors import write_tensors

KEPT_LATENTS = "latents.safetensors"  # in the folder of a run


class EncodedClips(NamedTuple):
    """The latents of all clips, as scaled Gaussians."""

    mean: Tensor  # (n, f, c, h, w)
    deviation: Tensor  # as mean
    labels: list[int]
    captions: list[str]


class KeptLatents(NamedTuple):
    """The file in which a run keeps its latents.

    Attributes:
        path: The file.
        made_from: Digest of what they depend on: the data, the VAE and the settings. Other latents are not used.
        writes: Whether this process writes the file; one of several does.
    """

    path: Path
    made_from: str
    writes: bool

    def read(self) -> EncodedClips | None:
        """The latents in the file; None if there are none with this origin. Warns if they are damaged."""
        if not self.path.is_file():
            return None
        try:
            with utf8_path(self.path) as readable, safe_open(readable, "pt") as file:
                notes = json.loads((file.metadata() or {}).get("latte", "{}"))
            own = notes.pop("sha256", None)
            if notes.get("made_from") != self.made_from:
                return None
            with utf8_path(self.path) as readable:
                tensors = load_file(readable)
            if own == digest_tensors(tensors, notes):
                return EncodedClips(tensors["mean"], tensors["deviation"], notes["labels"], notes["captions"])
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError):
            pass
        if self.writes:
            warnings.warn(f"{self.path} is damaged; the clips are encoded again", stacklevel=2)
        return None

    def write(self, clips: EncodedClips) -> None:
        """Write latents to the file, atomically. If that fails, warn: the run continues without it."""
        if not self.writes:
            return
        tensors = {"mean": clips.mean, "deviation": clips.deviation}
        notes = {"made_from": self.made_from, "labels": clips.labels, "captions": clips.captions}
        try:
            notes_and_sum = notes | {"sha256": digest_tensors(tensors, notes)}
            write_tensors(self.path, tensors, {"latte": json.dumps(notes_and_sum)})
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{self.path} is not written, so a resumed run encodes again: {error}", stacklevel=2)


def keep_latents(folder: Path, config: TrainConfig, data: dict[str, Any], writes: bool) -> KeptLatents:
    """The file in which the run in a folder keeps its latents.

    Args:
        folder: The run folder.
        config: Its settings. Latents depend on those that a run never changes.
        data: The fingerprints of the data and the VAE, by name.
        writes: Whether this process writes the file.
    """
    fixed = config.defaults().keys() - config.resumable() - config.movable() - config.tunable()
    about = {"data": data, "settings": {name: getattr(config, name) for name in sorted(fixed)}}
    made_from = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return KeptLatents(folder / KEPT_LATENTS, made_from, writes)


def digest_tensors(tensors: dict[str, Tensor], notes: dict) -> str:
    """The sha256 of the tensors of a file, and of its metadata."""
    found = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
