"""Weights in and out, and what is said about the ones that cannot be read."""

import hashlib
import json
import pickle
import zipfile

import pytest
import torch
from goldens import Golden, relative_error
from safetensors.torch import save_file

import latte
from latte.checkpoint import save_model
from latte.cli import main
from latte.convert import state_for_original
from latte.models.latte import Latte, LatteConfig
from latte.tensors import CheckpointError, read_tensors


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
    written = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert written == ["config.json", "manifest.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in (tmp_path / "ours").iterdir()}) == 1


@pytest.mark.parametrize("name", ["back.pt", "back.safetensors"])
def test_written_back_for_the_original(golden, tmp_path, name, capsys):
    source = golden.write_weights(tmp_path)
    words = ["--to", "original", "--num-heads", "4"]
    assert main(["convert", str(source), str(tmp_path / name), *words]) == 0
    assert hashlib.sha256(source.read_bytes()).hexdigest() in capsys.readouterr().out
    back = read_tensors(tmp_path / name)
    back = back["ema"] if name.endswith(".pt") else back
    assert back.keys() == golden.weights.keys()
    for key, tensor in golden.weights.items():
        tables = key in ("pos_embed", "temp_embed")
        assert torch.equal(back[key], tensor) or (tables and relative_error(back[key], tensor) < 1e-6), key


@pytest.mark.parametrize(
    "change", [{"variant": 2}, {"tubelet": 2}, {"conditioning": "tokens"}, {"temporal_pos": "rope"}]
)
def test_what_the_original_has_not_stays_ours(change, tmp_path):
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, num_frames=4, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        state_for_original(Latte(config))


def forge(folder, kind):
    """A checkpoint with one thing wrong that only a look inside shows."""
    file = folder / f"{kind}.pt"
    state = {"x_embedder.proj.weight": torch.ones(64, 4, 2, 2)}
    if kind == "flipped":
        torch.save(state, file)
        content = bytearray(file.read_bytes())
        at = content.find(torch.ones(8).numpy().tobytes())
        content[at + 5] ^= 1
        file.write_bytes(content)
    if kind == "compressed":
        torch.save(state, folder / "plain.pt")
        with zipfile.ZipFile(folder / "plain.pt") as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for record in old.namelist():
                new.writestr(record, old.read(record))
    return file


@pytest.mark.parametrize(("kind", "words"), [("flipped", "checksum"), ("compressed", "compressed inside")])
def test_damage_inside_a_zip_is_seen(kind, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        latte.load_model(forge(tmp_path, kind))


def test_values_that_cannot_be_right(golden, tmp_path):
    for name, wrong, words in (
        ("nan", torch.full((64, 16), float("nan")), "not finite"),
        ("huge", torch.zeros(1).expand(1 << 40, 1), "more than the file holds"),
    ):
        torch.save({**golden.weights, "blocks.0.attn.proj.weight": wrong}, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=f"{name}.pt: blocks.0.attn.proj.weight.*{words}"):
            latte.load_model(tmp_path / f"{name}.pt", num_heads=4)


def test_changed_folder_is_seen(golden, tmp_path):
    folder = save_model(latte.load_model(golden.write_weights(tmp_path), num_heads=4), tmp_path / "ours")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was written"):
        latte.load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"depth": "many"},
        {"depth": 10**9},
        {"hidden_size": -4},
        {"num_classes": True},
        {"sizes": 3},
        {"mlp_ratio": None},
    ],
)
def test_absurd_configuration_is_told(change, golden, tmp_path):
    folder = save_model(latte.load_model(golden.write_weights(tmp_path), num_heads=4), tmp_path / "ours")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=f"config.json: .*{next(iter(change))}"):
        latte.load_model(folder)


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
        "nothing.pt": "no model at nothing.pt",
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
