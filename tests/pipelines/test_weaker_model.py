"""A model that ships with the weaker model of its autoguidance: its folder, its scale, and plans."""

from dataclasses import replace

import pytest
import torch
from awake_models import awake, awake_pipeline
from goldens import relative_error

from latte import LattePipeline
from latte.eval import calibration
from latte.eval.calibration import Calibration, describe
from latte.eval.replay import Replay
from latte.fast.switch import fast_paths
from latte.files import read_json, write_json
from latte.models.latte import Latte
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.plans.cost import network_cost
from latte.plans.picture import plan_table
from latte.plans.records import Evaluation, Plan, Reuse, exact_plan
from latte.plans.rules import gate_guidance, repeat
from latte.sampling_settings import Guidance
from latte.weights import latte_folder
from latte.weights.tensors import CheckpointError

CALL = dict(num_inference_steps=5, output_type="latent", progress=False, seed=0)
WAYS = {
    "network": lambda plan: repeat(plan, {0, 2, 4}, "network", 1),
    "layers": lambda plan: repeat(plan, {0, 2, 4}, "mlp"),
    "clean": lambda plan: repeat(plan, {0, 2, 4}, "clean"),
}


def guided_away(num_classes=2, scale=2.5):
    """A pipeline with a weaker model of half the width, and its autoguidance scale as a default."""
    pipe = awake_pipeline(num_classes)
    weak = awake(Latte(replace(pipe.transformer.config, hidden_size=8, depth=4)))
    pipe.enable_autoguidance(weak, scale=scale)
    return pipe


def latents(pipe, **options):
    shown = {"class_labels": [0, 1]} if pipe.transformer.config.num_classes else {"num_videos": 2}
    return pipe(**shown, batch_size=2, **{**CALL, **options}).frames


def equal(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("num_classes", [2, 0])
def test_a_folder_keeps_the_weaker_model_and_its_scale(num_classes, tmp_path):
    pipe = guided_away(num_classes)
    made = latents(pipe)
    pipe.save_pretrained(tmp_path / "model")
    assert sorted(file.name for file in (tmp_path / "model/weaker").iterdir()) == [
        "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    assert read_json(tmp_path / "model/sampling.json")["autoguidance_scale"] == 2.5
    read = LattePipeline.from_pretrained(tmp_path / "model")
    assert equal(read.weaker, pipe.weaker) and read.sampling == pipe.sampling
    assert relative_error(latents(read), made) < 1e-5  # the place of the weights in memory may change rounding
    assert "weaker: Latte, 0.0" in repr(read) and "autoguidance_scale 2.5" in repr(read)
    assert torch.equal(latents(LattePipeline(**read.components), autoguidance_scale=2.5), latents(read))
    half = LattePipeline.from_pretrained(tmp_path / "model", torch.float16)
    assert {part.dtype for part in (*half.transformer.parameters(), *half.weaker.parameters())} == {torch.float16}
    without = LattePipeline.from_pretrained(tmp_path / "model", weaker=None)
    pipe.disable_autoguidance()
    assert without.weaker is None and relative_error(latents(without), latents(pipe)) < 1e-5
    assert relative_error(latents(without), made) > 1e-2 and "weaker" not in without.components
    assert "autoguidance" not in repr(without)


def test_text_to_video_folders_of_both_layouts_keep_the_weaker_model(tmp_path):
    shape = dict(num_attention_heads=2, attention_head_dim=8, caption_channels=6, sample_size=2, video_length=2)
    pipe, weak = (LattePipeline(awake(LatteT2V(LatteT2VConfig(num_layers=depth, **shape)))) for depth in (2, 1))
    pipe.enable_autoguidance(weak.transformer, scale=2.0)
    call = {**CALL, "prompt_embeds": torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0))}
    made = pipe(**call).frames
    for name, published in (("ours", False), ("theirs", True), ("theirs", True)):  # twice
        pipe.save_pretrained(tmp_path / name, published)
    left_out = dict(vae=None, text_encoder=None, tokenizer=None)
    for name in ("ours", "theirs"):
        read = LattePipeline.from_pretrained(tmp_path / name, **left_out)
        assert equal(read.weaker, weak.transformer) and relative_error(read(**call).frames, made) < 1e-5
    assert "weaker" not in read_json(tmp_path / "theirs/model_index.json")
    alone = LattePipeline.from_pretrained(
        tmp_path / "ours", vae=None, transformer=None, text_encoder=None, tokenizer=None
    )
    assert alone.weaker is None


def test_a_default_autoguidance_scale_replaces_classifier_free_guidance():
    pipe = guided_away()
    made = latents(pipe)
    assert torch.equal(latents(pipe, guidance_scale=1), made)
    assert not torch.equal(latents(pipe, autoguidance_scale=2), made)
    assert latents(pipe) is not None and pipe.guidance_scale == 2.5
    with pytest.raises(ValueError, match="guidance_scale 3 is for classifier-free guidance, but this model is guided"):
        latents(pipe, guidance_scale=3)
    with pytest.raises(ValueError, match="autoguidance does nothing with autoguidance_scale 1: set autoguidance_scale"):
        latents(pipe, autoguidance_scale=1)
    with pytest.raises(ValueError, match=r"autoguidance_scale is 2.5; with guidance_method cfg\+\+ it must be from 0"):
        latents(pipe, guidance_method="cfg++")
    pipe.sampling = replace(pipe.sampling, guidance=Guidance(2.5))
    assert torch.equal(latents(pipe), made)  # without a default, guidance_scale is autoguidance's
    pipe.disable_autoguidance()
    with pytest.raises(ValueError, match="autoguidance_scale does nothing without a weaker model"):
        latents(pipe, autoguidance_scale=2)


def test_other_guidance_settings_combine_with_the_autoguidance_scale():
    """They are rejected only where autoguidance itself has no effect."""
    stored = Guidance(1.0, (100, 900), "apg", {"momentum": 0.0}, autoguidance_scale=1.5)
    asked = stored.asked(schedule="linear", away=True)
    assert asked == replace(stored, schedule="linear") and asked.strength == 1.5
    assert Guidance(3.5, autoguidance_scale=1.5).asked(away=True).settings == {
        "guidance_scale": 1.0, "autoguidance_scale": 1.5,
    }  # fmt: skip
    assert Guidance(3.5, autoguidance_scale=1.5).asked() == Guidance(3.5)
    with pytest.raises(ValueError, match="guidance_method does nothing with autoguidance_scale 1, which does not"):
        stored.asked(method="cfg-zero", autoguidance_scale=1.0, away=True)


def test_losing_or_mixing_models_is_rejected(tmp_path, monkeypatch):
    pipe, folder = guided_away(), tmp_path / "model"
    pipe.save_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    writes = []
    broken = lambda module, draft, *_: writes.append(draft.name) or (_ for _ in ()).throw(OSError("full"))
    plain = latte_folder.write_network
    fails = lambda module, draft, *how: (broken if draft.name == "weaker" else plain)(module, draft, *how)
    monkeypatch.setattr(latte_folder, "write_network", fails)
    with pytest.raises(OSError, match="full"):
        pipe.save_pretrained(folder)
    assert writes == ["weaker"] and before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.undo()
    pipe.disable_autoguidance()
    with pytest.raises(CheckpointError, match="holds weaker, which this model does not have; choose a new folder"):
        pipe.save_pretrained(folder)
    pipe.save_pretrained(tmp_path / "plain")
    assert "autoguidance_scale" not in read_json(tmp_path / "plain/sampling.json")
    write_json(tmp_path / "plain/sampling.json", {"autoguidance_scale": 2})
    with pytest.raises(CheckpointError, match=r"sets autoguidance_scale, but .*weaker is missing: restore it"):
        LattePipeline.from_pretrained(tmp_path / "plain")
    assert LattePipeline.from_pretrained(tmp_path / "plain", weaker=None).weaker is None
    (folder / "weaker/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"weaker: model.safetensors is missing or truncated"):
        LattePipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="autoguidance needs two models with the same num_classes; these have 2 and 0"):
        LattePipeline(pipe.transformer, weaker=awake_pipeline().transformer)


@pytest.mark.parametrize("num_classes", [2, 0])
def test_a_plan_that_computes_everything_changes_no_bit(num_classes):
    pipe = guided_away(num_classes)
    made = latents(pipe)
    pipe.enable_plan(lambda plan: plan)
    assert torch.equal(latents(pipe), made)
    pipe.enable_plan(lambda plan: repeat(plan, range(len(plan)), "network"))
    assert torch.equal(latents(pipe), made)


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_does_not_apply_to_the_weaker_network(way):
    """The weaker network computes in full, unless clean latents are reused, which need no network."""
    pipe = guided_away()
    made, calls = latents(pipe), {"network": 0, "weaker": 0}
    pipe.enable_plan(WAYS[way])
    fast = latents(pipe)
    assert 1e-6 < (fast - made).norm() / made.norm() < 0.9

    def count(name):
        def counted(*_):
            calls[name] += 1

        return counted

    hooks = [
        network.blocks[0].mlp.fc1.register_forward_hook(count(name))
        for name, network in (("network", pipe.transformer), ("weaker", pipe.weaker))
    ]
    with fast_paths(False):
        torch.testing.assert_close(latents(pipe), fast, rtol=1e-3, atol=1e-3)
    for hook in hooks:
        hook.remove()
    assert calls == {"network": 3, "weaker": 3 if way == "clean" else 5}


def test_gated_guidance_skips_the_weaker_network():
    pipe, calls = guided_away(), []
    pipe.enable_plan(lambda plan: gate_guidance(plan, 2))
    with fast_paths(False), torch.no_grad():
        hook = pipe.weaker.register_forward_hook(lambda *_: calls.append(1))
        latents(pipe)
    hook.remove()
    assert len(calls) == 2


def test_the_cost_of_a_plan_holds_the_weaker_network():
    pipe = guided_away()
    size = (4, 2, 2)
    main, weak = (network_cost(network.config, *size) for network in (pipe.transformer, pipe.weaker))
    both = network_cost(pipe.transformer.config, *size, weaker=pipe.weaker.config)
    assert both.weaker == weak.total < main.total
    exact = exact_plan([900, 500, 100], (300, 1000))
    assert both.of_plan(exact) == [main.total + weak.total] * 2 + [main.total]
    assert main.of_plan(exact) == [2 * main.total] * 2 + [main.total]
    reusing = lambda kind: Plan((Evaluation(900), Evaluation(500, {kind: Reuse()})))
    assert both.of_plan(reusing("network")) == [main.total + weak.total, main.rest + weak.total]
    assert both.of_plan(reusing("clean")) == [main.total + weak.total, 0]
    assert both.of_kinds(exact)["weaker"] == [weak.total, weak.total, 0]
    lines = plan_table(reusing("clean"), both).splitlines()
    assert lines[-2] == "  weaker    #." and lines[-1].endswith("1 without it, d with a cached difference")


def test_calibration_includes_autoguidance(monkeypatch):
    monkeypatch.setattr(calibration, "STARTS", 1)
    monkeypatch.setattr(calibration, "LENGTHS", (2, 3))
    pipe = guided_away()
    replay = Replay(pipe, [0, 1], 5)
    assert torch.equal(replay.latents.transpose(1, 2), latents(pipe))
    assert replay.error(replay.sample(replay.exact, start=2)) == 0
    found = list(Calibration(replay, 0.7).search())
    assert found[-1].share <= 0.7 and found[-1].psnr == max(each.psnr for each in found)
    about = describe(found[-1], replay, [0, 1], 0)
    assert about["autoguidance_scale"] == 2.5 and about["autoguidance"]["hidden_size"] == 8
