"""One set of videos under several protocols at once: the result under each, and what distinguishes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latte.arguments import counted
from latte.eval.array_clips import ArrayClips
from latte.eval.clip_sets import ClipSet
from latte.eval.clip_windows import ClipWindow
from latte.eval.features import ClipSource, Detector, Store, fill
from latte.eval.fvd_result import FVDResult
from latte.eval.inputs import Reading, Videos, find_device, given_features
from latte.eval.model_clips import ModelVideos
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.protocol import PROTOCOLS, Protocol, adjusted, from_exact
from latte.eval.sides import check_given
from latte.eval.statistics import FeatureSet
from latte.eval.video_comparison import measure_distance


@dataclass(frozen=True)
class ProtocolTable:
    """Results by protocol; `print(table)` is one line for each.

    Attributes:
        results: Results by the protocols' names.
        left_out: Why other protocols could not be followed, by name.
    """

    results: dict[str, FVDResult]
    left_out: dict[str, str]

    def to_dict(self) -> dict:
        """As `latte eval --protocol all --out` writes it."""
        return {"protocols": {name: each.to_dict() for name, each in self.results.items()}, "left_out": self.left_out}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ProtocolTable":
        """The inverse of to_dict. Raises ValueError if these are not such values."""
        found, left_out = (values.get(name) if isinstance(values, dict) else None for name in ("protocols", "left_out"))
        if not isinstance(found, dict) or not found or not isinstance(left_out, dict):
            raise ValueError("this is not a result of `latte eval --protocol all`")
        results = {name: FVDResult.from_dict(each) for name, each in found.items()}
        return cls(results, {name: str(why) for name, why in left_out.items()})

    def __str__(self) -> str:
        """The lines, the lowest distance first, and then the protocols that were left out."""
        wide = max(map(len, (*self.results, *self.left_out)))
        clips = lambda result: f"{result.generated.get('clips')} / {result.real.get('clips')}"
        one = next(iter(self.results.values()))
        header = f"  {'protocol':{wide}}  {'distance':>9}  {'infinite N':>10}  {'floor':>8}  {'clips':>11}"
        lines = [f"{one.detector['name']}, {one.detector['network']}", f"{header}  differs from exact in"]
        for name, result in sorted(self.results.items(), key=lambda item: item[1].value):
            infinite, floor = (f"{each.value:.2f}" if each else "-" for each in (result.infinite, result.floor))
            what = ", ".join(from_exact(result.protocol or {})) or "nothing"
            lines.append(
                f"  {name:{wide}}  {result.value:9.2f}  {infinite:>10}  {floor:>8}  {clips(result):>11}  {what}"
            )
        lines += [f"  {name:{wide}}  left out: {why.partition(': ')[0]}" for name, why in self.left_out.items()]
        lines.append("  clips: generated / real; distances under different protocols are not comparable")
        return "\n".join(lines)


def fvd_by_protocol(
    real: Videos,
    generated: Videos,
    *,
    i3d: str | Path | None = None,
    protocols: Sequence[str | Protocol] = tuple(PROTOCOLS),
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> ProtocolTable:
    """FVD under several protocols. Each clip is read once, and each feature that protocols share is computed once.

    Args:
        real: See `fvd`. One side may be features or statistics.
        generated: See `fvd`.
        i3d: Path to i3d_torchscript.pt or i3d_pretrained_400.pt.
        protocols: Names, or latte.eval.protocol.Protocol objects. A protocol that the videos are too short for, or
            otherwise do not fit, is left out.
        num_videos: See `fvd`.
        frames: See `fvd`.
        seed: See `fvd`.
        real_crop: See `fvd`.
        device: See `fvd`.
        features: See `fvd`.
        progress: See `fvd`.

    Returns:
        A result for each protocol.

    Raises:
        ValueError: See `fvd`; or no protocol can be followed. FileNotFoundError: See `fvd`.
    """
    chosen = [adjusted(name, clips=num_videos, frames=frames, real_crop=real_crop) for name in protocols]
    place = find_device(device)
    readings = [Reading(protocol, seed, features, progress=progress) for protocol in chosen]
    return measure_protocols(real, generated, lambda protocol: i3d_detector(i3d, protocol, place), readings)


def measure_protocols(
    real: Videos,
    generated: Videos,
    make_detector: Callable[[Protocol], Detector],
    readings: Sequence[Reading],
) -> ProtocolTable:
    """The distance between two sets of videos under several protocols, in one pass over the clips of each side.

    Args:
        real: See `fvd`.
        generated: See `fvd`.
        make_detector: Called once for each way of resizing and eps of batch norms among the protocols.
        readings: One for each protocol; they differ in nothing else.

    Raises:
        ValueError: Both sides are features, a side is a model whose videos are not kept, or no protocol fits.
    """
    videos = {"real": real, "generated": generated}
    given = {name: given_features(side, name) for name, side in videos.items()}
    if all(given.values()):
        raise ValueError("features and statistics on both sides have one protocol already: name videos on one side")
    if callable(generated):
        videos["generated"] = generated = generated()
    if isinstance(generated, ModelVideos) and generated.folder is None:
        raise ValueError("several protocols take clips of the same videos: keep the model's in a folder (samples)")
    left_out: dict[str, str] = {}
    opened: dict[str, dict[str, ClipSource]] = {}
    for reading in readings:
        name = reading.protocol.name
        try:
            check_given(given, reading.protocol)
            opened[name] = {side: reading.open(videos[side], side) for side in videos if not given[side]}
        except ValueError as error:
            left_out[name] = str(error)
    if not opened:
        raise ValueError(f"no protocol can be followed; {readings[0].protocol.name}: {next(iter(left_out.values()))}")
    used = [reading for reading in readings if reading.protocol.name in opened]
    ways: dict[tuple[str, float], Detector] = {}
    for protocol in (reading.protocol for reading in used):
        if (way := (protocol.resize, protocol.eps)) not in ways:
            ways[way] = make_detector(protocol)
    detectors = {r.protocol.name: ways[r.protocol.resize, r.protocol.eps] for r in used}
    real_sets, generated_sets = (
        dict.fromkeys(opened, found)
        if (found := given[side])
        else shared_features({name: sets[side] for name, sets in opened.items()}, detectors, used[0], side)
        for side in ("real", "generated")
    )
    results = {}
    for protocol in (reading.protocol for reading in used):
        sides = real_sets[protocol.name], generated_sets[protocol.name]
        results[protocol.name] = measure_distance(*sides, protocol, detectors[protocol.name], used[0].seed)
    return ProtocolTable(results, left_out)


def shared_features(
    sets: Mapping[str, ClipSource], detectors: Mapping[str, Detector], reading: Reading, side: str
) -> dict[str, FeatureSet]:
    """The features of several sets of clips of the same videos; what sets have in common is computed once.

    Args:
        sets: Clips by the name of their protocol.
        detectors: The detectors, by the same names.
        reading: Where features are cached, and who shares the work.
        side: "real" or "generated", for the progress bar.

    Returns:
        Features by name, without the clips that cannot be read.

    Raises:
        ValueError: Too many videos cannot be read, or fewer than two clips are left.
    """
    records = {str(detector.record): detector for detector in detectors.values()}
    wanted: dict[ClipWindow, set[str]] = {}
    for name, clips in sets.items():
        for clip in clips.clips:
            wanted.setdefault(clip, set()).add(str(detectors[name].record))
    groups: dict[tuple, list[ClipWindow]] = {}
    for clip, needed in wanted.items():
        groups.setdefault((clip.frames, *sorted(needed)), []).append(clip)
    rows: dict[tuple[str, ClipWindow], Tensor] = {}
    unreadable: set[ClipWindow] = set()
    for (_, *records_of), group in groups.items():
        source = with_clips(list(sets.values()), group)
        folder = Path(reading.cache) if reading.cache else None
        stores = [Store(folder, source, records[record]) for record in records_of]
        among = reading.ranks.rank, reading.ranks.size, reading.progress and reading.ranks.first
        fill(stores, *among, f"{side} features")
        reading.ranks.wait()
        for record, store in zip(records_of, stores):
            rows |= {(record, clip): row for clip, row in zip(group, store.all())}
            unreadable |= {group[i] for i in store.unreadable()}
    found = {}
    for name, clips in sets.items():
        if isinstance(clips, ClipSet):
            clips.leave_out(clip for clip in clips.clips if clip in unreadable)
        kept = [rows[str(detectors[name].record), clip] for clip in clips.clips if clip not in unreadable]
        if len(kept) < 2:
            raise ValueError(
                f"protocol {name}: only {len(kept)} of {counted(len(clips.clips), 'clip')} could be decoded"
            )
        found[name] = FeatureSet(clips.about, torch.stack(kept))
    return found


def with_clips(sets: Sequence[ClipSource], clips: Sequence[ClipWindow]) -> ClipSource:
    """A set of other clips from the videos that all of these sets come from."""
    first = sets[0]
    if isinstance(first, ClipSet):
        stored = {name: about for each in sets if isinstance(each, ClipSet) for name, about in each.stored.items()}
        return replace(first, clips=tuple(clips), stored=stored, unreadable={})
    if isinstance(first, ArrayClips):
        return replace(first, clips=tuple(clips))
    raise ValueError(f"clips of a {type(first).__name__} cannot be shared between protocols")
