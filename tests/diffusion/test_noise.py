"""The noise of each video and step."""

from itertools import combinations

import pytest
import torch

from latte.diffusion.randomness import START, noise_source, normal

SHAPE = (2, 4, 3, 3)  # (f, c, h, w)
GIVEN = {
    "seed": lambda: {"seed": 3},
    "one generator": lambda: {"random": torch.Generator().manual_seed(3)},
    "a generator each": lambda: {"random": [torch.Generator().manual_seed(i) for i in (3, 4, 5)]},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_every_video_has_its_own_noise_in_every_step(given):
    noise = noise_source(3, SHAPE, **given())
    drawn = [part for step in (START, 0, 1, 2) for part in noise(step, [0, 1, 2])]
    assert all(part.shape == SHAPE for part in drawn)
    for one, other in combinations(drawn, 2):
        assert abs(float((one * other).mean())) < 0.6 and not torch.allclose(one, other, atol=0.1)


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_repeated_video_index_repeats_its_noise(given):
    whole, filled = noise_source(3, SHAPE, **given()), noise_source(3, SHAPE, **given())
    for step in (START, 0, 1):
        expected = whole(step, [0, 1, 2])
        assert torch.equal(filled(step, [0, 1]), expected[:2])
        assert torch.equal(filled(step, [2, 2]), expected[[2, 2]])


def test_seeded_noise_depends_on_video_index_and_step():
    noise = noise_source(4, SHAPE, seed=3, first=5)
    for step in (START, 0, 6):
        expected = torch.stack([normal(SHAPE, 3, 5 + i, step + 1) for i in (1, 3)])
        assert torch.equal(noise(step, [1, 3]), expected)
    assert torch.equal(noise_source(1, SHAPE)(0, [0])[0], normal(SHAPE, 0, 0, 1))


def test_given_latents_are_used_only_as_the_start():
    latents = torch.randn(2, 4, 2, 3, 3)
    noise = noise_source(2, SHAPE, seed=3, latents=latents)
    assert torch.equal(noise(START, [1]), latents[1:].transpose(1, 2))
    assert torch.equal(noise(0, [1])[0], normal(SHAPE, 3, 1, 1))


def test_invalid_noise_sources_are_rejected():
    latents = torch.zeros(3, 4, 2, 3, 3)
    for given, say in (
        ({"latents": latents.numpy()}, "latents are a ndarray: expected a dense torch.Tensor"),
        ({"latents": latents.to_sparse()}, "or a sparse one"),
        ({"latents": latents.to("meta")}, "tensor without memory"),
        ({"latents": latents / 0}, "latents contain NaN or infinite values"),
        ({"random": 5}, "generator is a int: expected a torch.Generator"),
        ({"random": [1, 2, 3]}, "generator is a list"),
    ):
        with pytest.raises(ValueError, match=say):
            noise_source(3, SHAPE, **given)
    for seed in ("a", 1.5, None):
        with pytest.raises(ValueError, match="it must be a whole number, 0 or more"):
            normal(SHAPE, seed)
