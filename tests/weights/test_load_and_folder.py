"""Loading and saving weights, and the errors for weights that cannot be loaded."""

import json
import os
from pathlib import Path

import pytest
import torch
from goldens import out_of, relative_error

import latte
from latte.files import replacing
from latte.models.latte import Latte, LatteConfig
from latte.weights import find_models
from latte.weights.convert_latte import COMPUTED
from latte.weights.find_models import find_model
from latte.weights.load import load_model, save_model, weights_file
from latte.weights.manifest import damage, write_manifest
from latte.weights.tensors import CheckpointError, write_tensors
from latte.weights.vae_folder import save_vae


@pytest.mark.parametrize("wrap", ["ema", "model", "bare", "compiled", "both"])
def test_every_form_of_an_original_checkpoint_is_loaded(golden, tmp_path, wrap):
    state = golden.weights
    other = {name: tensor if name in COMPUTED else tensor + 1 for name, tensor in state.items()}
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


def test_a_changed_folder_is_detected(golden, tmp_path):
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
def test_invalid_configurations_are_rejected(change, golden, tmp_path):
    folder = save_model(latte.load_model(golden.write_weights(tmp_path), num_heads=4), tmp_path / "ours")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=f"config.json: .*{next(iter(change))}"):
        latte.load_model(folder)


def test_the_number_of_heads_is_required_for_unpublished_widths(golden, tmp_path):
    with pytest.raises(ValueError, match=r"with --num-heads \(in Python: num_heads\)"):
        latte.load_model(golden.write_weights(tmp_path))


def test_only_files_in_the_manifest_are_loaded(tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "ours")
    write_tensors(folder / "ema.safetensors", tiny.state_dict())
    assert damage(folder) == "ema.safetensors is not one of its files"
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is not one of its files"):
        load_model(folder)
    (folder / "classes.json").write_text("{}")  # files other than weights may be present
    with pytest.raises(CheckpointError, match=r"holds other weights too, ema\.safetensors: move them away, or choose"):
        save_model(tiny, folder)
    (folder / "ema.safetensors").unlink()
    save_model(tiny, folder)
    assert (folder / "classes.json").exists() and load_model(folder).config == tiny.config
    for files in ({}, {"depth": 3}, {"../x": {"bytes": 1, "sha256": ""}}, {"x": [1]}, {"\ud800": {}}):
        (folder / "manifest.json").write_text(json.dumps(files))
        with pytest.raises(CheckpointError, match=r"not one of its files|manifest\.json cannot be read"):
            load_model(folder)


def test_a_training_checkpoint_is_not_overwritten(tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "step-1")
    write_tensors(folder / "optimizer.safetensors", {"step": torch.zeros(1)})
    write_manifest(folder, ["config.json", "model.safetensors", "optimizer.safetensors"])
    with pytest.raises(CheckpointError, match="not empty"):
        save_model(tiny, folder)


@pytest.mark.parametrize("name", ["ours", "fresh"])
def test_an_interrupted_write_leaves_the_folder_unchanged(name, tiny, tmp_path, monkeypatch):
    save_model(tiny, tmp_path / "ours")
    (tmp_path / "ours/README.md").write_text("mine")
    other, folder = Latte(LatteConfig(**{**vars(tiny.config), "num_heads": 4})), tmp_path / name

    def stop(path, *_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("latte.weights.folder.write_tensors", stop)
        save_model(other, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    assert load_model(tmp_path / "ours").config == tiny.config
    assert load_model(save_model(other, folder)).config.num_heads == 4
    assert (tmp_path / "ours/README.md").read_text() == "mine"


def test_which_weight_file_is_read(tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "run/final")
    assert weights_file(tmp_path / "run") == folder / "model.safetensors"
    (folder / "manifest.json").unlink()
    write_tensors(folder / "ema.safetensors", {name: tensor + 1 for name, tensor in tiny.state_dict().items()})
    assert weights_file(folder) == folder / "ema.safetensors"
    assert weights_file(folder, "model") == folder / "model.safetensors"
    assert weights_file(folder / "ema.safetensors") == folder / "ema.safetensors"
    for weights, plus in (("ema", 1), ("model", 0)):
        loaded = load_model(tmp_path / "run", weights=weights)  # a run's folder, as the pipeline accepts it
        assert torch.equal(loaded.final_linear.bias, tiny.final_linear.bias + plus)


def test_bundled_models_are_found_by_name(tiny, tiny_vae, tmp_path, monkeypatch):
    monkeypatch.setattr(find_models, "BUNDLED", tmp_path)
    save_model(tiny, tmp_path / "demo")
    save_vae(tiny_vae, tmp_path / "demo/vae")
    assert load_model("demo").config == tiny.config
    assert find_model("demo/vae") == tmp_path / "demo/vae"
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="means the bundled model"):
        assert find_model("demo") == tmp_path / "demo"
    assert find_model("./demo") == Path("demo")
    assert find_models.bundled_models() == {name: tmp_path / name for name in ("demo", "demo/vae")}
    for name, said in (("dem", ": did you mean demo?"), ("other", "; .* the name of a bundled model: demo")):
        with pytest.raises(CheckpointError, match=rf"^no model at {name}{said.replace('?', '.')}$"):
            load_model(name)


def test_model_folders_are_distinguished_from_video_folders(tiny, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "text/transformer").mkdir(parents=True)
    (tmp_path / "text/transformer/config.json").write_text("{}")
    (tmp_path / "videos").mkdir()
    for folder in (save_model(tiny, tmp_path / "model"), tmp_path / "run", tmp_path / "text"):
        assert find_models.is_model_folder(folder)
    assert not find_models.is_model_folder(tmp_path / "videos") and not find_models.is_model_folder(
        tmp_path / "nowhere"
    )


def test_two_processes_write_one_file(tmp_path, monkeypatch):
    with replacing(tmp_path / "x.json") as mine:
        mine.write_text("mine")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with replacing(tmp_path / "x.json") as theirs:
            theirs.write_text("theirs")
    assert (tmp_path / "x.json").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "say"),
    [
        ("shapes/vae", "is a VAE, not a Latte: name the Latte"),
        ("shapes-features", "is a feature network, which generates no videos"),
        ("shapes-t2v", "is a text-to-video model: load it with LattePipeline"),
        ("shapes-t2v/transformer", "name the folder above it"),
        ("shapes-t2v/text_encoder", "name the folder above it"),
    ],
)
def test_models_that_are_not_a_latte_are_named(name, say):
    with pytest.raises(CheckpointError, match=say):
        load_model(name)
