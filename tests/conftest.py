"""Fixtures shared by all test files."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel; child processes inherit it

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # allows `import goldens` with --import-mode=importlib

from goldens import Golden
from published import write_published

from latte import LattePipeline
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.shapes.draw import make_clip
from latte.video.write import write_video
from latte.weights.vae_folder import save_vae


@pytest.fixture
def golden():
    return Golden("latte_class")


@pytest.fixture
def tiny():
    """A small class-conditional Latte with random weights."""
    return Latte(LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=4, num_classes=3)).eval()


@pytest.fixture
def tiny_vae():
    return VideoVAE(AutoencoderKL(VAEConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4)))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """The folder of an untrained VAE with 8x downsampling, as training expects it."""
    torch.manual_seed(0)
    config = VAEConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
    return save_vae(VideoVAE(AutoencoderKL(config)), tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of videos in two classes."""
    root = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(("a/x.mkv", "a/y.mkv", "b/z.mkv")):
        write_video(make_clip(2, i, frames=12, size=24).video, root / name)
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny text-to-video model in the layout of Latte-1."""
    return write_published(tmp_path_factory.mktemp("published") / "Latte-1")


@pytest.fixture(scope="module")
def parts(published):
    """The components of the published pipeline."""
    return LattePipeline.from_pretrained(published).components


@pytest.fixture
def pipe(parts):
    """A new pipeline for each test; the networks are shared."""
    return LattePipeline(**parts)
