"""Peak memory of `latte eval` on large videos: 81 frames of 544 x 960, and every metric.

There are 20 videos on each side, of which the two largest networks see three. The memory does not grow with their
number, so the same bound holds for 2,000. Networks have random weights, and the two largest a tenth of their blocks.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from encode_video import encode
from random_weights import random_state
from soak_length import count

from latte.diffusion.randomness import normal
from latte.eval.networks.i3d import I3D
from latte.eval.networks.inception import Inception
from latte.eval.networks.lpips import LPIPS
from latte.eval.networks.published_weights import PUBLISHED
from latte.eval.networks.videomae import VideoMAE
from latte.eval.networks.vjepa import VJEPA, Probe

FRAMES, HEIGHT, WIDTH = 81, 544, 960
MOST_MEMORY = 2 << 20  # kB
VIDEOS = max(3, count(20))

DEPTH = 4  # blocks of the largest networks, of 32 and 40, since memory holds one of them at a time

# in a new process, whose peak memory is not that of its parent
MEASURED = f"""
import sys
from functools import partial
from pathlib import Path
from latte.cli import main
from latte.eval.networks import videomae_weights, vjepa_weights
videomae_weights.VideoMAE = partial(videomae_weights.VideoMAE, depth={DEPTH})
vjepa_weights.VJEPA = partial(vjepa_weights.VJEPA, depth={DEPTH})
status = main(sys.argv[1:])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders, each of hard links to one moving picture."""
    root = tmp_path_factory.mktemp("large")
    corners = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, (WIDTH + 4 * FRAMES) // 8, 3), np.uint8)
    picture = corners.repeat(8, 0).repeat(8, 1)
    for number, side in enumerate(("real", "generated")):
        clip = np.stack([picture[:, 4 * i + number : 4 * i + number + WIDTH - 8] for i in range(FRAMES)])
        video = encode(
            root / f"{side}.mp4", np.pad(clip, ((0, 0), (0, 0), (4, 4), (0, 0))), options={"preset": "ultrafast"}
        )
        (root / side).mkdir()
        for i in range(VIDEOS):
            os.link(video, root / side / f"{i}.mp4")
    return root


def save_random(network, name: str, root, prefix: str = ""):
    """A file of random weights under a published file's name."""
    path = root / PUBLISHED[name].file
    state = random_state(network)
    torch.save({prefix + key: value for key, value in state.items() if "num_batches" not in key}, path)
    return path


def most_memory(*words) -> int:
    """The peak memory of a command, in kB."""
    run = subprocess.run([sys.executable, "-c", MEASURED, *map(str, words)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    most = int(run.stdout.split()[-1])
    options = [str(word) for word in words if str(word).startswith("--")]
    print(f"{' '.join(options)}: {most / 2**20:.2f} GiB")
    return most


def test_memory_of_the_distance_and_fid_is_bounded(folders):
    i3d = save_random(I3D(1e-3), "i3d-pretrained-400", folders)
    inception = save_random(Inception(), "inception", folders)
    words = ["eval", folders / "generated", "--real", folders / "real", "--frames", FRAMES]
    assert most_memory(*words) < MOST_MEMORY
    assert most_memory(*words, "--inception", inception, "--i3d", i3d) < MOST_MEMORY


def test_memory_of_pairwise_metrics_is_bounded(folders):
    alexnet = save_random(LPIPS().features, "alexnet", folders, "features.")
    words = ["eval", folders / "generated", "--reference", folders / "real"]
    assert most_memory(*words) < MOST_MEMORY
    assert most_memory(*words, "--alexnet", alexnet) < MOST_MEMORY


@pytest.mark.parametrize("frames", [16, 80])
@pytest.mark.parametrize("metric", ["jedi", "cd-fvd"])
def test_memory_of_large_networks_is_bounded(folders, tmp_path, metric, frames):
    """V-JEPA takes 2.4 GiB in float32 and VideoMAE 3.8, so their blocks stay in the file."""
    if metric == "jedi":
        torch.save({"target_encoder": of_full_width(VJEPA, depth=DEPTH)}, tmp_path / PUBLISHED["vjepa"].file)
        torch.save({"classifier": of_full_width(Probe)}, tmp_path / PUBLISHED["vjepa-probe"].file)
        weights = ["--vjepa", tmp_path, "--vjepa-probe", tmp_path]
    else:
        torch.save({"module": of_full_width(VideoMAE, depth=DEPTH)}, tmp_path / PUBLISHED["videomae"].file)
        weights = ["--videomae", tmp_path]
    words = ["eval", folders / "generated", "--real", folders / "real", "--num-videos", 3, *weights]
    assert most_memory(*words, "--frames", frames) < MOST_MEMORY


def of_full_width(network: type[torch.nn.Module], **sizes: int) -> dict[str, torch.Tensor]:
    """Random weights of a network."""
    with torch.device("meta"):
        shapes = network(**sizes).state_dict()
    return {name: 0.02 * normal(tuple(value.shape), i) for i, (name, value) in enumerate(shapes.items())}
