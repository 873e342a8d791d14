"""Token routing: which tokens skip which blocks, and that the other tokens do not see them."""

import pytest
import torch
from small_latte import T, Y, draw, text_model, warm
from torch import nn

from latte.models.denoiser import Condition
from latte.train.config import LatteTrainConfig
from latte.train.objectives.token_routing import routed, staying

CONFIG = LatteTrainConfig(vae="any", route_share=0.5, seed=3)


class Adding(nn.Module):
    """A block that adds a number to every token it sees."""

    kinds = "st"

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x, *rest):
        return x + self.number


def condition(model):
    return model.class_condition(model.condition(T, Y)) if hasattr(model, "class_condition") else text_condition(model)


def text_condition(model):
    return model.text_condition(T, draw(7, 2, 3, 8), torch.ones(2, 3))


def test_routed_tokens_skip_the_selected_blocks():
    network = warm()
    network.blocks = nn.ModuleList(Adding(10.0**i) for i in range(4))
    network.add_temporal_position = lambda x: x + 0.5 * torch.arange(x.shape[1])[:, None, None]
    x, empty = torch.zeros(2, 3, 4, 1), Condition(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))
    for first_temporal in range(4):
        network.first_temporal = first_temporal
        with routed(network, range(1, 3), torch.tensor([[0, 2], [1, 2]])):
            out = network.through_blocks(x, empty, True)
        for frame in range(3):
            all_of_them, some = 1111 + 0.5 * frame, 1001 + 0.5 * frame  # the position reaches every token once
            assert out[0, frame, :, 0].tolist() == [all_of_them, some, all_of_them, some]
            assert out[1, frame, :, 0].tolist() == [some, all_of_them, all_of_them, some]
    assert network.through_blocks(x, empty, True)[..., 0].unique().tolist() == [1111, 1111.5, 1112]  # detached again


@pytest.mark.parametrize("model", [1, 2, 3, 4, "rope", "tokens", "text"])
@pytest.mark.parametrize("temporal", [True, False])
def test_skipping_tokens_are_unchanged_and_invisible_to_the_others(model, temporal):
    if model == "text":
        network = text_model()
    elif model in ("rope", "tokens"):
        network = warm(temporal_pos=model) if model == "rope" else warm(conditioning=model)
    else:
        network = warm(variant=model)
    c = condition(network)
    prefix = 0 if c.tokens is None else c.tokens.shape[2]
    places = torch.tensor([[0, 3], [1, 2]])
    stays = torch.zeros(2, prefix + 4, dtype=torch.bool)
    stays[:, :prefix] = True
    stays.scatter_(1, places + prefix, True)
    x = draw(5, 2, 4, prefix + 4, 48)
    moved = x + 0.7 * (~stays)[:, None, :, None]
    with torch.no_grad(), routed(network, range(len(network.blocks)), places):
        before, after = network.through_blocks(x, c, temporal), network.through_blocks(moved, c, temporal)
    per_place = (after - before).abs().amax((1, 3))
    assert (per_place[stays] == 0).all()
    torch.testing.assert_close((after - before).movedim(2, 1)[~stays], torch.full((4, 4, 48), 0.7))
    with torch.no_grad():
        assert (network.through_blocks(x, c, temporal) - before).abs().amax((1, 3)).min() > 1e-3


def test_the_places_depend_on_seed_step_and_slot_alone():
    whole = staying(CONFIG, 9, 4, range(6))
    assert whole.shape == (6, 5) and (whole.diff() > 0).all() and whole.min() >= 0 and whole.max() < 9
    parts = [staying(CONFIG, 9, 4, slots) for slots in (range(2), range(2, 6))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(staying(CONFIG, 9, 5, range(6)), whole) and len(whole.unique(dim=0)) > 1
    many = staying(CONFIG, 9, 0, range(500)).flatten().bincount() / 500
    assert (many - 5 / 9).abs().max() < 0.1  # 4.5 standard deviations


@pytest.mark.parametrize(("share", "places", "left"), [(0.5, 4, 2), (0.25, 4, 3), (0.3, 10, 7), (0.99, 100, 1)])
def test_number_of_kept_tokens(share, places, left):
    assert staying(LatteTrainConfig(vae="any", route_share=share), places, 0, range(1)).shape == (1, left)
