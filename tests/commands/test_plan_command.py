"""`latte calibrate`, `latte plan` and `latte sample --plan`: from searching for a plan to sampling with it."""

import json
import shlex
from dataclasses import replace
from itertools import count

import pytest
import torch
from awake_models import awake, awake_pipeline, write_model

from latte import LattePipeline
from latte.cli import main
from latte.commands import calibrate
from latte.commands.calibrate import next_commands
from latte.commands.options.planning import calibrate_options
from latte.commands.options.sampling import sample_options
from latte.eval import calibration
from latte.eval.replay import Replay
from latte.models.latte import Latte
from latte.plans.plan_file import read_plan
from latte.plans.rules import repeat

STEPS = ["--steps", "6", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(awake_pipeline(3, ["a", "b", "c"]), tmp_path_factory.mktemp("model"))


def test_a_plan_is_searched_shown_and_followed(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "STARTS", 2)
    monkeypatch.setattr(calibration, "LENGTHS", (2, 3))
    plans = folder / "plans"
    plans.mkdir()
    out, picture = plans / "small.json", tmp_path / "plan.png"
    assert main(["calibrate", str(folder), *STEPS, "--videos", "1", "--budget", "0.6", "--out", str(out)]) == 0
    said, about = capsys.readouterr().out, json.loads(out.read_text())["about"]
    tried = [line for line in said.splitlines() if "even steps" in line or "chosen steps" in line]
    psnr = lambda line: float(line.split("PSNR ")[1].split()[0])
    for way in ("spatial + temporal + cross + mlp, order 0, even", "network, order 0, chosen"):
        assert any(line.startswith(f"  {way} steps") for line in tried)
    assert sum("in every other computed step, even steps" in line for line in tried) == 3
    assert sum("guidance gated" in line for line in tried) > 2
    assert about["psnr"] == max(map(psnr, tried)) and about["share_of_flops"] <= 0.6 and about["cost"] == "flops"
    plan = read_plan(out)
    assert len(plan) == 6
    draw = shlex.join([str(folder), "--plan", str(out), "--out", str(plans / "small.png"), *STEPS])
    sample = shlex.join([str(folder), "--plan", str(out), *STEPS])
    words = said.splitlines()[-1].replace("--num-sampling-steps", "--steps")
    assert words == f"next: latte sample {sample}; latte plan {draw}"
    assert main(["plan", *shlex.split(draw)]) == 0 and (plans / "small.png").is_file()
    assert sample_options(shlex.split(sample)).plan == out
    capsys.readouterr()

    assert main(["plan", str(folder), *STEPS, "--plan", "small", "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and "times fewer" in capsys.readouterr().out
    many = ["sample", str(folder), *STEPS, "--n", "2", "--out"]
    assert main([*many, str(tmp_path / "a"), "--plan", "small"]) == 0
    assert main([*many, str(tmp_path / "a")]) == 2
    assert "these videos were made with plan" in capsys.readouterr().err
    assert (
        main(["sample", str(folder), *STEPS, "--num-videos", "1", "--out", str(tmp_path / "b"), "--plan", str(out)])
        == 0
    )
    assert f"plan     {out}" in capsys.readouterr().out
    pipe = LattePipeline.from_pretrained(folder)
    exact = pipe([0], num_inference_steps=6, output_type="latent").frames
    pipe.enable_plan("small")
    followed = pipe([0], num_inference_steps=6, output_type="latent").frames
    assert not torch.equal(followed, exact) and pipe.plan_digest() is not None
    with pytest.raises(ValueError, match="the plan is for 6 evaluations at 999 to 0, this call has 5 evaluations"):
        pipe([0], num_inference_steps=5, output_type="latent")


def test_a_text_model_is_sampled_next_with_the_prompts_of_the_calibration(tmp_path):
    (tmp_path / "prompts.txt").write_text("a star\na dot")
    for given, prompts in ([], ["a circle"]), (["--prompts", str(tmp_path / "prompts.txt")], ["a star", "a dot"]):
        words = ["shapes-t2v", "--cfg-scale", "2", "--seed", "3", "--budget", "0.3", "--videos", "2", *given]
        sample, plan = next_commands(calibrate_options(words), ["a circle", "a square"])
        asked = sample_options(sample[2:])
        assert (asked.prompt, asked.cfg_scale, asked.seed, str(asked.plan)) == (prompts, 2, 3, "plan.json")
        assert shlex.join(plan) == "latte plan shapes-t2v --plan plan.json --out plan.png --cfg-scale 2 --seed 3"


def test_a_budget_of_time_is_measured_by_a_clock(folder, tmp_path, capsys, monkeypatch):
    """On a clock by which all evaluations take a second, whatever they compute, no plan is faster."""
    seconds = count()
    monkeypatch.setattr(calibrate, "clock", lambda device: next(seconds))
    out = tmp_path / "plan.json"
    words = ["calibrate", str(folder), *STEPS, "--videos", "1", "--budget", "0.9", "--out", str(out)]
    assert main([*words, "--cost", "time"]) == 2 and not out.exists()
    assert "no plan takes 0.9 of the exact time or less: allow more" in capsys.readouterr().err


def test_rules_are_shown_sampled_and_recorded_by_name(folder, tmp_path, capsys):
    assert main(["plan", str(folder), *STEPS, "--plan", "network:2+gate:50%"]) == 0
    said = capsys.readouterr().out
    assert "network:2+gate:50%: " in said and "spatial   #....#" in said and "guidance  222ddd" in said
    file = str(tmp_path / "rule.json")
    assert main(["plan", str(folder), *STEPS, "--plan", "network:2+gate:50%", "--out", file]) == 0
    assert f"wrote {file}" in capsys.readouterr().out
    assert main(["plan", str(folder), *STEPS, "--plan", file]) == 0
    assert capsys.readouterr().out == said.replace("network:2+gate:50%", file)
    assert main(["plan", str(folder), *STEPS, "--plan", "tea-cache"]) == 0
    assert "or even fewer, depending on the data" in capsys.readouterr().out
    many = ["sample", str(folder), *STEPS, "--n", "2", "--out", str(tmp_path / "a")]
    assert main([*many, "--plan", "network:2"]) == 0 and main([*many, "--plan", "network:2"]) == 0
    assert main([*many, "--plan", "network:3"]) == 2
    assert "plan network:2, not network:3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["plan", "--plan", "none"], "there is no plan 'none': "),
        (["plan", "--plan", "network:7"], "plan network:7: the number of computed evaluations is 7"),
        (
            ["plan", "--plan", "cross:3"],
            "plan cross:3: this model has no 'cross' layers; it has spatial, temporal, mlp",
        ),
        (["plan", "--plan", "network:3,every=2"], "network has no option 'every'; its options are computed, order"),
        (["plan", "--out", "a.txt"], "--out a.txt is neither a picture nor a plan: give a .png, .pdf or .svg"),
        (["plan", "--tokens", "0"], "--tokens is 0; it must be from 1 to 4096"),
        (["calibrate", "--budget", "1.5"], "--budget is 1.5; it is a share of the exact FLOPs"),
        (["calibrate", "--budget", "0.01", "--videos", "1"], "no plan takes 0.01 of the exact FLOPs or less"),
        (["calibrate", "--cost", "time", "--budget", "0"], "--budget is 0; it is a share of the exact time"),
        (["calibrate", "--videos", "0"], "--videos is 0; it must be a whole number"),
        (["calibrate", "--prompts", "none.txt"], "there is no file none.txt"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(words, say, folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([words[0], str(folder), *STEPS, *words[1:]]) == 2
    error = capsys.readouterr().err
    assert say in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("self_condition", [False, True])
def test_a_replay_follows_the_exact_trajectory_up_to_a_gap(self_condition, folder):
    """A later gap changes only later evaluations, and an empty gap changes nothing."""
    pipe = LattePipeline.from_pretrained(folder)
    pipe.transformer = awake(Latte(replace(pipe.transformer.config, self_condition=self_condition)))
    replay = Replay(pipe, [0, 1], 6)
    assert torch.equal(replay.sample(replay.exact, start=4), replay.latents) and replay.error(replay.latents) == 0
    one_gap = repeat(replay.exact, {0, 1, 2, 4, 5}, "network", 1)
    again = replay.sample(one_gap, start=3, before={1, 2})
    assert torch.equal(again, replay.sample(one_gap)) and replay.error(again) > 0
