"""The shipped VAE: reconstructions of held-out frames, and the geometry of its colours."""

import pytest
import torch

from latte.shapes.draw import COLOURS, make_clip
from latte.weights.find_models import find_model
from latte.weights.vae_folder import load_vae

SIDE = 8  # latents along a frame


@pytest.fixture(scope="module")
def seen():
    """Clips that training never draws, one frame each, with their pixels and latents."""
    vae = load_vae(find_model("shapes/vae"))
    clips = [make_clip(5, 10**6 + i, window=slice(8, 9)) for i in range(60)]
    frames = torch.stack([torch.from_numpy(clip.video) for clip in clips]) / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(frames)
        return clips, frames, latents, vae.decode(latents).clamp(-1, 1)


def test_held_out_frames_are_reconstructed(seen):
    _, frames, latents, decoded = seen
    assert -10 * torch.log10((decoded - frames).div(2).square().mean()) > 40
    assert latents.mean((0, 1, 3, 4))[:3].abs().max() < 0.2  # the thumbnail: the background is far below 0 before
    assert abs(float(latents.std()) - 1) < 0.1


def test_colours_span_a_plane(seen):
    """The middle of a shape minus a corner, per colour: the plane is as wide as it is long, and linear in RGB."""
    clips, _, latents, _ = seen
    found = {name: [] for name in COLOURS}
    for clip, (latent,) in zip(clips, latents):
        x, y = (int(place) * SIDE // 64 for place in clip.trajectory[0])
        corner = latent[:, 0 if y >= SIDE // 2 else -1, 0 if x >= SIDE // 2 else -1]
        found[clip.colour].append(latent[:, y, x] - corner)
    points = torch.stack([torch.stack(values).mean(0) for values in found.values()])
    values = torch.linalg.svdvals(points - points.mean(0))
    assert values[1] > 0.6 * values[0]
    rgb = torch.cat([torch.tensor(list(COLOURS.values())) / 127.5 - 1, torch.ones(len(COLOURS), 1)], 1)
    left = points - rgb @ torch.linalg.lstsq(rgb, points).solution
    assert left.square().sum() < 0.05 * (points - points.mean(0)).square().sum()
