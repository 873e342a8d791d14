"""`latte distill`: settings derived from the teacher, the files it writes, and one-line errors."""

import shutil
from dataclasses import asdict, replace

import pytest
import torch
from small_runs import run, small, small_t2v

from latte import LattePipeline
from latte.cli import main
from latte.files import read_json, write_json
from latte.models.latte import Latte, LatteConfig
from latte.train.student import student_config
from latte.weights.find_models import find_model
from latte.weights.latte_folder import save_latte
from latte.weights.load import load_model
from latte.weights.vae_folder import load_vae


@pytest.fixture(scope="module")
def teachers(vae, tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    classes = run(small(vae, "steps=1", "clips=4"), root / "classes")
    write_json(classes / "sampling.json", {"guidance_scale": 3.5, "guidance_interval": [500, 900], "eta": 1.0})
    text = run(small_t2v(vae, "steps=1", "clips=4", "sample_guidance=2"), root / "text")
    network = Latte(LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4))
    unconditional = save_latte(root / "unconditional", network, load_vae(vae))
    return {"classes": classes, "text": text, "unconditional": unconditional}


def one_error(capsys, *words):
    """The one-line error of a rejected command."""
    assert main(["distill", *map(str, words)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line


def test_a_student_is_distilled_and_sampled_with_its_saved_settings(teachers, tmp_path, capsys):
    words = ["distill", str(teachers["classes"]), "--steps", "2", "--run", str(tmp_path / "run")]
    words += ["steps=2", "clips=2", "global_batch_size=2", "sample_every=2"]
    assert main(words) == 0
    final = tmp_path / "run/final"
    assert read_json(final / "sampling.json")["num_inference_steps"] == 2
    assert (tmp_path / "run/samples/step-0000002.png").is_file()
    capsys.readouterr()
    sample = ["sample", str(final), "--out", str(tmp_path / "page"), "--classes", "0", "--num-videos", "1"]
    assert main(sample) == 0
    assert "ddim, 2 steps, guidance 1" in capsys.readouterr().out
    assert main([*sample, "--overwrite", "--cfg-scale", "2"]) == 2
    assert "trained without label dropout, so it cannot be guided" in capsys.readouterr().err
    assert LattePipeline.from_pretrained(tmp_path / "run").sampling.num_inference_steps == 2


def test_an_unfinished_student_keeps_its_own_scheduler(teachers, tmp_path):
    words = ["distill", str(teachers["classes"]), "--steps", "3", "--run", str(tmp_path / "run")]
    assert main([*words, "steps=1", "clips=2", "global_batch_size=2"]) == 0
    finished = LattePipeline.from_pretrained(tmp_path / "run").scheduler
    shutil.rmtree(tmp_path / "run/final")
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "copy")]) == 0
    found = [LattePipeline.from_pretrained(tmp_path / name).scheduler for name in ("run", "copy")]
    assert finished.schedule(3).timesteps.tolist() == [332, 666, 999] and found == [finished, finished]
    assert LattePipeline.from_pretrained(teachers["classes"]).scheduler != finished


def test_a_self_conditioned_teacher_has_a_plain_student(teachers, tmp_path, capsys):
    pipe = LattePipeline.from_pretrained(teachers["classes"])
    own = Latte(replace(pipe.transformer.config, self_condition=True))
    LattePipeline(own, pipe.vae, class_names=pipe.class_names).save_pretrained(tmp_path / "own")
    words = ["distill", str(tmp_path / "own"), "--steps", "2", "--run", str(tmp_path / "run"), "data=shapes"]
    assert main([*words, "steps=1", "clips=2", "global_batch_size=2", "learning_rate=0"]) == 0
    assert "it is self-conditioned, and this network is not" in capsys.readouterr().err
    student = load_model(tmp_path / "run/final")
    assert not student.config.self_condition
    torch.testing.assert_close(student.patch_embed.weight, own.patch_embed.weight.chunk(2, 1)[0])


def test_student_settings_are_derived_from_the_teacher(teachers):
    config = student_config(str(teachers["classes"]), 4, [])
    own = asdict(config)
    assert (config.teacher_guidance, config.guided_from, config.guided_to) == (3.5, 500, 900)
    assert (config.kind, config.image_size, config.num_frames, config.vae) == (
        *("latte", 16, 4), str(teachers["classes"] / "vae"),
    )  # fmt: skip
    assert config.model["class_dropout_prob"] == 0 and config.model["depth"] == 2
    assert own["init"] == own["teacher"] == str(teachers["classes"]) and config.teacher_steps == 64
    assert student_config(str(teachers["classes"]), 3, []).teacher_steps == 63
    assert (config.data, config.clips, config.sample_latents) == ("shapes", 4, False)
    asked = student_config(str(teachers["classes"]), 4, ["steps=7", "teacher_steps=8"], 2.0, (100, 200))
    assert (asked.teacher_guidance, asked.guided_from, asked.guided_to, asked.steps) == (2, 100, 200, 7)
    text = student_config(str(teachers["text"]), 4, [])
    assert (text.kind, text.teacher_guidance, text.guided_from, text.guided_to) == ("t2v", 2, 0, 1000)
    assert text.text_encoder["d_model"] == 8 and "vocab_size" not in text.text_encoder
    alone = student_config(str(teachers["unconditional"]), 4, ["data=shapes"])
    assert (alone.classes, alone.teacher_guidance) == (False, 1)
    unguided = student_config(str(teachers["classes"]), 4, [], 1.0)
    assert (unguided.teacher_guidance, unguided.guided_from) == (1, 0)


def test_a_student_can_match_moments_of_the_teacher_with_its_guidance(teachers, tmp_path):
    words = ["distillation=moments", "steps=1", "clips=2", "global_batch_size=2", "warmup=0"]
    config = student_config(str(teachers["classes"]), 3, words)
    assert (config.teacher_guidance, config.guided_from, config.teacher_steps) == (3.5, 500, 64)
    assert config.learning_rate == 5e-5 and student_config(str(teachers["classes"]), 3, []).learning_rate == 3e-4
    assert student_config(str(teachers["classes"]), 3, [*words, "learning_rate=1e-4"]).learning_rate == 1e-4
    with pytest.raises(ValueError, match="distillation is 'other'"):
        student_config(str(teachers["classes"]), 3, ["distillation=other"])
    assert student_config(str(teachers["classes"]), 3, words, 2.0, (100, 200)).teacher_guidance == 2
    assert student_config(str(teachers["classes"]), 3, [*words, "optimizer=muon"]).muon_momentum == 0.5
    assert student_config(str(teachers["classes"]), 3, ["optimizer=muon"]).muon_momentum == 0.95
    assert main(["distill", str(teachers["classes"]), "--steps", "3", "--run", str(tmp_path / "run"), *words]) == 0
    assert read_json(tmp_path / "run/final/sampling.json")["eta"] == 1.0


def test_a_checkpoint_and_a_published_model_can_teach(teachers, published):
    checkpoint = find_model(teachers["text"].parent / "checkpoints/step-0000001")
    config = student_config(str(checkpoint), 4, [])
    assert config.model == student_config(str(teachers["text"]), 4, []).model
    theirs = student_config(str(published), 4, ["data=videos"])
    with pytest.raises(ValueError, match="does not say which data it was trained on: give data="):
        student_config(str(published), 4, [])
    assert (theirs.teacher_guidance, theirs.prediction) == (7.5, "eps") and theirs.text_encoder["d_ff"] > 0


def test_invalid_options_give_a_one_line_error(teachers, tmp_path, capsys):
    run_words = ("--run", tmp_path / "run")
    of = lambda kind, *words: one_error(capsys, teachers[kind], *run_words, *words)
    assert "--steps is 0; a student takes 1 to 64" in of("classes", "--steps", 0)
    assert "--cfg-scale is nan" in of("classes", "--cfg-scale", "nan")
    assert "two timesteps, the lower one first" in of("classes", "--cfg-interval", 9, 3)
    assert "does nothing with --cfg-scale 1" in of("classes", "--cfg-scale", 1, "--cfg-interval", 3, 9)
    assert "it has no condition to guide with" in of("unconditional", "--cfg-scale", 2)
    assert "teacher_steps is 30; it must be a multiple" in of("classes", "teacher_steps=30")
    assert "class_dropout_prob=0" in of("classes", "model.class_dropout_prob=0.1", "clips=4", "global_batch_size=2")
    assert "no model at nowhere" in one_error(capsys, "nowhere", *run_words)
    assert "a VAE, not a Latte" in one_error(capsys, teachers["classes"] / "vae", *run_words)
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_teacher_with_unsupported_guidance_or_no_vae_is_rejected(teachers, tmp_path, capsys):
    teacher = shutil.copytree(teachers["classes"], tmp_path / "teacher")
    write_json(teacher / "sampling.json", {"guidance_scale": 3.0, "guidance_method": "apg"})
    line = one_error(capsys, teacher, "--run", tmp_path / "run")
    assert "is guided by apg; a student learns plain guidance: give --cfg-scale" in line
    assert student_config(str(teacher), 4, ["data=shapes"], 2.5).teacher_guidance == 2.5
    shutil.rmtree(teacher / "vae")
    line = one_error(capsys, teacher, "--run", tmp_path / "run", "--cfg-scale", 2, "data=shapes")
    assert "comes without a VAE" in line


def test_a_student_distills_its_teachers_autoguidance_by_default(teachers, tmp_path):
    for kind, other in (("classes", 3.5), ("unconditional", 1)):
        teacher, config = tmp_path / kind, read_json(find_model(teachers[kind]) / "config.json")
        pipe = LattePipeline.from_pretrained(teachers[kind])
        pipe.enable_autoguidance(Latte(LatteConfig(**{**config, "hidden_size": 8})), scale=1.5)
        pipe.save_pretrained(teacher)
        own, asked = (student_config(str(teacher), 4, ["data=shapes"], scale) for scale in (None, other))
        interval = (500, 900) if kind == "classes" else (0, 1000)
        assert (own.teacher_guidance, own.guided_from, own.guided_to, own.teacher_autoguidance) == (
            1.5,
            *interval,
            True,
        )
        assert (asked.teacher_guidance, asked.teacher_autoguidance) == (other, False)


def test_a_text_to_video_student_can_learn_from_stored_embeddings(vae, published, tmp_path):
    data = [f"vae={vae}", "clips=3", "num_frames=2", "image_size=16"]
    out = tmp_path / "latents"
    encoding = ["encode", "--config", "shapes-t2v", *data, "text_encoder={}", "--text-encoder", str(published)]
    assert main([*encoding, "--out", str(out)]) == 0
    words = [*data, f"latents={out}", "steps=1", "global_batch_size=2"]
    assert main(["distill", str(published), "--run", str(tmp_path / "run"), *words]) == 0
    pipe = LattePipeline.from_pretrained(tmp_path / "run/final", text_encoder=None, tokenizer=None)
    assert pipe.sampling.guidance.scale == 1 and pipe.scheduler.timestep_spacing == "trailing"
    assert not (tmp_path / "run/final/text_encoder").exists()
