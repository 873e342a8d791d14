"""Rules by name: the words of the command line and of enable_plan make the same plans as the functions."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from awake_models import awake, awake_pipeline

from latte import LattePipeline
from latte.commands.options.sampling import check_plan_options
from latte.models.latte import Latte, LatteConfig
from latte.network_forms import layer_cache
from latte.parallel.layout import Layout
from latte.parallel.sequence import attach
from latte.plans.named_rules import RULES, rule_of, rules_help
from latte.plans.plan_file import write_plan
from latte.plans.records import KINDS, exact_plan
from latte.plans.rules import faster_cache, gate_guidance, repeat, repeat_blocks, tea_cache
from latte.sampling_call import call_plan

DDIM_50 = exact_plan(range(980, -1, -20), (100, 1000))


def attention(plan, *options):
    for kind in ("spatial", "temporal", "cross"):
        plan = repeat(plan, options[0], kind, *options[1:])
    return plan


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("network:17", lambda plan: repeat(plan, 17)),
        ("network:17,order=2,share=0.5", lambda plan: repeat(plan, 17, "network", 2, 0.5)),
        ("network:computed=17", lambda plan: repeat(plan, 17)),
        ("clean:30%,order=1", lambda plan: repeat(plan, 15, "clean", 1)),
        ("mlp:0/3/20", lambda plan: repeat(plan, {0, 3, 20}, "mlp")),
        ("attention:25,order=1", lambda plan: attention(plan, 25, 1)),
        ("bw-cache", lambda plan: repeat_blocks(plan, (100, 800), 2)),
        (
            "bw-cache:3,low=300,high=600.5,blocks=0/2",
            lambda plan: repeat_blocks(plan, (300, 600.5), 3, {0, 2}),
        ),
        ("gate:30", lambda plan: gate_guidance(plan, 30)),
        ("gate:40%", lambda plan: gate_guidance(plan, 20)),
        ("faster-cache", faster_cache),
        ("faster-cache:1.3", lambda plan: faster_cache(plan, 1.3)),
        ("tea-cache", tea_cache),
        ("tea-cache:0.2,polynomial=2/-1/0", lambda plan: tea_cache(plan, 0.2, (2.0, -1.0, 0.0))),
        ("network:17,order=1+gate:30", lambda plan: gate_guidance(repeat(plan, 17, "network", 1), 30)),
    ],
)
def test_words_make_the_plan_of_the_function(words, rule):
    assert rule_of(words)(DDIM_50) == rule(DDIM_50)


def test_every_rule_has_an_example_that_saves_something():
    for name, rule in RULES.items():
        assert rule.example.startswith(name) and rule_of(rule.example)(DDIM_50) != DDIM_50
        assert rule.example in rules_help() and all(option in rules_help() for option in rule.options)
    assert set(KINDS) < set(RULES)


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (
            "netwrk:17",
            r"plan netwrk:17: there is no rule 'netwrk' \(did you mean 'network'\?\); the rules are spatial,",
        ),
        ("network:9+hue:3", r"there is no rule 'hue'; the rules are"),
        ("network", "plan network: give its computed, as in network:17"),
        ("gate:", "give its after, as in gate:40%"),
        ("network:17,oder=1", r"no option 'oder' \(did you mean 'order'\?\); its options are computed, order, share"),
        ("network:17,18", "network has no option '18'"),
        ("network:17,computed=18", "computed is given twice"),
        ("network:x", "computed is 'x'; it must be how many evaluations, a share such as 30%, or a list such as 0/5/9"),
        ("network:0", "computed is '0'"),
        ("network:101%", "computed is '101%'"),
        ("network:17,order=3", "order is '3'; it must be 0, 1 or 2"),
        ("tea-cache:nan", "limit is 'nan'; it must be a number, 0 or more"),
        ("bw-cache:0", "every is '0'; it must be a whole number, 1 or more"),
    ],
)
def test_wrong_words_say_what_there_is(words, say):
    with pytest.raises(ValueError, match=say):
        rule_of(words)


@pytest.mark.parametrize("words", ["network:51", "network:0/50", "tea-cache+attention:25"])
def test_a_rule_that_does_not_fit_a_call_names_the_plan(words):
    with pytest.raises(ValueError, match=f"^plan {words.replace('+', '.')}: "):
        rule_of(words)(DDIM_50)


def test_options_refuse_wrong_rules_but_not_names_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name.json").write_text("{}")
    for plan in ("fast", "mine.json", "network:17", "odd:name.json", None):
        check_plan_options(Namespace(pab=None, plan=plan))
    with pytest.raises(ValueError, match="there is no rule 'odd'"):
        check_plan_options(Namespace(pab=None, plan="odd:names.json"))


def test_a_pipeline_takes_the_words_of_rules():
    pipe = awake_pipeline(3)
    make = lambda: pipe([0, 1], num_inference_steps=6, output_type="latent", progress=False, seed=0).frames
    exact = make()
    rules = {
        "network:3,order=1": lambda plan: repeat(plan, 3, order=1),
        "tea-cache:1e6": lambda plan: tea_cache(plan, 1e6),
    }
    for words, rule in rules.items():
        pipe.enable_plan(words)
        assert pipe.plan_digest() == words
        named = make()
        pipe.enable_plan(rule)
        assert torch.equal(named, make()) and not torch.equal(named, exact) and pipe.plan_digest() is None
    pipe.enable_plan("network:7")
    with pytest.raises(ValueError, match="plan network:7: the number of computed evaluations is 7; it must be from 1"):
        make()
    with pytest.raises(ValueError, match="plan cross:50%: this model has no 'cross' layers; it has spatial, temporal"):
        pipe.enable_plan("cross:50%")
    with pytest.raises(ValueError, match=r"there is no plan 'slow': the model has no plans; .*; the rules are spatial"):
        pipe.enable_plan("slow")
    pipe.enable_plan("attention:3")  # which a model without cross-attention has too


def test_files_and_names_come_before_rules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe = awake_pipeline(3)
    steps = {"num_inference_steps": 6}
    exact = call_plan(pipe, steps)
    in_folder, in_file = repeat(exact, 2), repeat(exact, 3)
    (tmp_path / "model/plans").mkdir(parents=True)
    write_plan(in_folder, tmp_path / "model/plans/faster-cache.json")
    pipe.plan_folder = tmp_path / "model"
    pipe.enable_plan("faster-cache")
    assert call_plan(pipe, steps) == in_folder
    write_plan(in_file, tmp_path / "faster-cache")
    pipe.enable_plan("faster-cache")
    assert call_plan(pipe, steps) == in_file


def test_processes_that_share_a_video_refuse_tests_of_the_data():
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=3, num_classes=3)
    pipe = LattePipeline(awake(Latte(config)))
    assert layer_cache(pipe, tea_cache(DDIM_50)) is not None
    attach(pipe.transformer, [Layout()])
    with pytest.raises(ValueError, match="the plan tests the data, of which each process would see another part"):
        layer_cache(SimpleNamespace(transformer=pipe.transformer), tea_cache(DDIM_50))
