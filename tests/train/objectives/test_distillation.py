"""Distillation as a kind of training: what a student learns, writes and resumes, and which settings are rejected."""

import shutil
from dataclasses import replace

import pytest
import torch
from awake_models import awake
from forks import together
from safetensors.torch import load_file, save_file
from small_runs import run, same, small, tensors
from students import KINDS, student_of, teacher_folder

from latte import LattePipeline
from latte.diffusion.consistency import teacher_schedule
from latte.diffusion.predictions import predicted_clean
from latte.diffusion.schedule import flow_schedule, linear_schedule
from latte.fast import training_blocks
from latte.files import read_json, write_json
from latte.models.denoiser import denoiser_of
from latte.models.latte import Latte
from latte.scheduler import Scheduler
from latte.train.data.latents import open_data
from latte.train.metrics import read_lines
from latte.train.objectives import objective
from latte.train.objectives.consistency_distillation import Consistency
from latte.train.objectives.distillation import student_scheduler
from latte.weights.folder import save_folder


@pytest.fixture(scope="module")
def teachers(vae, tmp_path_factory):
    """A function from a kind of teacher to a folder with one that has learned a little."""
    root = tmp_path_factory.mktemp("teachers")
    return lambda kind: teacher_folder(kind, vae, root)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_student_is_bit_exact_and_sampled_in_its_steps(kind, vae, teachers, tmp_path):
    teacher = teachers(kind)
    config = student_of(kind, vae, teacher)
    final = run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-0000002")
    run(config, tmp_path / "parts")
    whole, parts = (tensors(tmp_path / name / "checkpoints/step-0000002") for name in ("whole", "parts"))
    assert same(whole, parts)
    assert read_json(final / "sampling.json") == {"guidance_scale": 1.0, "num_inference_steps": 4, "eta": 0.0}
    pipe = LattePipeline.from_pretrained(final)
    seen = []
    ask = {"prompt": "a red star"} if kind == "text" else {"num_videos": 1} if kind != "classes" else {}
    ask = ask or {"class_labels": [0]}
    follow = dict(callback_on_step_end=lambda pipe, step, t, tensors: seen.append(t), progress=False)
    assert pipe(**ask, seed=0, output_type="latent", **follow).frames.isfinite().all()
    assert seen == [999, 749, 499, 249]
    pipe.save_pretrained(tmp_path / "saved")
    again = LattePipeline.from_pretrained(tmp_path / "saved")
    assert again.scheduler == pipe.scheduler == student_scheduler(4, pipe.transformer.config.prediction)
    assert again.sampling == pipe.sampling


@pytest.mark.parametrize("kind", ["classes", "text"])
def test_a_fast_teacher_teaches_the_same(kind, vae, teachers, tmp_path, monkeypatch):
    """In float32 it computes as in inference, under autocast as in training; without `fast` as it is written."""
    attach, replaced = training_blocks.attach_frozen, []

    def record(network, autocast):
        attach(network, autocast)
        denoiser = denoiser_of(network)
        replaced.append(("through_blocks" in vars(denoiser), "forward" in vars(denoiser.blocks[0])))

    monkeypatch.setattr(training_blocks, "attach_frozen", record)
    losses = {}
    for words in ("precision=fp32", "precision=bf16", "fast=false"):
        run(student_of(kind, vae, teachers(kind), "steps=1", words), tmp_path / words)
        losses[words] = read_lines(tmp_path / words / "metrics.jsonl")[0]["loss"]
    assert replaced == [(True, False), (False, True)]
    assert losses["precision=fp32"] == pytest.approx(losses["fast=false"], rel=1e-4)
    assert losses["precision=bf16"] == pytest.approx(losses["fast=false"], rel=0.1)


@pytest.fixture
def learned(vae, teachers):
    """A function from changed settings to the objective and the network of a class-conditional student."""

    def make(*words):
        config = student_of("classes", vae, teachers("classes"), *words)
        made = objective(open_data(config), config, torch.device("cpu"))
        made.prepare([range(4)], 0)
        return made, made.network()

    return make


def test_every_setting_changes_the_loss(vae, teachers, learned):
    settings = {
        "base": (), "two": ("student_steps=2",), "finer": ("teacher_steps=32",), "later": ("guided_from=600",),
        "unguided": ("teacher_guidance=1", "guided_from=0"), "earlier": ("guided_to=800",),
    }  # fmt: skip
    made, network = learned()
    losses = set()
    for words in settings.values():
        distillation = Consistency(student_of("classes", vae, teachers("classes"), *words), made.distillation.teacher)
        index = torch.arange(len(distillation.schedule))
        y, random = torch.zeros_like(index), torch.Generator().manual_seed(0)
        x0, noise = torch.randn(2, len(index), 4, 4, 2, 2, generator=random)
        loss, _ = distillation(network, x0, index, noise, {"y": y}, {"y": y + 8})
        losses.add(round(float(loss.detach()), 9))
    assert len(losses) == len(settings)


def test_the_loss_falls(learned):
    made, network = learned()
    optimizer, losses = torch.optim.Adam(network.parameters(), 1e-3), []
    for _ in range(12):
        loss, _ = made(network, 0, range(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_a_student_initialised_as_its_teacher_has_zero_loss_with_single_step_phases(learned):
    made, network = learned("student_steps=16", "teacher_guidance=1", "guided_from=0")
    loss, _ = made(network, 0, range(4))
    assert float(loss.detach()) < 1e-9
    loss.backward()
    assert all(parameter.grad is None for parameter in made.distillation.teacher.parameters())


def test_guidance_matches_sampling_within_its_timesteps(learned):
    distillation = learned()[0].distillation
    x, index = torch.randn(16, 4, 4, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(16)
    y = torch.zeros(16, 1, dtype=torch.long)
    empty = torch.full_like(y, distillation.teacher.config.num_classes)
    predict = distillation.clean(distillation.teacher)
    conditional, negative = predict(x, index, y=y), predict(x, index, y=empty)
    guided = distillation.guided(x, index, {"y": y}, {"y": empty})
    inside = (distillation.schedule.timesteps >= 300).view(-1, 1, 1, 1, 1)
    expected = torch.where(inside, negative + 3 * (conditional - negative), conditional)
    assert 0 < int(inside.sum()) < 16 and torch.allclose(guided, expected, atol=1e-5)
    assert float((conditional - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("guidance", [["teacher_guidance=1", "guided_from=0"], []])
def test_a_self_conditioned_teacher_sees_its_estimate_for_the_condition(guidance, vae, teachers):
    config = student_of("classes", vae, teachers("classes"), *guidance)
    plain = objective(open_data(config), config, torch.device("cpu")).distillation.teacher
    torch.manual_seed(5)
    network = awake(Latte(replace(plain.config, self_condition=True)))
    one = Consistency(config, network)
    x, index = torch.randn(16, 4, 4, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(16)
    y = torch.zeros(16, 1, dtype=torch.long)
    empty = torch.full_like(y, network.config.num_classes)
    clean = lambda estimate, y: predicted_clean(network, x, index, one.schedule, "v", estimate, y=y)
    first = clean(torch.zeros_like(x), y)
    conditional, negative = clean(first, y), clean(first, empty)
    inside = (one.schedule.timesteps >= 300).view(-1, 1, 1, 1, 1)
    expected = torch.where(inside, negative + config.teacher_guidance * (conditional - negative), conditional)
    taught = one.guided(x, index, {"y": y}, {"y": empty})
    assert torch.allclose(taught, expected, atol=1e-4) and float((conditional - first).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["unconditional flow", "text"])
def test_a_teacher_uses_the_weaker_model_in_its_folder(kind, vae, teachers, tmp_path):
    """Under the same condition, or none; and its weights count as the teacher's."""
    teacher = shutil.copytree(teachers(kind), tmp_path / "teacher")
    network = LattePipeline.from_pretrained(teacher).transformer
    torch.manual_seed(3)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    words = ["teacher_guidance=3", "guided_from=300", "teacher_autoguidance=true"]
    config = student_of(kind, vae, teacher, *words)
    with pytest.raises(ValueError, match="teacher holds no weaker: set teacher_autoguidance=false"):
        objective(open_data(config), config, torch.device("cpu"))
    save_folder(network, teacher / "weaker")
    made = objective(open_data(config), config, torch.device("cpu"))
    student, one = made.network(), made.distillation
    assert one.digest != Consistency(config, one.teacher).digest
    x, index = torch.randn(16, 4, 4, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(16)
    captions = [["a red star moving left"]] * 16 if kind == "text" else []
    if kind == "text":
        made.rows |= {captions[0][0]: 0}
    shown = made.condition(student, torch.zeros(16, 1, dtype=torch.long), captions, torch.zeros(16, 1) > 0)
    strong, weak = (one.clean(each)(x, index, **shown) for each in (one.teacher, one.weaker))
    guided = one.guided(x, index, shown, {})
    inside = (one.schedule.timesteps >= 300).view(-1, 1, 1, 1, 1)
    assert torch.allclose(guided, torch.where(inside, weak + 3 * (strong - weak), strong), atol=1e-4)
    assert float((guided - strong).abs().max()) > 1e-2


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_the_student_is_sampled_from_the_beginnings_of_its_phases(steps):
    for prediction, training in (("eps", linear_schedule()), ("flow", flow_schedule())):
        grid = teacher_schedule(training, 8 * steps)
        taken = student_scheduler(steps, prediction).schedule(steps)
        assert taken.timesteps.tolist() == grid.timesteps[7::8].tolist()
        assert torch.allclose(taken.alphas_cumprod_prev, grid.alphas_cumprod_prev[::8], rtol=1e-12)


REFUSED = {
    "teacher_steps=30": "teacher_steps is 30; it must be a multiple of student_steps",
    "student_steps=0": "student_steps is 0; it must be from 1 to 64",
    "guided_to=100": "guided_from is above guided_to",
    "num_images=2": "num_images does nothing with teacher=",
    "align_weight=1": "align_weight does nothing with teacher=",
    "sample_guidance=2": "sample_guidance does nothing with teacher=",
    "loss_weighting=min-snr": "loss_weighting does nothing with teacher=",
    "model.prediction=eps": "predicts 'v', the student 'eps': set model.prediction=v",
    "model.class_dropout_prob=0.1": "a student has its guidance built in",
    "classes=false": "has 8 classes, the data 0",
    "teacher=nowhere": "no model at nowhere",
}


@pytest.mark.parametrize("word", REFUSED)
def test_invalid_settings_give_a_one_line_error(word, vae, teachers, tmp_path):
    with pytest.raises(ValueError, match=REFUSED[word]) as error:
        run(student_of("classes", vae, teachers("classes"), word), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run/checkpoints").exists()


def test_student_settings_without_a_teacher_are_rejected(vae):
    for word in ("student_steps=2", "teacher_steps=32", "teacher_guidance=2"):
        with pytest.raises(ValueError, match=f"{word.split('=')[0]} does nothing with teacher="):
            small(vae, word)


def test_a_teacher_with_other_noise_levels_is_refused(vae, teachers, tmp_path):
    teacher = shutil.copytree(teachers("classes"), tmp_path / "teacher")
    (teacher / "scheduler").mkdir()
    write_json(teacher / "scheduler/scheduler_config.json", Scheduler(beta_end=0.03).config)
    with pytest.raises(ValueError, match="has other noise levels than a student is trained at"):
        run(student_of("classes", vae, teacher), tmp_path / "run")


def test_a_run_cannot_continue_with_another_teacher(vae, teachers, tmp_path):
    teacher = shutil.copytree(teachers("classes"), tmp_path / "teacher")
    run(student_of("classes", vae, teacher, "steps=1"), tmp_path / "run")
    moved = shutil.move(teacher, tmp_path / "moved")
    run(student_of("classes", vae, moved, "steps=2"), tmp_path / "run")
    weights = load_file(moved / "model.safetensors")
    (moved / "manifest.json").unlink()
    save_file({name: 2 * tensor for name, tensor in weights.items()}, moved / "model.safetensors")
    with pytest.raises(ValueError, match=r"different data \(the teacher\)"):
        run(student_of("classes", vae, moved, "steps=3"), tmp_path / "run")


def test_two_processes_train_the_same_student_as_one(vae, teachers, tmp_path):
    config = student_of("classes", vae, teachers("classes"), "micro_batch_size=2")
    together(2, lambda: run(config, tmp_path / "two"), tmp_path / "log")
    run(config, tmp_path / "one")
    assert same(*(tensors(tmp_path / name / "checkpoints/step-0000002") for name in ("one", "two")))
