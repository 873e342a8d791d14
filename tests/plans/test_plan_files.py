"""Plans as files, on the command line, and as shipped."""

import json
import math

import pytest

from latte import LattePipeline
from latte.plans.cost import network_cost
from latte.plans.plan_file import plan_text, read_plan, write_plan
from latte.plans.records import Plan, Reuse, exact_plan
from latte.plans.rules import faster_cache, repeat, tea_cache
from latte.sampling_call import call_plan

GOOD = {"plan": 1, "evaluations": [{"timestep": 900}, {"timestep": 500, "reuse": {"network": {"weights": [1.0]}}}]}


@pytest.mark.parametrize("rule", [faster_cache, tea_cache, lambda plan: repeat(plan, 17, "network", 2)])
def test_plans_round_trip_through_files(rule, tmp_path):
    exact = exact_plan([980 - 20 * k for k in range(50)], (100, 1000))
    plan = Plan(rule(exact).evaluations, after_gate=True)
    path = write_plan(plan, tmp_path / "a.json", {"made": "by hand"})
    assert read_plan(path) == plan and len(path.read_text().splitlines()) < 64
    assert plan_text(read_plan(path), {"made": "by hand"}) == path.read_text()


def test_plans_for_selected_layers_round_trip(tmp_path):
    reuse = {"mlp": Reuse((1.5, -0.5), frozenset({3, 1}))}
    plan = Plan((*exact_plan([9, 8]).evaluations, exact_plan([7.5]).evaluations[0].reusing(**reuse)))
    assert read_plan(write_plan(plan, tmp_path / "a.json")) == plan


def changed(**values):
    return {**GOOD, "evaluations": [GOOD["evaluations"][0], {**GOOD["evaluations"][1], **values}]}


@pytest.mark.parametrize(
    ("values", "say"),
    [
        ([], "does not hold a JSON object"),
        ({}, "the file lacks 'evaluations'"),
        ({**GOOD, "plan": 2}, "plan is 2; this version reads format 1"),
        ({**GOOD, "steps": 3}, "the file has unknown key 'steps'; it may have about, after_gate"),
        ({**GOOD, "after_gate": 1}, "after_gate must be true or false"),
        ({**GOOD, "evaluations": []}, "must be a list of 1 to 4000 records"),
        ({**GOOD, "evaluations": [{"timestep": "x"}]}, "evaluation 0: timestep must be numbers"),
        ({**GOOD, "evaluations": [{"timestep": math.inf}]}, "evaluation 0: timestep must be numbers"),
        (changed(reuse=[]), "evaluation 1: reuse must be a JSON object"),
        (changed(reuse={"hue": {}}), "evaluation 1: reuse has unknown key 'hue'; it may have block, clean, cross"),
        (changed(reuse={"mlp": {"weights": []}}), "evaluation 1: mlp: weights must be numbers"),
        (changed(reuse={"mlp": {"weights": [True]}}), "evaluation 1: mlp: weights must be numbers"),
        (changed(reuse={"mlp": {"weights": [1], "places": [-1]}}), "places must be a list of whole numbers"),
        (changed(reuse={"network": {"weights": [1], "polynomial": [1]}}), "polynomial does nothing without limit"),
        (changed(bands=[1]), "evaluation 1: bands must be 2 numbers"),
        (changed(branch=3), "branch is 3, not one of both"),
        (changed(branch=[]), "branch is .., not one of both"),
    ],
)
def test_invalid_files_give_a_one_line_error(values, say, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=say) as error:
        read_plan(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_plan(tmp_path / "none.json")


@pytest.mark.parametrize("model", ["shapes", "shapes-t2v"])
def test_the_plans_that_ship_fit_their_models(model):
    """At the models' own settings, and with the savings in FLOPs that their names promise."""
    pipe = LattePipeline.from_pretrained(model)
    settings = {
        "num_inference_steps": pipe.sampling.num_inference_steps,
        "guidance_scale": pipe.sampling.guidance.scale,
        "guidance_interval": pipe.sampling.guidance.interval,
        "eta": pipe.sampling.eta,
    }
    frames, _, height, width = pipe.latent_shape(None, None, None, None)
    cost = network_cost(pipe.transformer.config, frames, height, width)
    exact = sum(cost.of_plan(call_plan(pipe, settings)))
    for name, times in (("faithful", 2.2), ("fast", 3.5)):
        pipe.enable_plan(name)
        assert exact / sum(cost.of_plan(call_plan(pipe, settings))) > times
    with pytest.raises(ValueError, match="there is no plan 'slow': the model's plans are faithful, fast"):
        pipe.enable_plan("slow")


def test_a_saved_pipeline_keeps_its_plans(tmp_path):
    pipe = LattePipeline.from_pretrained("shapes", vae=None)
    pipe.save_pretrained(tmp_path / "a")
    again = LattePipeline.from_pretrained(tmp_path / "a", vae=None)
    for saved in (again, pipe):
        saved.enable_plan("fast")
        saved.save_pretrained(tmp_path / "a")  # over itself, and over an earlier copy
    assert again.plan_digest() == pipe.plan_digest()
    assert sorted(path.name for path in (tmp_path / "a/plans").iterdir()) == ["faithful.json", "fast.json"]
