"""Training a flow, and loss weightings: what they change, and that a stopped run resumes bit-exactly."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from small_runs import run, same, small, small_t2v, tensors

from latte import LattePipeline
from latte.files import read_json
from latte.scheduler import Scheduler
from latte.weights.t2v_folder import save_text_to_video

FLOW, WEIGHTED = "model.prediction=flow", ("loss_weighting=min-snr", "snr_gamma=2.0")


@pytest.mark.parametrize("words", [(FLOW,), WEIGHTED])
def test_a_resumed_run_is_bit_exact(words, vae, tmp_path):
    config = small(vae, "steps=4", "save_every=2", *words)
    run(config, tmp_path / "whole")
    run(config, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-0000004")
    run(config, tmp_path / "parts")
    whole, parts = (tensors(tmp_path / name / "checkpoints/step-0000004") for name in ("whole", "parts"))
    assert same(whole, parts)


def test_loss_weighting_changes_the_run_but_not_the_mse(vae, tmp_path):
    settings = {"plain": (), "weighted": WEIGHTED[:1], "gamma": WEIGHTED}
    for name, words in settings.items():
        run(small(vae, "steps=2", *words), tmp_path / name)
    weights = {name: load_file(tmp_path / name / "final/model.safetensors") for name in settings}
    assert not same(weights["plain"], weights["weighted"]) and not same(weights["weighted"], weights["gamma"])
    first = {name: json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in settings}
    assert first["plain"]["loss"] != first["weighted"]["loss"]
    assert first["plain"]["mse"] == first["weighted"]["mse"]
    with pytest.raises(ValueError, match="snr_gamma does nothing with loss_weighting=none"):
        small(vae, "snr_gamma=2.0")


def test_a_text_to_video_flow_model_is_sampled_as_a_flow(vae, tmp_path):
    final = run(small_t2v(vae, "steps=1", FLOW), tmp_path / "run")
    assert read_json(tmp_path / "run/scheduler/scheduler_config.json")["flow"] is True
    pipe = LattePipeline.from_pretrained(final)
    assert pipe.transformer.config.prediction == "flow"
    assert pipe.scheduler == Scheduler("ddim", "trailing", flow=True)
    save_text_to_video(tmp_path / "again", pipe.components)
    latents = [
        each("a red star", num_inference_steps=2, seed=0, output_type="latent", progress=False).frames
        for each in (pipe, LattePipeline.from_pretrained(tmp_path / "again"))
    ]
    assert latents[0].equal(latents[1]) and latents[0].isfinite().all()
    with pytest.raises(ValueError, match="has no scheduler for a flow"):
        pipe.save_pretrained(tmp_path / "published", published=True)
