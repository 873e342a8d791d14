"""Moment matching: what its two losses train, at which noise, and what a run keeps of the auxiliary network."""

import copy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from awake_models import awake
from forks import together
from safetensors.torch import load_file
from small_runs import run, same, tensors
from students import KINDS, student_of, teacher_folder

from latte import LattePipeline
from latte.diffusion.gaussian import state_between
from latte.diffusion.predictions import factors, noise_of
from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import q_sample
from latte.files import read_json
from latte.models.latte import Latte
from latte.processes import Ranks
from latte.train.data.clip_order import Draw
from latte.train.data.latents import open_data
from latte.train.objectives import objective
from latte.train.objectives.moment_matching import MomentMatching
from latte.train.optimizer import make_optimizer
from latte.train.step import StepHistory, optimizer_step


@pytest.fixture(scope="module")
def teachers(vae, tmp_path_factory):
    """A function from a kind of teacher to a folder with one that has learned a little."""
    root = tmp_path_factory.mktemp("teachers")
    return lambda kind: teacher_folder(kind, vae, root)


@pytest.fixture
def learning(vae, teachers):
    """A function from changed settings to the objective and the network of a student, with its auxiliary network."""

    def make(*words, kind="classes"):
        config = student_of(kind, vae, teachers(kind), *words, moments=True)
        made = objective(open_data(config), config, torch.device("cpu"))
        made.prepare([range(4)], 0)
        network = made.network()
        made.attach(network, network)
        return made, network

    return make


def generators(draw):
    return [torch.Generator().manual_seed(10 * slot + draw) for slot in range(4)]


def batch(kind="classes"):
    x0, noise = torch.randn(2, 4, 4, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    y = torch.tensor([[0], [3], [5], [7]])
    shown = ({"y": y}, {"y": torch.full_like(y, 8)}) if kind == "classes" else ({}, {})
    return x0, torch.tensor([3, 0, 2, 1]), noise, *shown


@pytest.mark.parametrize("word", ["optimizer=adamw", "optimizer=muon", "backward_simulation=true"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_student_is_bit_exact_and_the_auxiliary_network_is_not_in_its_result(
    kind, word, vae, teachers, tmp_path
):
    config = student_of(kind, vae, teachers(kind), "steps=3", word, moments=True)
    final = run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-0000003")
    run(config, tmp_path / "parts")
    whole, parts = (tmp_path / name / "checkpoints/step-0000003" for name in ("whole", "parts"))
    heads = [load_file(step / "head.safetensors") for step in (whole, parts)]
    assert same(tensors(whole), tensors(parts)) and same(*heads) and all(z.startswith("auxiliary.") for z in heads[0])
    assert not same(heads[0], load_file(tmp_path / "whole/checkpoints/step-0000002/head.safetensors"))
    assert not any("auxiliary" in name for name in tensors(whole) if not name.startswith("optimizer"))
    assert read_json(final / "sampling.json") == {"guidance_scale": 1.0, "num_inference_steps": 4, "eta": 1.0}
    ask = {"text": {"prompt": "a red star"}, "classes": {"class_labels": [0]}}.get(kind, {"num_videos": 1})
    pipe = LattePipeline.from_pretrained(final)
    assert pipe(**ask, seed=0, output_type="latent", progress=False).frames.isfinite().all()


@pytest.mark.parametrize("kind", ["classes", "unconditional flow"])
def test_both_losses_are_those_of_the_paper_and_each_trains_its_own_network(kind, learning):
    made, network = learning(kind=kind)
    one, (x0, index, noise, condition, empty) = made.distillation, batch(kind)
    awake(network)
    loss, logged = one(network, x0, index, noise, condition, empty, generators)
    loss.backward()
    found = {name: own.grad for name, own in network.named_parameters()}
    t, x = one.within(index, generators(Draw.MATCHED_AT)), q_sample(one.schedule, x0, index, noise)
    fresh = torch.stack([torch.randn(x0.shape[1:], generator=z) for z in generators(Draw.MATCHED_NOISE)])
    (a, s), upper = factors(one.training, t, x), factors(one.schedule, index, x)
    clean = one.clean(network)(x, index, **condition)
    state = state_between(x, clean.detach(), fresh, upper, (a, s))
    mean = one.clean(network.auxiliary, one.training)(state, t, **condition)
    taught = one.guided(state, t, condition, empty, one.training).detach()
    apart = (clean - taught).detach().abs().mean((1, 2, 3, 4), keepdim=True)
    learned = ((mean - clean.detach()) / s).square().mean()
    matched = (clean * (mean - taught).detach() / apart).mean()
    assert float(logged["loss"]) == float(loss.detach()) == pytest.approx(float(learned.detach()))
    for of_auxiliary, value in ((True, learned), (False, matched)):
        own = [name for name in found if name.startswith("auxiliary") == of_auxiliary]
        expected = torch.autograd.grad(value, [network.get_parameter(name) for name in own], allow_unused=True)
        given = [gradient for gradient in expected if gradient is not None]
        assert len(given) > 10 and sum(float(each.abs().max()) > 1e-6 for each in given) > len(given) / 2
        for name, gradient in zip(own, expected):
            assert gradient is None or torch.allclose(found[name], gradient, atol=1e-6), name


def test_a_student_that_predicts_the_means_of_its_teacher_is_not_moved(learning):
    made, network = learning("teacher_guidance=1", "guided_from=0")
    x0, index, noise, condition, empty = batch()
    loss, logged = made.distillation(network, x0, index, noise, condition, empty, generators)
    loss.backward()
    assert logged["moments"] == 0  # the auxiliary network is still the teacher
    assert all(not own.grad.any() for name, own in network.named_parameters() if not name.startswith("auxiliary"))


def test_only_the_auxiliary_network_learns_during_the_warmup(vae, teachers, tmp_path):
    words = ["steps=5", "warmup=4", "save_every=1", "keep=5", "weight_decay=0.1", "schedule=constant"]
    config = student_of("classes", vae, teachers("classes"), *words, moments=True)
    run(config, tmp_path)
    steps = [tmp_path / f"checkpoints/step-000000{step}" for step in (1, 4, 5)]
    first, fourth, fifth = (load_file(step / "model.safetensors") for step in steps)
    assert same(first, fourth) and not same(fourth, fifth)
    state = load_file(steps[1] / "optimizer.safetensors")  # AdamW already knows the size of the student's gradients
    assert state["blocks.0.mlp.fc1.weight.exp_avg_sq"].any()
    assert not same(*(load_file(step / "head.safetensors") for step in steps[:2]))


def test_the_auxiliary_network_learns_twice_as_fast_with_little_momentum(learning):
    made, network = learning("schedule=constant")
    optimizer = make_optimizer(made.config, network)
    own, auxiliary = ({*group["params"]} for group in optimizer.param_groups)
    assert auxiliary == {*network.auxiliary.parameters()} and own | auxiliary == {*network.parameters()}
    assert all(group["betas"] == (0.5, 0.999) for group in optimizer.param_groups)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    gradients = SimpleNamespace(accumulate=lambda *_: (torch.zeros(()), {}), finish=lambda: None)
    optimizer.zero_grad = lambda set_to_none: None
    optimizer_step(made.config, gradients, optimizer, 0, Ranks(), StepHistory())
    for name, parameter in network.named_parameters():
        rate = made.config.learning_rate * (2 if name.startswith("auxiliary") else 1)
        assert float((parameter.detach() - before[name]).abs().mean()) == pytest.approx(rate, rel=1e-3), name


def test_muon_updates_the_matrices_of_both_networks_at_their_rates(learning):
    made, network = learning("optimizer=muon", "schedule=constant", "warmup=0")
    optimizer, before = make_optimizer(made.config, network), copy.deepcopy(network.state_dict())
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    gradients = SimpleNamespace(accumulate=lambda *_: (torch.zeros(()), {}), finish=lambda: None)
    optimizer.zero_grad = lambda set_to_none: None
    optimizer_step(made.config, gradients, optimizer, 0, Ranks(), StepHistory())
    moved = lambda name: float((network.state_dict()[name] - before[name]).square().mean().sqrt())
    own, auxiliary = moved("blocks.0.mlp.fc1.weight"), moved("auxiliary.blocks.0.mlp.fc1.weight")
    assert auxiliary == pytest.approx(2 * own, rel=1e-3) and own == pytest.approx(
        0.2 * made.config.learning_rate, rel=0.3
    )
    assert moved("auxiliary.final_linear.bias") == pytest.approx(2 * made.config.learning_rate, rel=1e-3)  # AdamW


def test_a_self_conditioned_teacher_is_asked_for_its_estimate_and_its_copy_is_not(vae, teachers, learning):
    made, network = learning()
    torch.manual_seed(5)
    teacher = awake(Latte(replace(made.distillation.teacher.config, self_condition=True)))
    one, seen = MomentMatching(made.config, teacher), []
    network.auxiliary = one.auxiliary()
    for which in (teacher, network.auxiliary):
        which.register_forward_pre_hook(lambda module, given: seen.append((module is teacher, given[0].shape[2])))
    loss, _ = one(network, *batch(), generators)
    assert loss.isfinite() and seen == [(True, 4), (True, 8), (False, 4)]


def test_checkpointing_saves_the_activations_of_both_networks_and_changes_no_gradient(learning):
    found = []
    for word in ("gradient_checkpointing=false", "gradient_checkpointing=true"):
        made, network = learning(word)
        awake(network)
        made(network, 0, range(4))[0].backward()
        checkpointed = [module.gradient_checkpointing for module in network.modules() if isinstance(module, Latte)]
        assert checkpointed == [word.endswith("true")] * 2
        found.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(found[1]) > 20
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*found))


def test_backward_simulation_begins_steps_where_sampling_leads(learning):
    made, network = learning("backward_simulation=true")
    one, (x0, index, noise, condition, empty) = made.distillation, batch()
    awake(network)
    drawn = torch.stack([torch.randn((4, *x0.shape[1:]), generator=z) for z in generators(Draw.STATES)])

    def denoise(x, t):
        step = torch.full((4,), one.schedule.timesteps.tolist().index(int(t[0])))
        return noise_of("v", network(x, t, **condition)[:, :, :4], x, *factors(one.schedule, step, x))

    sampled = [drawn[:, 0], *ddim(denoise, drawn[:, 0], one.schedule, lambda i: drawn[:, i + 1], eta=1.0)]
    expected = torch.stack([sampled[3 - int(step)][row] for row, step in enumerate(index)])
    torch.testing.assert_close(one.states(network, drawn, index, condition), expected, rtol=1e-3, atol=1e-3)
    seen = []
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    first, second = (one(network, z, index, noise, condition, empty, generators)[0] for z in (x0, 2 * x0))
    assert torch.equal(first, second)  # clips give no more than the conditions
    torch.testing.assert_close(seen[-1], expected, rtol=1e-3, atol=1e-3)
    plain, _ = learning()
    losses = [plain.distillation(network, z, index, noise, condition, empty, generators)[0] for z in (x0, 2 * x0)]
    assert len({float(loss.detach()) for loss in (first, *losses)}) == 3


def test_states_lie_between_the_ends_of_the_students_steps(learning):
    one = learning()[0].distillation
    assert one.schedule.timesteps.tolist() == [249, 499, 749, 999]
    random = [torch.Generator().manual_seed(i) for i in range(400)]
    for step, (low, high) in enumerate([(0, 249), (249, 499), (499, 749), (749, 999)]):
        t = one.within(torch.full((400,), step), random)
        assert low <= t.min() < low + 10 and high - 10 < t.max() <= high
        assert abs(t.float().mean() - (low + high) / 2) < 12


def test_every_setting_of_guidance_changes_the_loss(vae, teachers, learning):
    made, network = learning()
    losses = set()
    for words in ((), ("student_steps=2",), ("guided_from=600",), ("teacher_guidance=2",), ("guided_to=500",)):
        config = student_of("classes", vae, teachers("classes"), *words, moments=True)
        one = type(made.distillation)(config, made.distillation.teacher)
        x0, index, noise, condition, empty = batch()
        _, logged = one(network, x0, index.clamp(max=len(one.schedule) - 1), noise, condition, empty, generators)
        losses.add(round(float(logged["moments"]), 9))
    assert len(losses) == 5


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("classes", "deterministic_reduce=true"),
        ("classes", "shard=true"),
        ("text", "shard=true"),
        ("classes", "sequence_parallel=2"),
        ("classes", "optimizer=muon"),
    ],
)
def test_two_processes_train_the_same_student_as_one(kind, word, vae, teachers, tmp_path):
    words, exact = ["micro_batch_size=2", "backward_simulation=true"], word.startswith("deterministic")
    config = student_of(kind, vae, teachers(kind), *words, word, moments=True)
    together(2, lambda: run(config, tmp_path / "two"), tmp_path / "log")
    alone = [word] if exact or word.startswith("optimizer") else []
    run(student_of(kind, vae, teachers(kind), *words, *alone, moments=True), tmp_path / "one")
    one, two = (tmp_path / name / "checkpoints/step-0000002" for name in ("one", "two"))
    for read in (lambda step: load_file(step / "ema.safetensors"), lambda step: load_file(step / "head.safetensors")):
        assert not exact or same(read(one), read(two))
        for name, tensor in read(one).items():
            apart = (read(two)[name] - tensor).square().mean().sqrt()
            assert apart <= 0.05 * config.learning_rate, name  # of one step: AdamW magnifies rounding


def test_settings_that_do_not_apply_are_rejected(vae, teachers):
    with pytest.raises(ValueError, match="teacher_steps does nothing with distillation=moments: leave it at 64"):
        student_of("classes", vae, teachers("classes"), "teacher_steps=32", moments=True)
    with pytest.raises(ValueError, match="warmup is 2: only the auxiliary network learns in these steps"):
        student_of("classes", vae, teachers("classes"), "warmup=2", moments=True)
    with pytest.raises(ValueError, match="distillation is 'both', not 'consistency' or 'moments'"):
        student_of("classes", vae, teachers("classes"), "distillation=both", moments=True)
    with pytest.raises(ValueError, match="distillation does nothing with teacher="):
        student_of("classes", vae, teachers("classes"), "teacher=", moments=True)
