"""Weights in and out, and what is said about the ones that cannot be read."""

import pickle

import pytest
import torch
from goldens import Golden, relative_error
from safetensors.torch import save_file

import latte
from latte.checkpoint import save_model
from latte.cli import main


def out_of(model, golden):
    return model(golden.inputs["x"], golden.inputs["t"], golden.inputs["y"])


@pytest.fixture
def golden():
    return Golden("latte_class")


@pytest.mark.parametrize("wrap", ["ema", "model", "bare", "compiled", "both"])
def test_every_form_of_an_original_checkpoint(golden, tmp_path, wrap):
    state = golden.weights
    other = {name: tensor + 1 for name, tensor in state.items()}
    stored = {
        "ema": {"ema": state, "opt": {"step": 3}},
        "model": {"model": state},
        "bare": state,
        "compiled": {"ema": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
        "both": {"ema": state, "model": other},
    }[wrap]
    torch.save(stored, tmp_path / "original.pt")
    model = latte.load_model(tmp_path / "original.pt", num_heads=4, weights="model" if wrap == "model" else "ema")
    assert relative_error(out_of(model, golden), golden.outputs["out"]) < 1e-5
    if wrap == "both":
        model = latte.load_model(tmp_path / "original.pt", num_heads=4, weights="model")
        assert relative_error(out_of(model, golden), golden.outputs["out"]) > 1e-2


def test_converted_folder_gives_the_same_bits(golden, tmp_path):
    source = golden.write_weights(tmp_path)
    assert main(["convert", str(source), str(tmp_path / "ours"), "--num-heads", "4"]) == 0
    direct, converted = latte.load_model(source, num_heads=4), latte.load_model(tmp_path / "ours")
    assert converted.config == direct.config and converted.config.num_classes == 5
    assert torch.equal(out_of(direct, golden), out_of(converted, golden))
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_folder(golden, tmp_path):
    model = latte.load_model(golden.write_weights(tmp_path), num_heads=4)
    half = latte.load_model(save_model(model, tmp_path / "half", torch.float16))
    error = relative_error(out_of(half, golden), golden.outputs["out"])
    assert 1e-6 < error < 1e-2


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def test_bad_checkpoints_end_in_one_line(golden, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = golden.write_weights(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "malicious.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"ema": Bomb()}, tmp_path / "malicious2.pt")
    torch.save({"ema": {"weight": torch.zeros(2)}}, tmp_path / "other.pt")
    save_file({**golden.weights, "blocks.0.lora": torch.zeros(1)}, tmp_path / "surplus.safetensors")
    missing = {name: tensor for name, tensor in golden.weights.items() if name != "blocks.1.mlp.fc1.bias"}
    save_file(missing, tmp_path / "missing.safetensors")
    (tmp_path / "empty").mkdir()
    said = {
        "nothing.pt": "no checkpoint",
        "cut.safetensors": "damaged",
        "text.pt": "damaged or is not",
        "malicious.pt": "damaged or is not",
        "malicious2.pt": "damaged or is not",
        "other.pt": "not the weights of an original Latte",
        "surplus.safetensors": "blocks.0.lora",
        "missing.safetensors": "blocks.1.mlp.fc1.bias",
        "empty": "no config.json",
    }
    for name, words in said.items():
        assert main(["convert", name, "out", "--num-heads", "4"]) == 2, name
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, (name, error)
    assert not (tmp_path / "bomb-went-off").exists()
    assert not (tmp_path / "out").exists()


def test_head_count_is_asked_for(golden, tmp_path):
    with pytest.raises(ValueError, match="num_heads"):
        latte.load_model(golden.write_weights(tmp_path))
