"""The schedules of Pyramid Attention Broadcast, worked out by hand."""

import pytest
import torch

from latte.pab import Broadcast, Spans, as_number, broadcast_options

DDIM_50 = range(980, -1, -20)


def computed(rule, timesteps=DDIM_50):
    """The timesteps at which a layer under a rule computes."""
    before, out = None, []
    for count, t in enumerate(timesteps):
        if not (count and rule.reuses(count, t, before)):
            out.append(t)
        before = t
    return out


def test_schedules_of_fifty_steps():
    """Counts, and the timesteps computed in the window, as measured with diffusers for ranges 2, 3 and 5."""
    counts = {every: len(computed(Broadcast(every))) for every in (2, 3, 5)}
    assert counts == {2: 33, 3: 27, 5: 23}
    inside = {every: [t for t in computed(Broadcast(every)) if 100 < t < 800] for every in (2, 3, 5)}
    assert inside[2] == list(range(780, 100, -40))
    assert inside[3] == list(range(740, 100, -60))
    assert inside[5] == list(range(780, 100, -100))
    assert computed(Broadcast(1)) == list(DDIM_50)
    assert [as_number(t) for t in (500, 0.5, torch.tensor(7), torch.tensor([9.5, 9.5]))] == [500, 0.5, 7, 9.5]


def test_schedule_of_mlps():
    """VideoSys's at 50 steps: computed at the start of a span, then reused twice; the same spans at any step count."""
    reused = lambda timesteps: [t for t in timesteps if t not in computed(Spans(), timesteps)]
    assert reused(DDIM_50) == [700, 680, 620, 600, 540, 520, 460, 440, 380, 360]
    assert reused(range(960, -1, -40)) == [680, 600, 520, 440, 360]
    assert len(reused(range(990, -1, -10))) == 25
    assert reused(range(950, -1, -100)) == []


def test_options_by_kind_of_layer():
    ranges = {"spatial": 2, "temporal": 3, "cross": 5, "mlp": 2}
    assert list(broadcast_options(ranges).values()) == [2, 3, 5, 2] and not broadcast_options({})
    assert broadcast_options({"mlp": 2, "cross": 6}) == {"mlp_skip_range": 2, "cross_attn_skip_range": 6}
    with pytest.raises(ValueError, match=r"^kind is 'hue', not one of spatial, temporal"):
        broadcast_options({"hue": 2})
