"""Fidelity of videos to their references, such as an accelerated sampler's videos to the exact sampler's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from latte import __version__
from latte.device import device_name
from latte.eval.inputs import find_device
from latte.eval.networks.lpips import LPIPS, SMALLEST
from latte.eval.networks.lpips_weights import load_lpips
from latte.eval.networks.published_weights import find_weights
from latte.eval.structural_similarity import SMALLEST as SMALLEST_SSIM
from latte.eval.structural_similarity import frame_ssim
from latte.eval.unreadable import UNREADABLE, check_unreadable, note_unreadable
from latte.eval.video_pairs import PairedVideos, as_pair, match_pairs, mean_over_pairs, open_videos
from latte.files import one_line
from latte.progress import Progress
from latte.video.pixels import expect_videos, from_uint8
from latte.video.read import read_video

IDENTICAL = 100.0  # dB where no pixel differs, as in the evaluation of Pyramid Attention Broadcast
Item = TypeVar("Item")
LPIPS_PIXELS = 1 << 21  # of a batch: the network needs about 200 bytes for each


@dataclass(frozen=True)
class FidelityResult:
    """Means over pairs of a video and its reference; `print(result)` is one line per network.

    Attributes:
        pairs: The number of pairs.
        videos: The folder of the videos.
        reference: The folder of the references.
        means: By metric: "psnr", "ssim", "lpips" if it was asked for, and for videos of two frames or more "flicker"
            and "reference_flicker".
        device: The device it ran on.
        alexnet: The path to AlexNet's weights and their sha256, if LPIPS was asked for.
        unreadable: The files that could not be read, and why. Their pairs are left out.
        vae_sha256: Of the files of the VAE, if the videos are its reconstructions.
    """

    pairs: int
    videos: str
    reference: str
    means: dict[str, float]
    device: str
    alexnet: tuple[str, str] | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    vae_sha256: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """The result as `latte eval --reference --out` writes it."""
        about = {"pairs": self.pairs, "videos": self.videos, "reference": self.reference, **self.means}
        about |= {"alexnet_sha256": self.alexnet[1]} if self.alexnet else {}
        about |= {"unreadable": self.unreadable} if self.unreadable else {}
        about |= {"vae_sha256": self.vae_sha256} if self.vae_sha256 else {}
        return about | {"device": self.device, "versions": {"latte": __version__, "torch": torch.__version__}}

    def __str__(self) -> str:
        lines = [f"{self.pairs} pairs; " + ", ".join(f"{name} {value:.4f}" for name, value in self.means.items())]
        lines += ["LPIPS by {}, sha256 {}".format(*self.alexnet)] if self.alexnet else []
        if count := len(self.unreadable):
            first = one_line(min(self.unreadable))
            several = f"{count} pairs cannot be read and are left out, such as"
            lines.append(
                f"  note: {several if count > 1 else '1 pair cannot be read and is left out:'} that of {first}"
            )
        return "\n".join(lines)


def compare_pairs(
    videos: str | Path,
    reference: str | Path,
    *,
    alexnet: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> FidelityResult:
    """PSNR, SSIM, LPIPS and flicker of the videos in a folder against their references, matched by name.

    Args:
        videos: A folder of videos.
        reference: A folder with a reference of the same name for each; suffixes may differ.
        alexnet: Path to alexnet-owt-7be5be79.pth, for LPIPS. None: no LPIPS.
        device: For LPIPS. None: CUDA if available, else the CPU.
        progress: Whether a progress bar is shown.

    Raises:
        ValueError: The folders do not match, more than half of the pairs cannot be read, or a pair differs in size or
            length or is too small. CheckpointError: the weights are missing (with where to get them) or do not fit.
            FileNotFoundError: there is no such folder.
    """

    def read(paths: tuple[Path, Path], unreadable: dict[str, str]) -> tuple[Tensor, Tensor] | None:
        pair = read_if_possible(paths, unreadable)
        return None if pair is None else as_pair(pair[0], pair[1], f"{paths[0]} and {paths[1]}")

    sides = str(videos), str(reference)
    return compare_each(match_pairs(*sides), read, sides, alexnet, find_device(device), progress)


def compare_each(
    pairs: Sequence[Item], read: Callable[[Item, dict[str, str]], tuple[Tensor, Tensor] | None], sides: tuple[str, str],
    alexnet: str | Path | None, device: torch.device, progress: bool, vae_sha256: dict[str, str] | None = None,
) -> FidelityResult:  # fmt: skip
    """The mean fidelity over pairs, which are read one by one.

    Args:
        pairs: What `read` takes, one for each pair.
        read: (pair, unreadable) -> a video and its reference (1, f, 3, h, w), or None, after a note in `unreadable`.
        sides: What the videos and the references are called in the result.
        alexnet, device, progress: See compare_pairs.
        vae_sha256: See FidelityResult.

    Raises:
        ValueError, CheckpointError: See compare_pairs.
    """
    weights = find_weights("alexnet", alexnet) if alexnet else None
    network = load_lpips(weights.path, device) if weights else None
    folder = sides[1] if vae_sha256 else sides[0]
    rows: list[dict[str, float]] = []
    unreadable: dict[str, str] = {}
    for each in Progress(pairs, desc="comparing", unit="pair", disable=not progress):
        if (pair := read(each, unreadable)) is None:
            check_unreadable(unreadable, len(pairs), folder)
            continue
        row = {"psnr": psnr(*pair), "ssim": ssim(*pair)}
        if network is not None:
            row["lpips"] = lpips(*pair, network)
        if pair[0].shape[1] > 1:
            row |= {"flicker": flicker(pair[0]), "reference_flicker": flicker(pair[1])}
        rows.append(row)
    if not rows:
        raise ValueError(f"{folder}: no pair can be read; the first: {min(unreadable.values())}")
    names = [name for name in rows[0] if all(name in row for row in rows)]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    about = (str(weights.path), weights.sha256) if weights else None
    return FidelityResult(len(rows), *sides, means, device_name(device), about, unreadable, vae_sha256 or {})


def read_if_possible(paths: Iterable[Path], unreadable: dict[str, str]) -> list[Tensor] | None:
    """Read videos (f, 3, h, w); None, with a warning and a note in `unreadable`, if one of them cannot be read."""
    read = []
    for path in paths:
        try:
            read.append(read_video(path, square_pixels=False)[0])
        except UNREADABLE as error:
            note_unreadable(unreadable, str(path), error)
            return None
    return read


def psnr(videos: PairedVideos, reference: PairedVideos) -> float:
    """Peak signal-to-noise ratio in dB; 100 where no pixel differs.

    The mean over videos of the mean over frames.

    Args:
        videos: uint8 videos (b, f, 3, h, w) or (b, f, h, w, 3); or a folder of videos, matched to the references by
            name; or a list of video files, matched by position.
        reference: What they are compared with, of the same kind and shape.

    Raises:
        ValueError: They are not such videos, or do not form pairs. FileNotFoundError: there is no such folder or file.
    """
    return mean_over_pairs(batch_psnr, videos, reference)


def batch_psnr(videos: Tensor, reference: Tensor) -> float:
    """`psnr` of uint8 (b, f, 3, h, w)."""
    expect_videos(videos, reference)
    # numbers, not tensors: small tensors between the large ones of the frames would keep their memory from being reused
    each = [((a.double() - b.double()) / 255).square().mean().item() for a, b in frame_pairs(videos, reference)]
    errors = torch.tensor(each, dtype=torch.float64)
    return (-10 * errors.clamp(min=10 ** (-IDENTICAL / 10)).log10()).mean().item()


def frame_pairs(videos: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the frames (3, h, w) of videos (b, f, 3, h, w), each with its reference, without a copy of them all."""
    for pair in zip(videos, reference):
        yield from zip(*pair)


def ssim(videos: PairedVideos, reference: PairedVideos) -> float:
    """Structural similarity (Wang et al. 2004); 1: identical. The mean over videos of the mean over frames.

    A Gaussian window of 11 pixels with sigma 1.5 and mirrored borders; latte.eval.structural_similarity has the
    definition. Frames are compared one by one, so memory does not grow with their number.

    Args:
        videos: See `psnr`; frames of 11 x 11 pixels or more.
        reference: See `psnr`.

    Raises:
        ValueError: They are not such videos, or do not form pairs. FileNotFoundError: there is no such folder or file.
    """
    return mean_over_pairs(batch_ssim, videos, reference)


def batch_ssim(videos: Tensor, reference: Tensor) -> float:
    """`ssim` of uint8 (b, f, 3, h, w)."""
    expect_videos(videos, reference)
    if min(videos.shape[-2:]) < SMALLEST_SSIM:
        raise ValueError(f"SSIM needs frames of 11 x 11 pixels or more, not {videos.shape[-2]} x {videos.shape[-1]}")
    each = [frame_ssim(*pair) for pair in frame_pairs(videos, reference)]
    return sum(each) / len(each)


def lpips(
    videos: PairedVideos,
    reference: PairedVideos,
    alexnet: LPIPS | str | Path | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
) -> float:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924) on AlexNet; 0: identical.

    The mean over videos of the mean over frames.

    Args:
        videos: See `psnr`; frames of 31 x 31 pixels or more.
        reference: See `psnr`.
        alexnet: Path to alexnet-owt-7be5be79.pth, or the network as load_lpips returns it.
        device: For a network from a file. None: CUDA if available, else the CPU.
        batch_size: Frames per batch, at most; large frames take smaller ones. It changes only the rounding.

    Raises:
        ValueError: They are not such videos, or do not form pairs. CheckpointError: see load_lpips. FileNotFoundError:
            there is no such folder or file.
    """
    network = alexnet if isinstance(alexnet, LPIPS) else load_lpips(alexnet, find_device(device))
    return mean_over_pairs(lambda a, b: batch_lpips(a, b, network, batch_size), videos, reference)


@torch.no_grad()
def batch_lpips(videos: Tensor, reference: Tensor, network: LPIPS, batch_size: int) -> float:
    """`lpips` of uint8 (b, f, 3, h, w)."""
    expect_videos(videos, reference)
    if min(videos.shape[-2:]) < SMALLEST:
        height, width = videos.shape[-2:]
        raise ValueError(f"LPIPS needs frames of {SMALLEST} x {SMALLEST} pixels or more, not {height} x {width}")
    device, pixels = network.heads[0].weight.device, videos.shape[-2] * videos.shape[-1]
    at_once = max(1, min(batch_size, LPIPS_PIXELS // pixels))
    pairs = zip(*(each.flatten(0, 1).split(at_once) for each in (videos, reference)))
    parts = (network(*(from_uint8(frames.to(device)) for frames in pair)) for pair in pairs)
    each = [value for part in parts for value in part.tolist()]  # numbers, as for psnr
    return torch.tensor(each, dtype=torch.float64).mean().item()


def flicker(videos: PairedVideos) -> float:
    """VBench's temporal flickering (Huang et al. 2023, arXiv 2311.17982), the mean over videos; 1: a still picture.

    It is 1 minus the mean difference of consecutive frames as a fraction of 255. Motion lowers it as flicker does, and
    a still picture scores best: VBench measures videos that ought to be static. For other videos, compare it with the
    value of real or exact ones.

    Args:
        videos: uint8 (b, f, 3, h, w) or (b, f, h, w, 3), a folder of videos, or a list of video files; of two frames
            or more.

    Raises:
        ValueError: They are not such videos. FileNotFoundError: there is no such folder or file.
    """
    each = [batch_flicker(batch) for batch in open_videos(videos)]
    return sum(each) / len(each)


def batch_flicker(videos: Tensor) -> float:
    """`flicker` of uint8 (b, f, 3, h, w)."""
    if videos.shape[1] < 2:
        raise ValueError("flicker needs videos of two frames or more")
    differences = [step_size(video) for video in videos]
    return 1 - sum(differences) / len(differences) / 255


def step_size(video: Tensor) -> float:
    """The mean difference of consecutive frames of a video (f, 3, h, w)."""
    sums = [(after.short() - before.short()).abs().sum().item() for before, after in pairwise(video)]
    return sum(sums) / (len(sums) * video[0].numel())
