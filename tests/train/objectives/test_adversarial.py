"""Adversarial distillation: whom each loss trains, on which states and at which noise, and what a run keeps of it."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from awake_models import awake
from forks import together
from safetensors.torch import load_file
from small_latte import T, X, Y, warm
from small_runs import run, same, tensors
from students import KINDS, student_of, teacher_folder

from latte import LattePipeline
from latte.diffusion.predictions import factors, noise_of
from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import q_sample
from latte.files import read_json
from latte.train.data.latents import open_data
from latte.train.objectives import objective
from latte.train.objectives.adversarial import Discriminator

HEAD = "discriminator.head.weight"


@pytest.fixture(scope="module")
def teachers(vae, tmp_path_factory):
    """A function from a kind of teacher to a folder with one that has learned a little."""
    root = tmp_path_factory.mktemp("teachers")
    return lambda kind: teacher_folder(kind, vae, root)


@pytest.fixture
def learning(vae, teachers):
    """A function from changed settings to the objective and the network of a student, with its discriminator."""

    def make(*words, kind="classes", judge=True):
        config = student_of(kind, vae, teachers(kind), *words, adversarial=True)
        made = objective(open_data(config), config, torch.device("cpu"))
        made.prepare([range(4)], 0)
        network = made.network()
        made.attach(network, network)
        if judge:
            torch.nn.init.normal_(network.discriminator.head.weight)
        return made, network

    return make


def generators(seed):
    return lambda draw: [torch.Generator().manual_seed(100 * seed + 10 * slot + draw) for slot in range(4)]


def batch():
    x0, noise = torch.randn(2, 4, 4, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    return x0, torch.tensor([3, 0, 2, 1]), noise, {"y": torch.tensor([[0], [3], [5], [7]])}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_student_is_bit_exact_and_its_discriminator_is_left_out_of_the_result(kind, vae, teachers, tmp_path):
    config = student_of(kind, vae, teachers(kind), "steps=3", adversarial=True)
    final = run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-0000003")
    run(config, tmp_path / "parts")
    steps = [tmp_path / name / "checkpoints/step-0000003" for name in ("whole", "parts")]
    assert same(*map(tensors, steps)) and same(*(load_file(step / "head.safetensors") for step in steps))
    former = load_file(tmp_path / "whole/checkpoints/step-0000002/head.safetensors")
    assert not torch.equal(former[HEAD], load_file(steps[0] / "head.safetensors")[HEAD])
    assert not any("discriminator" in name for name in tensors(steps[0]) if not name.startswith("optimizer"))
    assert read_json(final / "sampling.json") == {"guidance_scale": 1.0, "num_inference_steps": 4, "eta": 1.0}
    ask = {"text": {"prompt": "a red star"}, "classes": {"class_labels": [0]}}.get(kind, {"num_videos": 1})
    pipe = LattePipeline.from_pretrained(final)
    assert pipe(**ask, seed=0, output_type="latent", progress=False).frames.isfinite().all()


def test_a_student_begins_its_steps_where_sampling_leads(learning):
    made, network = learning()
    distillation = made.distillation
    x0, index, _, condition = batch()
    noise = torch.randn(4, 4, *x0.shape[1:], generator=torch.Generator().manual_seed(5))

    def denoise(x, t):
        step = torch.full((4,), distillation.schedule.timesteps.tolist().index(int(t[0])))
        return noise_of("v", network(x, t, **condition)[:, :, :4], x, *factors(distillation.schedule, step, x))

    sampled = [noise[:, 0], *ddim(denoise, noise[:, 0], distillation.schedule, lambda i: noise[:, i + 1], eta=1.0)]
    expected = torch.stack([sampled[3 - int(step)][row] for row, step in enumerate(index)])
    assert torch.allclose(distillation.states(network, noise, index, condition), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["classes", "unconditional flow"])
def test_the_student_learns_to_fool_a_fixed_discriminator_which_learns_to_judge_a_fixed_student(kind, learning):
    made, network = learning(kind=kind)
    distillation, (x0, index, noise, condition) = made.distillation, batch()
    condition = condition if kind == "classes" else {}
    loss, logged = distillation(network, x0, index, noise, condition, {}, generators(1))
    loss.backward()
    found = {name: own.grad for name, own in network.named_parameters() if own.grad is not None}
    again = torch.stack([torch.randn(x0.shape[1:], generator=z) for z in generators(1)(13)])
    first = torch.stack([torch.randn(4, *x0.shape[1:], generator=z) for z in generators(1)(11)])
    x, t = distillation.states(network, first, index, condition), distillation.judged_at(index, generators(1)(12))

    def ahead():
        clean = distillation.clean(network)(x, index, **condition)
        noisy = (q_sample(distillation.training, z, t, e) for z, e in ((x0, noise), (clean, again)))
        a, s = factors(distillation.training, t, x0)
        given = (z / (a + s) if kind == "unconditional flow" else z for z in noisy)
        real, false = (network.discriminator(z, distillation.training.timesteps[t], **condition) for z in given)
        return real - false

    for of_judge, sign in ((True, -1), (False, 1)):
        learning = [name for name, own in network.named_parameters() if own.requires_grad]
        own = [name for name in learning if name.startswith("discriminator") == of_judge]
        value = F.softplus(sign * ahead()).mean()
        assert logged["loss" if of_judge else "fooling"] == pytest.approx(float(value), abs=1e-6)
        expected = torch.autograd.grad(value, [network.get_parameter(name) for name in own])
        assert len(own) > 10 and sum(float(each.abs().max()) > 1e-6 for each in expected) > len(own) / 2
        for name, gradient in zip(own, expected):
            assert torch.allclose(found[name], gradient, atol=1e-6), name


def test_a_new_discriminator_finds_everything_equally_real(learning):
    made, network = learning(judge=False)
    loss, logged = made(network, 0, range(4))
    assert float(loss) == pytest.approx(math.log(2)) and logged["ahead"] == 0


def test_the_discriminator_is_the_teacher_up_to_three_quarters_of_its_blocks(learning):
    made, network = learning()
    assert network.discriminator.network is made.distillation.teacher
    judge, tokens = Discriminator(warm()), []
    torch.nn.init.normal_(judge.head.weight)
    judge.network.blocks[2].register_forward_hook(lambda module, given, out: tokens.append(out))
    judge.network.blocks[3].register_forward_hook(lambda *_: pytest.fail("the last block is not needed"))
    logits = judge(X, T, y=Y)
    assert logits.shape == (2, 4, 16)
    assert torch.allclose(logits, judge.head(F.layer_norm(tokens[0], (48,))).squeeze(-1))
    learns = {name for name, own in judge.named_parameters() if own.requires_grad}
    assert "network.blocks.2.attns.0.qkv.weight" in learns and "head.weight" in learns
    assert not any(name.startswith(("network.blocks.3.", "network.final")) for name in learns)


def test_predictions_are_judged_at_the_noise_of_their_own_step(learning):
    distillation = learning()[0].distillation
    assert distillation.schedule.timesteps.tolist() == [249, 499, 749, 999]
    random = [torch.Generator().manual_seed(i) for i in range(400)]
    for step, (low, high) in enumerate([(0, 249), (249, 499), (499, 749), (749, 999)]):
        t = distillation.judged_at(torch.full((400,), step), random)
        assert low <= t.min() < low + 10 and high - 10 < t.max() <= high
        assert abs(t.float().mean() - (low + high) / 2) < 12


def test_a_student_comes_closer_to_real_latents(learning):
    made, network = learning()
    distillation, (x0, index, noise, condition) = made.distillation, batch()
    real, awakened = torch.full_like(x0, 2.0), awake(network)
    optimizer = torch.optim.AdamW(awakened.parameters(), 3e-3)
    means = []
    for step in range(60):
        optimizer.zero_grad()
        distillation(network, real, index, noise, condition, {}, generators(step))[0].backward()
        optimizer.step()
        x = distillation.states(network, noise[:, None].repeat(1, 4, 1, 1, 1, 1), index * 0, condition)
        means.append(float(distillation.clean(network)(x, index * 0, **condition).mean()))
    assert means[-1] > means[0] + 0.5


def test_two_processes_train_the_same_student_as_one(vae, teachers, tmp_path):
    config = student_of("classes", vae, teachers("classes"), "micro_batch_size=2", adversarial=True)
    together(2, lambda: run(config, tmp_path / "two"), tmp_path / "log")
    run(config, tmp_path / "one")
    one, two = (tmp_path / name / "checkpoints/step-0000002" for name in ("one", "two"))
    assert same(tensors(one), tensors(two))
    assert same(*(load_file(folder / "head.safetensors") for folder in (one, two)))


REFUSED = {
    "shard=true": "distillation=adversarial does not work with shard=true: leave it at false",
    "sequence_parallel=2": "distillation=adversarial does not work with sequence_parallel=2: leave it at 1",
    "compile=true": "distillation=adversarial does not work with compile=true: leave it at false",
    "precision=fp16": "distillation=adversarial needs precision=bf16 or fp32",
    "teacher_steps=32": "teacher_steps does nothing with distillation=adversarial",
    "teacher_guidance=2": "teacher_guidance does nothing with distillation=adversarial",
    "teacher=": "distillation does nothing with teacher=",
}


@pytest.mark.parametrize("word", REFUSED)
def test_settings_that_do_not_fit_are_rejected(word, vae, teachers):
    with pytest.raises(ValueError, match=REFUSED[word]) as error:
        student_of("classes", vae, teachers("classes"), word, adversarial=True)
    assert "\n" not in str(error.value)
