"""The order of clips: every epoch holds each clip once, and any step can be requested first."""

from types import SimpleNamespace

import torch

from latte.train.data.batches import Batches
from latte.train.data.clip_order import ClipOrder
from latte.train.data.clips import TrainingClip
from latte.train.data.failures import Failures

CONFIG = SimpleNamespace(seed=3, global_batch_size=4, num_images=2, num_workers=0, steps=6)


class NumberedClips:
    """Ten clips of one pixel, labelled by their number."""

    failures = Failures(10, 1.0)

    def __len__(self):
        return 10

    def clip(self, index, random):
        return TrainingClip(torch.rand(1, 3, 1, 1, generator=random), index, "")

    frame = clip


def test_every_epoch_is_a_new_permutation():
    order = ClipOrder(10, CONFIG)
    numbers = [order.index(step, slot) for step in range(10) for slot in range(4)]
    epochs = [numbers[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len(set(map(tuple, epochs))) == 4


def test_a_slot_does_not_depend_on_the_order_of_requests():
    in_order, backwards = ClipOrder(10, CONFIG), ClipOrder(10, CONFIG)
    places = [(step, slot) for step in range(6) for slot in range(4)]
    content = lambda order, at: (*order.slot(*at)[:2], *(torch.rand((), generator=g) for g in order.slot(*at)[2:]))
    expected = {at: content(in_order, at) for at in places}
    assert all(content(backwards, at) == expected[at] for at in reversed(places))


def test_batches_read_ahead_are_those_read_at_once():
    micro_batches = [range(0, 2), range(2, 4)]
    at_once = Batches(NumberedClips(), CONFIG)
    ahead = Batches(NumberedClips(), SimpleNamespace(**{**vars(CONFIG), "num_workers": 2}))
    ahead.prepare(micro_batches, 3)
    for step, slots in [(3, range(0, 2)), (3, range(2, 4)), (4, range(0, 2))]:
        a, b = (batches.batch(step, slots) for batches in (at_once, ahead))
        assert torch.equal(a.videos, b.videos) and torch.equal(a.labels, b.labels)
        assert a.videos.shape == (2, 3, 3, 1, 1) and a.labels.shape == (2, 3)
    assert ahead.read_ahead is not None
    for step, slots in [(0, range(2, 4)), (5, range(0, 2)), (5, range(2, 4))]:  # the first one is out of order
        assert torch.equal(at_once.batch(step, slots).videos, ahead.batch(step, slots).videos)
    assert ahead.read_ahead is None  # the workers stop now, not when the garbage collector finds the cycle
