"""Memory of the metrics: bounded by the size of a clip, not by the number of clips or frames compared."""

import os
import resource
import threading
from functools import partial

import numpy as np
import pytest
import torch
from forks import fork, status
from random_weights import random_state, smooth_videos

from latte.diffusion.randomness import normal
from latte.eval import clip_sets, fidelity
from latte.eval.bench.resources import LiveTensors
from latte.eval.clip_sets import ClipSet
from latte.eval.clip_windows import ClipWindow
from latte.eval.features import Detector
from latte.eval.fidelity import batch_lpips, flicker, psnr, ssim
from latte.eval.inputs import Reading
from latte.eval.networks.lpips import LPIPS
from latte.eval.networks.published_weights import PUBLISHED
from latte.eval.networks.shape_features import resize_clip
from latte.eval.networks.video_transformer import Block, clip_by_clip
from latte.eval.networks.videomae import VideoMAE
from latte.eval.networks.videomae_weights import videomae_detector, videomae_features
from latte.eval.networks.vjepa import VJEPA, Probe
from latte.eval.networks.vjepa_weights import vjepa_detector, vjepa_features
from latte.eval.protocol import choose_protocol
from latte.eval.video_comparison import compare_videos
from latte.video import pixels
from latte.video.pixels import resize_and_crop, slice_by_slice

SIDES = 48, 64


def peak(work) -> int:
    """Peak tensor memory of a computation, excluding its arguments."""
    with LiveTensors() as memory:
        work()
    return memory.peak


@pytest.mark.parametrize("metric", [psnr, ssim, lambda a, b: flicker(a)], ids=["psnr", "ssim", "flicker"])
def test_pixel_metrics_run_frame_by_frame(metric):
    """So 81 frames of 544 x 960 need as much as one: 0.1 GB for SSIM, in float64."""
    few, many = smooth_videos(1, 2, *SIDES), smooth_videos(2, 6, *SIDES)
    used = peak(lambda: metric(many, many))
    assert used < peak(lambda: metric(few, few)) + 1000  # one number per frame
    assert used < 30 * 8 * SIDES[0] * SIDES[1]  # about 30 single-channel maps in float64


def test_lpips_uses_smaller_batches_for_large_frames(monkeypatch):
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


def small_transformers():
    """Features of clips by small networks of the kinds of CD-FVD and JEDi, with random weights."""
    sizes = {"width": 16, "heads": 2, "hidden": 64}
    encoder, network = VJEPA(depth=2, side=32, **sizes), VideoMAE(depth=2, side=28, **sizes)
    probe = Probe(**sizes)
    for part in (encoder, probe, network):
        part.load_state_dict(random_state(part))
    return [partial(videomae_features, network), partial(vjepa_features, encoder, probe)]


def test_video_transformers_take_a_few_frames_and_one_clip_at_a_time(monkeypatch):
    """A clip of 80 frames of 544 x 960 takes 0.5 GB as floats, and what a block computes for eight clips 0.7 GB."""
    clips = list(smooth_videos(8, 16, 128, 160))
    pixels_and_tokens = 4 * (16 * 3 * 32 * 32 + 32 * 16)  # bytes of a clip that the network takes
    for features in small_transformers():
        whole, one = features(clips), peak(lambda features=features: features(clips[:1]))
        assert peak(lambda features=features: features(clips)) < one + 7 * 2 * pixels_and_tokens
        monkeypatch.setattr(pixels, "PIXELS_AT_ONCE", 2 * 128 * 160)
        assert torch.equal(features(clips), whole) and peak(lambda features=features: features(clips[:1])) < one / 2
        monkeypatch.undo()


@torch.no_grad()
def test_blocks_compute_one_clip_at_a_time():
    block, clips = Block(16, 2, 64, key_bias=True), normal((8, 32, 16), 0)
    whole, one = clip_by_clip(block, clips), peak(lambda: clip_by_clip(block, clips[:1]))
    assert torch.equal(whole[3:4], block(clips[3:4]))
    assert peak(lambda: clip_by_clip(block, clips)) < one + 2 * 4 * clips.numel() < peak(lambda: block(clips))


@pytest.mark.parametrize("detector", ["cd-fvd", "jedi"])
def test_blocks_of_large_networks_stay_in_their_file(tmp_path, detector):
    """VideoMAE's weights take 3.8 GiB in float32 and V-JEPA's 2.4."""
    clips, used = smooth_videos(2, 2, 32, 32), {}
    for depth in (2, 9):
        folder = tmp_path / str(depth)
        folder.mkdir()
        sizes = {"width": 16, "heads": 2, "hidden": 64, "depth": depth}
        if detector == "jedi":
            encoder, probe = VJEPA(**sizes, side=32), Probe(16, 2, 64)
            torch.save({"target_encoder": random_state(encoder)}, folder / PUBLISHED["vjepa"].file)
            torch.save({"classifier": random_state(probe)}, folder / PUBLISHED["vjepa-probe"].file)
            found = vjepa_detector(folder, folder, torch.device("cpu"), **sizes, side=32)
        else:
            torch.save({"module": random_state(VideoMAE(**sizes, side=28))}, folder / PUBLISHED["videomae"].file)
            found = videomae_detector(folder, torch.device("cpu"), **sizes, side=28)
        used[depth] = peak(lambda found=found: found.features(list(clips)))
    assert used[2] == used[9]


def slices(frames: torch.Tensor) -> list[torch.Tensor]:
    """The chunks that slice_by_slice passes to its function."""
    parts = []
    slice_by_slice(lambda part: parts.append(part) or part, frames)
    return parts


@pytest.mark.parametrize(("budget", "most"), [(1 << 28, 8), (3 * 1000, 3), (1, 1)])
def test_clips_are_decoded_ahead_within_a_budget(monkeypatch, tmp_path, budget, most):
    """With clips of 81 frames of 544 x 960, 127 MB each, two are held besides the one being measured."""
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
    """The rise in a process's peak memory, in bytes, when work(many) follows work(few)."""

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
    """Folders of hard links to one video, by the number of links."""
    root = tmp_path_factory.mktemp("sets")
    np.save(root / "video.npy", smooth_videos(1, FRAMES, HEIGHT, WIDTH)[0].movedim(1, -1).numpy())
    folders = {count: root / str(count) for count in (FEW, MANY)}
    for count, folder in folders.items():
        folder.mkdir()
        for i in range(count):
            os.link(root / "video.npy", folder / f"{i}.npy")
    return folders


def distance(videos) -> None:
    """The distance measured by `latte eval`, with a function in place of a network."""
    colours = Detector(
        {"metric": "colours"}, lambda clips: torch.stack([clip[0].float().mean((1, 2)) for clip in clips])
    )
    compare_videos(torch.randn(9, 3), videos, colours, Reading(choose_protocol(None, frames=FRAMES)))


@pytest.mark.parametrize("metric", [distance, flicker])
@pytest.mark.filterwarnings("ignore")
def test_process_memory_does_not_grow_with_the_number_of_videos(metric, sets, tmp_path):
    grown = growth(lambda count: metric(sets[count]), FEW, MANY, tmp_path / "log")
    assert grown < (MANY - FEW) * FRAMES * 3 * HEIGHT * WIDTH / 3  # a third of what the extra videos take


def test_process_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    """Even if the C library allocates frames on its heap, where a number between them splits it."""
    frame = smooth_videos(1, 1, 512, 512)
    grown = growth(lambda count: psnr(*[frame.expand(1, count, -1, -1, -1)] * 2), 2, 22, tmp_path / "log")
    assert grown < 20 * 8 * 3 * 512 * 512 / 5  # a fifth of what 20 frames take in float64
