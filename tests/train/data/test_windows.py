"""Frame selections and transforms: those of the original are reproduced."""

import os
import re
from pathlib import Path

import pytest
import torch
from goldens import FOLDER, Golden
from safetensors.torch import load_file

from latte.train.data.transforms import TRANSFORMS, flip, transform
from latte.train.data.windows import choose_frames, min_video_frames
from latte.video.pixels import from_uint8, resize_and_crop

CHAINS = {"resize_then_center_crop": ("ffs", "ucf101"), "center_crop_then_resize": ("sky",)}


def chosen(name, frames, num_frames=16, frame_interval=3, seeds=400):
    draw = lambda seed: choose_frames(name, frames, num_frames, frame_interval, torch.Generator().manual_seed(seed))
    return [list(draw(seed)) for seed in range(seeds)]


def test_linspace_chooses_the_frames_that_the_original_chooses():
    """From any start; starts are uniform over all but the last one."""
    recorded = {k: v.tolist() for k, v in Golden("transforms").outputs.items() if k.startswith("frames.")}
    assert len(recorded) == 5
    for name, expected in recorded.items():
        frames, interval = map(int, re.findall(r"\d+", name))
        drawn = chosen("linspace", frames, frame_interval=interval)
        assert all([i - numbers[0] for i in numbers] == expected for numbers in drawn), name
        starts = {numbers[0] for numbers in drawn}
        assert starts <= set(range(max(1, frames - 16 * interval))) and (frames > 60 or len(starts) == max(starts) + 1)
    starts = [numbers[0] for numbers in chosen("linspace", 60)]
    assert set(starts) == set(range(12)) and 15 < starts.count(11) < 55


def test_exact_strides():
    for name, starts in (("stride", range(15)), ("crop", range(12))):
        drawn = chosen(name, 60)
        assert all(numbers == list(range(numbers[0], numbers[0] + 46, 3)) for numbers in drawn)
        assert {numbers[0] for numbers in drawn} == set(starts)
    assert chosen("crop", 47, seeds=3) == [list(range(0, 46, 3))] * 3


@pytest.mark.parametrize(("name", "least"), [("stride", 46), ("linspace", 16), ("crop", 46)])
def test_videos_that_are_too_short(name, least):
    assert min_video_frames(name, 16, 3) == least and min_video_frames(name, 16, 1) == 16
    (numbers,) = chosen(name, least, seeds=1)
    assert len(numbers) == 16 and numbers[0] == 0 and numbers[-1] == least - 1
    with pytest.raises(ValueError, match=f"{least - 1} frames is too short.*'{name}' needs {least}"):
        chosen(name, least - 1, seeds=1)
    with pytest.raises(ValueError, match="must be 1 or more"):
        min_video_frames(name, 16, 0)


def test_unknown_names_are_rejected():
    with pytest.raises(ValueError, match="no frame selection is called 'random': choose one of stride, linspace, crop"):
        chosen("random", 60)
    with pytest.raises(ValueError, match="no transform is called 'mine': choose one of ours, ffs, ucf101, sky, taichi"):
        transform("mine", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 8)


def compare(tensors):
    """Compare our transforms with the original's, and return the number of comparisons."""
    recorded = [name.split(".")[1:] for name in tensors if name.split(".")[-1] in CHAINS]
    for shape, chain in recorded:
        expected = tensors[f"outputs.{shape}.{chain}"] * 2 - 1
        for name in CHAINS[chain]:
            ours = transform(name, tensors[f"inputs.{shape}"], 32)
            assert ours.dtype == torch.float32 and ours.shape == expected.shape
            assert (ours - expected).abs().max() < 1e-5, (shape, chain)
    return len(recorded)


def test_transforms_match_the_original():
    assert compare(load_file(FOLDER / "transforms.safetensors")) == 3


@pytest.mark.skipif("LATTE_TEST_DATA" not in os.environ, reason="LATTE_TEST_DATA names no folder of real clips")
def test_transforms_match_the_original_on_real_clips():
    path = Path(os.environ["LATTE_TEST_DATA"]).parent / "goldens/transforms.safetensors"
    if not path.is_file():
        pytest.skip(f"no recorded real clips at {path}")
    assert compare(load_file(path)) == 6


def test_every_transform_gives_squares_in_the_same_range():
    video = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in TRANSFORMS:
        assert torch.allclose(transform(name, video, 32), from_uint8(video), atol=1e-6), name
    wide = torch.randint(0, 256, (2, 3, 40, 53), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(transform("ours", wide, 16), from_uint8(resize_and_crop(wide, 16)))
    assert transform("ffs", wide, 16).std() > 1.3 * transform("ours", wide, 16).std()
    with pytest.raises(ValueError, match="40 x 53 pixels: the transform 'taichi' takes 32 x 32 only"):
        transform("taichi", wide, 32)
    assert transform("ffs", torch.zeros(1, 3, 49, 60, dtype=torch.uint8), 32).shape == (1, 3, 32, 32)


def test_flip():
    video = torch.arange(12).view(1, 1, 3, 4)
    flipped = [flip(video, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert all(torch.equal(v, video) or torch.equal(v, video.flip(-1)) for v in flipped)
    assert 70 < sum(torch.equal(v, video) for v in flipped) < 130
