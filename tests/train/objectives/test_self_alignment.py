"""Self-alignment: the teacher's timesteps and tokens, and the loss in closed form."""

from functools import partial

import pytest
import torch
from small_latte import X, Y, draw, warm

from latte.diffusion.loss import diffusion_loss
from latte.diffusion.schedule import linear_schedule, q_sample
from latte.train.config import LatteTrainConfig
from latte.train.objectives.self_alignment import add_head, alignment_loss, less_noisy, teacher_tokens
from latte.train.objectives.token_routing import gather_places


def test_the_loss_is_a_square_below_0_05_and_linear_above():
    tokens, target = torch.zeros(1, 2), torch.tensor([[0.02, -1.0]])
    expected = (0.5 * 0.02**2 / 0.05 + (1 - 0.05 / 2)) / 2
    assert float(alignment_loss(tokens, target)) == pytest.approx(expected)


def test_the_teacher_sees_less_noise_by_a_share_of_the_schedule():
    config = LatteTrainConfig(vae="any", align_weight=1.0, align_gap=0.2)
    index = torch.full((400,), 500)
    earlier = less_noisy(config, index, 1000, 3, range(400))
    assert earlier.min() > 300 and earlier.max() <= 500 and abs(earlier.float().mean() - 400) < 12  # 4 deviations
    assert torch.equal(less_noisy(config, index[:7], 1000, 3, range(5, 12)), earlier[5:12])
    assert (less_noisy(config, 0 * index, 1000, 3, range(400)) == 0).all()


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_teachers_tokens_are_a_blocks_output_on_less_noisy_clips(blocks):
    teacher, schedule, noise = warm(), linear_schedule(), draw(8, *X.shape)
    shared = dict(x0=X, noise=noise, schedule=schedule, prediction="eps", y=Y)
    index, seen, called = torch.tensor([100, 700]), [], []
    with torch.no_grad():
        hook = teacher.blocks[blocks - 1].register_forward_hook(lambda _, args, out: seen.append(out))
        teacher(q_sample(schedule, X, index, noise), schedule.timesteps[index], Y)
        hook.remove()
    teacher.blocks[blocks].register_forward_hook(lambda *_: called.append(True))
    tokens = teacher_tokens(teacher, blocks, partial(diffusion_loss, **shared), index)
    assert torch.equal(tokens, seen[0]) and not called and not tokens.requires_grad
    kept = gather_places(tokens, torch.tensor([[0, 3], [5, 7]]))
    assert torch.equal(kept[1, 2, 1], tokens[1, 2, 7]) and kept.shape == (2, 4, 2, 48)


def test_the_head_is_two_layers():
    network = warm()
    add_head(network)
    shapes = [tuple(parameter.shape) for parameter in network.alignment_head.parameters()]
    assert shapes == [(96, 48), (96,), (48, 96), (48,)]
