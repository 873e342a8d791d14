"""Sets of clips that a protocol takes from video files, and reading them."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from torch import Tensor

from latte.eval.clip_windows import ClipWindow, choose_windows, fingerprint
from latte.eval.protocol import Protocol
from latte.eval.unreadable import UNREADABLE, check_unreadable, note_unreadable
from latte.eval.video_folders import (
    content,
    describe_files,
    stored_as,
    taken_though_damaged,
    video_names,
)
from latte.sample_record import holds_set, read_digests, read_record
from latte.video.array_ranges import refuse_two_ranges
from latte.video.read import count_frames, read_video

AHEAD_BYTES = 1 << 28  # of clips that are decoded ahead
LOSSLESS = ("png", "bmp", "npz", "npy", "ffv1", "rawvideo", "huffyuv", "ffvhuff")


@dataclass(frozen=True)
class ClipSet:
    """Clips of video files.

    Attributes:
        root: The folder that the names of the clips are below.
        clips: The clips, in the protocol's order.
        short: The names of videos that were left out as too short.
        stored: The codec and the frame size, such as "320x240", of the chosen clips' videos before cropping, by name.
        unreadable: Why videos could not be read, by name. Clips that cannot be decoded are added when they are read.
        damaged: The paths of damaged videos that are read with FFmpeg's error concealment.
    """

    root: Path
    clips: tuple[ClipWindow, ...]
    short: tuple[str, ...]
    stored: dict[str, tuple[str, str]]
    unreadable: dict[str, str] = field(default_factory=dict)
    damaged: frozenset[Path] = frozenset()

    @property
    def readable(self) -> tuple[ClipWindow, ...]:
        """The clips without those that turned out to be unreadable."""
        return tuple(clip for clip in self.clips if clip.name not in self.unreadable)

    @property
    def fingerprint(self) -> str:
        """A hash that changes with any clip, but not with the folder's location."""
        return fingerprint(self.readable)

    @property
    def codecs(self) -> dict[str, int]:
        """The codecs of the clips' videos, and how many have each."""
        return dict(Counter(self.stored[clip.name][0] for clip in self.readable))

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the clips' frames, after cropping, and how many clips have each."""
        of = lambda clip: f"{clip.crop}x{clip.crop}" if clip.crop else self.stored[clip.name][1]
        return dict(Counter(of(clip) for clip in self.readable))

    @property
    def looked_at(self) -> int:
        """How many videos were looked at."""
        return len({clip.name for clip in self.clips} | set(self.short) | self.unreadable.keys())

    @property
    def about(self) -> dict:
        """A description for the result; for videos of `latte sample --n` also the record of how they were made."""
        return {
            "folder": str(self.root),
            "videos": self.looked_at,
            "clips": len(self.readable),
            "too_short": len(self.short),
            "first_too_short": self.short[0] if self.short else None,
            **({"unreadable": dict(self.unreadable)} if self.unreadable else {}),
            **(
                {"damaged": worn}
                if (worn := sum(self.root / clip.name in self.damaged for clip in self.readable))
                else {}
            ),
            "codecs": self.codecs,
            "sizes": self.sizes,
            "fingerprint": self.fingerprint,
            **({"made_by": read_record(self.root)} if holds_set(self.root) else {}),
        }

    def read(self, clip: ClipWindow) -> Tensor:
        """Decode a clip, uint8 (f, 3, h, w). Raises ValueError, with the file's name, if it cannot be decoded."""
        numbers = range(clip.start, clip.start + clip.frames * clip.stride, clip.stride)
        path = self.root / clip.name
        video = read_video(path, numbers, "take" if path in self.damaged else "raise")[0]
        return clip.cropped(video)

    def bytes_of(self, clip: ClipWindow) -> int:
        """The bytes of a clip in memory before it is cropped."""
        width, height = self.stored[clip.name][1].split("x")
        return 3 * clip.frames * int(width) * int(height)

    def stream(self, chosen: Sequence[ClipWindow], workers: int = 4) -> Iterator[Tensor | None]:
        """Yield some of the clips in order, as `read` returns them, or None; a few are decoded ahead.

        Of large clips, fewer are decoded ahead: AHEAD_BYTES in all, or one clip.

        Raises:
            ValueError: Too many videos cannot be read.
        """
        waiting = iter(chosen)
        few = max(1, min(2 * workers, AHEAD_BYTES // max((self.bytes_of(clip) for clip in chosen), default=1)))
        with ThreadPoolExecutor(min(workers, few)) as pool:
            ahead = [(clip, pool.submit(self.read, clip)) for clip in islice(waiting, few)]
            while ahead:
                clip, reading = ahead.pop(0)
                try:
                    yield reading.result()
                except UNREADABLE as error:
                    note_unreadable(self.unreadable, clip.name, error)
                    check_unreadable(self.unreadable, self.looked_at, self.root)
                    yield None
                ahead += [(clip, pool.submit(self.read, clip)) for clip in islice(waiting, 1)]

    def leave_out(self, clips: Iterable[ClipWindow]) -> None:
        """Note that clips could not be read, unless that is known."""
        for clip in clips:
            self.unreadable.setdefault(clip.name, "it could not be decoded when features were computed")
        check_unreadable(self.unreadable, self.looked_at, self.root)


def choose_clips(
    videos: str | Path | Sequence[str | Path], protocol: Protocol, side: str, seed: int, only: int | None = None
) -> ClipSet:
    """Take one clip from each video, until there are protocol.clips.

    Videos that cannot be read are left out, with a warning.

    Args:
        videos: A folder of videos, at any depth, a folder that `latte prepare` wrote, a file of arrays, or a list of
            video files.
        protocol: Says which clips to take.
        side: "real" or "generated".
        seed: For the protocol's random choices.
        only: Use only this many videos, the first of the folder; for folders of `latte sample --n`.

    Raises:
        ValueError: No video is long enough, more than half cannot be read, it is unclear which values of arrays are
            black, or generated videos are lossy and the protocol forbids it.
        FileNotFoundError: No such folder or file.
    """
    root, names = video_names(videos)
    if not names and (others := describe_files(root)):
        raise ValueError(f"{root} holds no videos, but {others}: see the documentation for the files that can be read")
    if protocol.order == "class" and side == "real" and len({os.path.dirname(name) for name in names}) == 1:
        warnings.warn(
            f"{root}: protocol {protocol.name} balances classes, but its videos are in one folder", stacklevel=2
        )
    stored, recorded, worn = {}, read_digests(root), taken_though_damaged(videos)

    def describe(name: str) -> str:
        """Note how a video is stored, and return the hash of its content."""
        stored[name], sha256 = stored_as(root / name), content(root / name)
        if recorded.get(name, sha256) != sha256:
            raise ValueError(f"{root / name} is not as `latte sample --n` wrote it: run it again to restore the file")
        return sha256

    frames_of = lambda name: count_frames(root / name, "take" if root / name in worn else "raise")
    given = videos if isinstance(videos, str | Path) else root  # which may be a file in that folder
    found = choose_windows(names[:only], protocol, side, seed, frames_of, describe, given)
    chosen = ClipSet(root, found.clips, found.short, stored, found.unreadable, worn)
    refuse_two_ranges(root, ("".join(codec.partition("[")[1:]) for codec in chosen.codecs))
    if protocol.lossless and side == "generated" and (lossy := lossy_codecs(chosen.codecs)):
        raise ValueError(
            f"{root} holds videos in {lossy[0]}, which may lose what protocol {protocol.name} measures: write samples "
            "with `latte sample --n`, or leave out the protocol, or choose stylegan-v or latte"
        )
    return chosen


def lossy_codecs(codecs: Iterable[str]) -> list[str]:
    """The codecs that are not known to be lossless, sorted. An array's codec may name a range, as in "npz [0, 1]"."""
    return sorted(codec for codec in set(codecs) if codec.partition(" [")[0] not in LOSSLESS)
