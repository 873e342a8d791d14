"""Options between the blocks: off, they change nothing; on, they do; and a run with them resumes bit-exactly."""

from contextlib import nullcontext

import pytest
import torch
from forks import together
from safetensors.torch import load_file
from small_runs import TINY, run, same, small, small_t2v, tensors

from latte.cli import main
from latte.processes import processes
from latte.train import checkpoint
from latte.train.data.folders import open_clips
from latte.train.metrics import read_lines
from latte.train.objectives import denoising, objective
from latte.train.objectives.token_routing import routed

WORDS = ["steps=2", "clips=4", "warmup=1", "schedule=constant", "model.patch_size=1"]  # frames of 2 x 2 tokens
ROUTE = ["route_share=0.5", "route_start=0", "route_end=1"]
DISPERSE = ["dispersive_weight=0.5", "dispersive_block=2", "micro_batch_size=2"]
ALIGN = ["align_weight=0.3", "align_block=1", "align_teacher_block=2"]
RECIPE = ["optimizer=muon", "schedule=trapezoid", "model.prediction=flow", "loss_weighting=min-snr", "timestep_std=1"]
RECIPE += ["model.self_condition=true", "average_every=1"]
OPTIONS = {"route": [*ROUTE, "num_images=1"], "disperse": DISPERSE, "align": ALIGN}
OPTIONS |= {"all of the modern recipe": [*ROUTE, *DISPERSE, *ALIGN, *RECIPE]}


def a_loss(config, training=True, network=None):
    """(loss, logged numbers, gradients) of a network in which every weight matters."""
    made = objective(open_clips(config), config, torch.device("cpu"))
    made.prepare([range(4)], 0)
    network = made.network().train(training)
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    loss, logged = made(network, 0, range(4))
    return loss.detach(), logged, torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)


def equal(a, b):
    return torch.equal(a[0], b[0]) and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))


def test_options_that_are_off_or_only_measured_change_no_bit(vae, monkeypatch):
    off = a_loss(small(vae, *WORDS))
    on = small(vae, *WORDS, *DISPERSE, *ROUTE)
    assert not equal(a_loss(on), off) and equal(a_loss(on, training=False), off)

    class Nothing:
        def __init__(self, *args):
            pass

        def attached(self):
            return nullcontext()

        def terms(self, *args):
            return {}

    monkeypatch.setattr(denoising, "BetweenBlocks", Nothing)
    assert equal(a_loss(small(vae, *WORDS)), off)


@pytest.mark.parametrize("make", [small, small_t2v])
def test_each_option_changes_the_loss_as_it_says(make, vae):
    off = a_loss(make(vae, *WORDS))
    loss, logged, _ = a_loss(make(vae, *WORDS, *DISPERSE))
    assert torch.equal(logged["mse"], off[1]["mse"]) and -1.4 < logged["dispersive"] < 0  # greater than -log 4
    torch.testing.assert_close(loss, off[0] + 0.5 * logged["dispersive"])
    plain, checkpointed = (a_loss(make(vae, *WORDS, *ROUTE, *more)) for more in ([], ["gradient_checkpointing=true"]))
    assert plain[1].keys() == off[1].keys() and abs(plain[0] - off[0]) > 1e-4 and equal(plain, checkpointed)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_stopped_run_resumes_bit_exactly(name, vae, tmp_path):
    config = lambda steps: small(vae, *WORDS, *OPTIONS[name], f"steps={steps}")
    for steps in (1, 2):
        run(config(steps), tmp_path / "stopped")
    run(config(2), tmp_path / "whole")
    stopped, whole = (tmp_path / folder for folder in ("stopped", "whole"))
    assert same(*(tensors(checkpoint.latest(folder)) for folder in (stopped, whole)))
    logged = ("loss", "dispersive", "align")
    numbers = lambda folder: [[line.get(name) for name in logged] for line in read_lines(folder / "metrics.jsonl")]
    assert numbers(stopped) == numbers(whole) and len(numbers(whole)) == 2
    if "micro_batch_size=2" in OPTIONS[name]:
        with pytest.raises(ValueError, match=r"it has micro_batch_size=2, not 4"):
            run(small(vae, *WORDS, *OPTIONS[name], "steps=3", "micro_batch_size=4"), tmp_path / "whole")
    if "align_weight=0.3" in OPTIONS[name]:
        newest = checkpoint.latest(whole)
        assert same(*(load_file(checkpoint.latest(folder) / "head.safetensors") for folder in (stopped, whole)))
        names = [load_file(path).keys() for path in (newest / "model.safetensors", whole / "final/model.safetensors")]
        assert names[0] == names[1] and len(load_file(newest / "head.safetensors")) == 4
        assert not [name for name in names[0] if "head" in name]
    if name == "align":
        line = read_lines(whole / "metrics.jsonl")[-1]
        assert line["loss"] == pytest.approx(line["mse"] + line["vb"] + 0.3 * line["align"]) and line["align"] > 0.01


def test_self_alignment_trains_the_layers_up_to_its_block(vae, tmp_path):
    """In the first step, while zero weights keep the gradient of the diffusion loss from them."""
    for name, words in (("on", ALIGN), ("off", [])):
        run(small(vae, *WORDS, *words, "steps=1"), tmp_path / name)
    on, off = (load_file(checkpoint.latest(tmp_path / name) / "model.safetensors") for name in ("on", "off"))
    layers = {name.rpartition(".")[0] for name in on if not torch.equal(on[name], off[name])}
    assert on.keys() == off.keys() and layers == {"patch_embed", "blocks.0.modulation.linear"}


def test_several_processes_learn_the_same_as_one(vae, tmp_path):
    own = "model.self_condition=true"
    routed = [*WORDS, own, *ROUTE, "num_images=1", "model.depth=4", "model.variant=2", "route_start=1", "route_end=2"]
    aligned = [*WORDS, own, *ALIGN, "route_share=0.5", "route_start=0", "route_end=2"]
    pairs = {"routed": (routed, ["sequence_parallel=2"]), "aligned": (aligned, ["shard=true"])}

    def shared():
        torch.set_num_threads(1)
        with processes(torch.device("cpu")):
            for name, (words, more) in pairs.items():
                run(small(vae, *words, *more, "micro_batch_size=1"), tmp_path / "shared" / name)

    together(2, shared, tmp_path / "log")
    for name, (words, _) in pairs.items():
        run(small(vae, *words), tmp_path / "alone" / name)
        lines = [read_lines(tmp_path / way / name / "metrics.jsonl") for way in ("alone", "shared")]
        for alone, theirs in zip(*lines, strict=True):
            for value in alone.keys() & {"loss", "align", "grad_norm"}:
                assert theirs[value] == pytest.approx(alone[value], rel=1e-4), (name, value)
        assert len(lines[0]) == 2


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["route_share=1"], "route_share is 1.0; it must be less than 1"),
        (
            ["route_share=0.1", "route_start=0", "route_end=1"],
            "route_share is 0.1 of 4 tokens of a frame: that",
        ),
        (["route_share=0.5"], "route_start 2 and route_end -2 leave no block of 2 for tokens to skip"),
        (["route_end=3"], "route_end does nothing with route_share=0.0"),
        (["dispersive_block=1"], "dispersive_block does nothing with dispersive_weight=0.0"),
        (["dispersive_weight=1"], "dispersive_weight compares the clips of a micro-batch: set micro_batch_size"),
        ([*DISPERSE, "dispersive_block=3"], "dispersive_block is 3, but the network has 2 blocks"),
        ([*DISPERSE, "sequence_parallel=2"], "dispersive_weight compares whole clips: it needs sequence_parallel=1"),
        ([*DISPERSE, *ROUTE, "route_end=2"], "choose a dispersive_block up to 0, or more than 2"),
        (["align_gap=0.1"], "align_gap does nothing with align_weight=0.0"),
        ([*ALIGN, "align_teacher_block=3"], "align_teacher_block is 3, but the network has 2 blocks"),
    ],
)
def test_invalid_settings_give_a_one_line_error(words, say, vae, tmp_path, capsys):
    settings = [*TINY, *WORDS, f"vae={vae}", *words]
    assert main(["train", "--config", "shapes", "--run", str(tmp_path / "run"), *settings]) == 2
    assert say in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_route_that_splits_token_parallel_blocks_is_rejected(vae):
    words = [*WORDS, "model.depth=4", "model.variant=2", "sequence_parallel=2", "route_share=0.5", "route_end=3"]
    config = small(vae, *words)
    with pytest.raises(ValueError, match="divide blocks 2 to 3, whose tokens sequence_parallel shares"):
        objective(open_clips(config), config, torch.device("cpu")).network()


def test_an_exception_inside_restores_the_network(tiny):
    with pytest.raises(KeyboardInterrupt), routed(tiny, range(1), torch.zeros(1, 1, dtype=torch.long)):
        assert "through_blocks" in vars(tiny)
        raise KeyboardInterrupt
    assert "through_blocks" not in vars(tiny)
