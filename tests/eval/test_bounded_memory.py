"""Memory of the metrics: it depends on the size of a clip, and not on how many clips or frames are compared."""

import os
import resource
import threading

import numpy as np
import pytest
import torch
from forks import fork, status
from random_weights import random_state, smooth_videos

from latte.eval import clip_sets, fidelity
from latte.eval.bench.resources import LiveTensors
from latte.eval.clip_sets import ClipSet
from latte.eval.clip_windows import ClipWindow
from latte.eval.features import Detector
from latte.eval.fidelity import batch_lpips, flicker, psnr, ssim
from latte.eval.inputs import Reading
from latte.eval.networks.lpips import LPIPS
from latte.eval.networks.shape_features import resize_clip
from latte.eval.protocol import choose_protocol
from latte.eval.video_comparison import compare_videos
from latte.video import pixels
from latte.video.pixels import resize_and_crop, slice_by_slice

SIDES = 48, 64


def peak(work) -> int:
    """The most bytes of tensors that a computation holds at once, besides its arguments."""
    with LiveTensors() as memory:
        work()
    return memory.peak


@pytest.mark.parametrize("metric", [psnr, ssim, lambda a, b: flicker(a)], ids=["psnr", "ssim", "flicker"])
def test_pixels_are_compared_frame_by_frame(metric):
    """So 81 frames of 544 x 960 need what one does: 0.1 GB in all for SSIM, in float64."""
    few, many = smooth_videos(1, 2, *SIDES), smooth_videos(2, 6, *SIDES)
    used = peak(lambda: metric(many, many))
    assert used < peak(lambda: metric(few, few)) + 1000  # a number for each frame
    assert used < 30 * 8 * SIDES[0] * SIDES[1]  # some 30 maps of one channel in float64


def test_lpips_takes_fewer_frames_at_once_if_they_are_large(monkeypatch):
    network = LPIPS().eval()
    network.load_state_dict(random_state(network))
    videos = smooth_videos(1, 6, *SIDES)
    moved = videos.roll(5, -1)
    whole, value = peak(lambda: batch_lpips(videos, moved, network, 32)), batch_lpips(videos, moved, network, 32)
    monkeypatch.setattr(fidelity, "LPIPS_PIXELS", SIDES[0] * SIDES[1])
    assert batch_lpips(videos, moved, network, 32) == pytest.approx(value, rel=1e-5)
    assert peak(lambda: batch_lpips(videos, moved, network, 32)) < whole / 4


def test_large_frames_are_resized_a_few_at_a_time_with_the_same_bits(monkeypatch):
    video = smooth_videos(1, 12, *SIDES)[0]
    resizes = [resize_clip, lambda frames: resize_and_crop(frames, 32)]
    whole, used = [resize(video) for resize in resizes], [peak(lambda r=r: r(video)) for r in resizes]
    monkeypatch.setattr(pixels, "PIXELS_AT_ONCE", 2 * SIDES[0] * SIDES[1])
    for resize, expected, before in zip(resizes, whole, used):
        assert torch.equal(resize(video), expected) and peak(lambda r=resize: r(video)) < before / 2
    assert [len(part) for part in slices(video)] == [2] * 6
    monkeypatch.setattr(pixels, "PIXELS_AT_ONCE", 1)
    assert [len(part) for part in slices(video)] == [1] * 12


def slices(frames: torch.Tensor) -> list[torch.Tensor]:
    """What slice_by_slice hands to its function."""
    parts = []
    slice_by_slice(lambda part: parts.append(part) or part, frames)
    return parts


@pytest.mark.parametrize(("budget", "most"), [(1 << 28, 8), (3 * 1000, 3), (1, 1)])
def test_clips_are_decoded_ahead_within_a_budget(monkeypatch, tmp_path, budget, most):
    """Of 81 frames of 544 x 960, which are 127 MB, two are held beside the one that is measured."""
    monkeypatch.setattr(clip_sets, "AHEAD_BYTES", budget)
    windows = tuple(ClipWindow(f"{i}.mkv", 0, 1, 10, "", 4) for i in range(40))
    clips = ClipSet(tmp_path, windows, (), {clip.name: ("ffv1", "10x3") for clip in windows})  # 900 bytes each
    lock, held, largest = threading.Lock(), 0, 0

    def read(self: ClipSet, clip: ClipWindow) -> torch.Tensor:
        nonlocal held, largest
        with lock:
            held += 1
            largest = max(largest, held)
        return torch.tensor(int(clip.name[:-4]))

    monkeypatch.setattr(ClipSet, "read", read)
    for i, clip in enumerate(clips.stream(windows)):
        assert clip == i
        with lock:
            held -= 1
    assert largest <= most + 1 and clips.sizes == {"4x4": 40}
    assert (81 * 3 * 544 * 960) * 2 < 1 << 28


def growth(work, few: int, many: int, log) -> int:
    """The bytes by which the most memory of a process rises when work(many) follows work(few)."""

    def measure() -> None:
        most = []
        for count in (few, many):
            work(count)
            most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # kB
        print((most[1] - most[0]) << 10)

    assert status(fork(measure, log)) == 0, log.read_text()
    return int(log.read_text().split()[-1])


FRAMES, HEIGHT, WIDTH = 16, 128, 160  # eight such clips make a batch
FEW, MANY = 24, 96  # videos


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders of links to one video, by how many there are."""
    root = tmp_path_factory.mktemp("sets")
    np.save(root / "video.npy", smooth_videos(1, FRAMES, HEIGHT, WIDTH)[0].movedim(1, -1).numpy())
    folders = {count: root / str(count) for count in (FEW, MANY)}
    for count, folder in folders.items():
        folder.mkdir()
        for i in range(count):
            os.link(root / "video.npy", folder / f"{i}.npy")
    return folders


def distance(videos) -> None:
    """The distance that `latte eval` measures, by a function in place of a network."""
    colours = Detector(
        {"metric": "colours"}, lambda clips: torch.stack([clip[0].float().mean((1, 2)) for clip in clips])
    )
    compare_videos(torch.randn(9, 3), videos, colours, Reading(choose_protocol(None, frames=FRAMES)))


@pytest.mark.parametrize("metric", [distance, flicker])
@pytest.mark.filterwarnings("ignore")
def test_a_process_needs_as_much_memory_for_many_videos_as_for_few(metric, sets, tmp_path):
    grown = growth(lambda count: metric(sets[count]), FEW, MANY, tmp_path / "log")
    assert grown < (MANY - FEW) * FRAMES * 3 * HEIGHT * WIDTH / 3  # of what so many videos take


def test_a_process_needs_as_much_memory_for_many_frames_as_for_few(tmp_path):
    """Even if the C library takes the memory of frames from its heap, where a number between them splits it."""
    frame = smooth_videos(1, 1, 512, 512)
    grown = growth(lambda count: psnr(*[frame.expand(1, count, -1, -1, -1)] * 2), 2, 22, tmp_path / "log")
    assert grown < 20 * 8 * 3 * 512 * 512 / 5  # of what 20 frames take in float64
