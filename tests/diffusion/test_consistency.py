"""Few-step distillation where the answer is known: the teacher's own steps, and Gaussian data."""

from functools import partial

import pytest
import torch
from small_latte import draw

from latte.diffusion.consistency import consistency_loss, student_share, teacher_schedule
from latte.diffusion.predictions import factors, network_input, noise_of, predicted_clean, prediction_of
from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import flow_schedule, linear_schedule
from latte.train.objectives.distillation import student_scheduler

X = draw(0, 6, 2, 3, 2, 2).double()
VARIANCE = 0.25  # of the data, Gaussian with mean 0


def levels(schedule, index):
    """a and s of one step, and those a DDIM step leads to."""
    here, there = float(schedule.alphas_cumprod[index]), float(schedule.alphas_cumprod_prev[index])
    return here**0.5, (1 - here) ** 0.5, there**0.5, (1 - there) ** 0.5


def optimal(schedule, x, index):
    """The clean latents predicted by the optimal denoiser, which is linear."""
    a, s = factors(schedule, index, x)
    return a * VARIANCE / (a**2 * VARIANCE + s**2) * x


def reaching(schedule, length, factor):
    """A student whose step multiplies latents by factor(index, end), expressed as its clean-latent prediction."""

    def clean(x, index):
        rows = []
        for row, i in zip(x, index.tolist()):
            end = i // length * length
            (a, s, _, _), (_, _, a_end, s_end) = levels(schedule, i), levels(schedule, end)
            rows.append((factor(i, end) - s_end / s) * row / (a_end - a * s_end / s))
        return torch.stack(rows)

    return clean


def by_steps(schedule):
    """The factor by which the teacher's steps from `index` down to `end` multiply latents."""

    def factor(index, end):
        product = 1.0
        for i in range(end, index + 1):
            a, s, a_next, s_next = levels(schedule, i)
            clean = a * VARIANCE / (a**2 * VARIANCE + s**2)
            product *= a_next * clean + s_next * (1 - a * clean) / s
        return product

    return factor


def by_the_equation(schedule):
    """The same factor for the exact probability-flow ODE, which preserves x / sqrt(a^2 variance + s^2)."""

    def factor(index, end):
        (a, s, _, _), (_, _, a_end, s_end) = levels(schedule, index), levels(schedule, end)
        return ((a_end**2 * VARIANCE + s_end**2) / (a**2 * VARIANCE + s**2)) ** 0.5

    return factor


@pytest.mark.parametrize("training", [linear_schedule(), flow_schedule()])
@pytest.mark.parametrize("phases", [1, 2, 4])
def test_a_student_matching_the_teachers_steps_has_zero_loss(training, phases):
    schedule, length = teacher_schedule(training, 16), 16 // phases
    student = reaching(schedule, length, by_steps(schedule))
    teacher = partial(optimal, schedule)
    for index in range(16):
        loss = consistency_loss(student, teacher, X, torch.full((6,), index), schedule, length)
        assert float(loss.max()) < 1e-20
    worse = lambda x, index: student(x, index) + 0.1
    assert float(consistency_loss(worse, teacher, X, torch.zeros(6).long(), schedule, length).min()) >= 0.01


def test_the_loss_of_an_exact_ode_student_falls_with_more_teacher_steps():
    def loss(steps):
        schedule = teacher_schedule(flow_schedule(), steps)
        student = reaching(schedule, steps // 4, by_the_equation(schedule))
        index = torch.arange(steps)[steps // 2 - 3 : steps // 2 + 3]
        return float(consistency_loss(student, partial(optimal, schedule), X, index, schedule, steps // 4).mean())

    # at the end of a phase the student has the ODE's slope, the teacher that of the previous step: error ~ 1 / n
    assert loss(40) < 1e-3 and loss(200) < loss(40) / 16


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_the_teacher_has_zero_loss_with_one_step_per_phase(prediction):
    schedule = teacher_schedule(flow_schedule() if prediction == "flow" else linear_schedule(), 8)
    weight = draw(1, 3, 3).double()
    network = lambda x, t: torch.einsum("bfchw,cd->bfdhw", x, weight) * (1 + t.view(-1, 1, 1, 1, 1) / 1000)
    clean = lambda x, index: predicted_clean(network, x, index, schedule, prediction)
    index = torch.tensor([0, 1, 3, 4, 6, 7])
    assert (consistency_loss(clean, clean, X, index, schedule, 1) == 0).all()
    assert (consistency_loss(clean, clean, X, index, schedule, 8)[1:] > 0).all()


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_predicted_clean_latents_invert_every_prediction(prediction):
    schedule, index = teacher_schedule(linear_schedule(), 8), torch.tensor([0, 1, 3, 4, 6, 7])
    a, s = factors(schedule, index, X)
    clean, eps = draw(2, *X.shape).double(), draw(3, *X.shape).double()
    x = a * clean + s * eps

    def network(given, t, y):
        assert torch.equal(given, network_input(prediction, x, a, s)) and torch.equal(t, schedule.timesteps[index])
        return torch.cat([prediction_of(prediction, clean, eps, a, s), given], 2) + y  # with variance channels

    assert torch.allclose(predicted_clean(network, x, index, schedule, prediction, y=0), clean, atol=1e-10)


def test_the_target_matches_a_teacher_step_followed_by_a_student_step():
    schedule, length = teacher_schedule(linear_schedule(), 12), 4
    share = student_share(schedule, length)
    assert share[[0, 4, 8]].tolist() == [0, 0, 0]
    assert share[1:4].tolist() == [1, 1, 1]  # the last phase ends without noise: the student's prediction alone decides
    for index in (6, 11):
        end = index // length * length
        (a, s, a_next, s_next), (_, _, a_end, s_end) = levels(schedule, index), levels(schedule, end)
        x, taught, student = 0.7, 0.3, -0.4
        lower = a_next * taught + s_next * (x - a * taught) / s
        there = a_end * student + s_end * (lower - a_next * student) / s_next
        clean = share[index] * student + (1 - share[index]) * taught
        assert float(a_end * clean + s_end * (x - a * clean) / s) == pytest.approx(there, abs=1e-12)


def test_gradients_flow_only_through_the_students_prediction():
    schedule, weight = teacher_schedule(linear_schedule(), 8), torch.ones((), dtype=torch.float64, requires_grad=True)
    index, seen = torch.tensor([1, 2, 3, 5, 6, 7]), []

    def student(x, index):
        seen.append(x.detach())
        return weight * x

    loss = consistency_loss(student, lambda x, index: 0.5 * x, X, index, schedule, 4)
    (slope,) = torch.autograd.grad(loss.sum(), weight)
    lower, own = seen
    share = student_share(schedule, 4)[index].view(-1, 1, 1, 1, 1)
    _, s = factors(schedule, index, X)
    error = own - (share * lower + (1 - share) * 0.5 * X)
    assert torch.allclose(loss, (error / s).square().flatten(1).mean(1))
    assert float(slope) == pytest.approx(float((2 * error * X / s**2).flatten(1).mean(1).sum()))


def test_four_steps_of_the_student_end_where_the_teachers_steps_do():
    schedule = teacher_schedule(linear_schedule(), 20)
    student = reaching(schedule, 5, by_steps(schedule))
    steps = student_scheduler(4, "eps").schedule(4)
    assert steps.timesteps.tolist() == schedule.timesteps[4::5].tolist()

    def noise(clean, grid):
        def denoise(x, t):
            index = torch.tensor([int((grid.timesteps == each).nonzero()) for each in t])
            a, s = factors(grid, index, x)
            return noise_of("x0", clean(x, index), x, a, s)

        return denoise

    of_student = noise(lambda x, index: student(x, 5 * index + 4), steps)
    of_teacher = noise(partial(optimal, schedule), schedule)
    (*_, few), (*_, many) = ddim(of_student, X, steps), ddim(of_teacher, X, schedule)
    assert torch.allclose(few, many, atol=1e-10)
