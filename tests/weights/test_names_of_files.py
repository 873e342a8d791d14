"""Names of weight files: uppercase suffixes or those of another format, and --variant on the command line."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latte import LattePipeline
from latte.cli import main
from latte.eval.statistics import read_feature_set
from latte.models.latte_t2v import LatteT2V
from latte.weights.convert_latte import COMPUTED, state_for_original
from latte.weights.find_models import find_model
from latte.weights.folder import read_config, save_folder
from latte.weights.load import load_model, save_model
from latte.weights.manifest import damage
from latte.weights.stored_names import mentions
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import load_vae, save_vae


@pytest.mark.parametrize("name", ["x.SAFETENSORS", "x.Safetensors", "x.sft", "x.bin", "x.PT", "x.safetensors", "x"])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_format_is_determined_by_the_content(name, kind, tiny, tmp_path):
    state = {key: tensor.detach() for key, tensor in state_for_original(tiny).items()}
    if kind == "safetensors":
        save_file(state, tmp_path / name)
    else:
        torch.save({"ema": state}, tmp_path / name, _use_new_zipfile_serialization=kind == "zip")
    found = state_for_original(load_model(tmp_path / name, num_heads=2))
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items() if key not in COMPUTED)
    assert mentions(tmp_path / name, "x_embedder.proj.weight") and not mentions(tmp_path / name, "absent")


def test_uppercase_suffixes_are_written_and_recognised(tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "model")
    for name in ("back.PT", "back.SafeTensors"):
        assert main(["convert", str(folder), str(tmp_path / name), "--to", "original"]) == 0
        assert load_model(tmp_path / name, num_heads=2).config == tiny.config
    (folder / "EMA.SAFETENSORS").write_bytes(b"")
    assert damage(folder) == "EMA.SAFETENSORS is not one of its files"


def test_features_and_statistics_in_capitals(tmp_path):
    mean, features = np.arange(3.0), torch.randn(5, 3)
    np.savez(tmp_path / "a.npz", mean=mean, cov=np.eye(3), n=9)
    (tmp_path / "a.npz").rename(tmp_path / "a.NPZ")
    assert read_feature_set(tmp_path / "a.NPZ").features.count == 9
    (tmp_path / "set").mkdir()
    save_file({"features": features}, tmp_path / "set/a.SAFETENSORS")
    (tmp_path / "set/._a.safetensors").write_bytes(b"of another system")
    assert torch.equal(read_feature_set(tmp_path / "set").features, features)


def test_a_variant_is_chosen_on_the_command_line(tmp_path, tiny, tiny_vae, capsys):
    source = shutil.copytree(find_model("shapes-t2v"), tmp_path / "t2v")
    config = LattePipeline.from_pretrained(source).transformer.config
    save_folder(LatteT2V(replace(config, self_condition=False)), source / "transformer")  # for diffusers
    for part in ("transformer", "text_encoder", "vae"):
        for manifest in (source / part).glob("manifest.json"):
            manifest.unlink()
        file = source / part / "model.safetensors"
        shutil.copy(file, file.with_name("model.fp16.safetensors"))
        shutil.copy(file, file.with_name("model.bf16.safetensors"))
        file.unlink()
    words = ["sample", str(source), "--prompt", "a red star", "--num-sampling-steps", "2"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "holds weights of bf16 and fp16 only: choose one (variant)" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "a"), "--variant", "fp16"]) == 0
    out = capsys.readouterr().out
    assert out.count("model.fp16.safetensors sha256") == 3 and "--variant fp16" in out
    for form in ("latte", "diffusers"):
        target = tmp_path / form
        assert main(["convert", str(source), str(target), "--to", form, "--variant", "bf16"]) == 0
        assert capsys.readouterr().out.count("model.bf16.safetensors, sha256") == 3
    vae = save_vae(tiny_vae, tmp_path / "vae")
    (vae / "manifest.json").unlink()
    (vae / "model.safetensors").rename(vae / "model.ema.safetensors")
    assert main(["convert", str(vae), str(tmp_path / "ours"), "--variant", "ema"]) == 0
    assert load_vae(tmp_path / "ours").config == tiny_vae.config
    assert main(["convert", str(vae / "model.ema.safetensors"), str(tmp_path / "none"), "--variant", "fp16"]) == 2
    assert "--variant does nothing for" in capsys.readouterr().err
    model = save_model(tiny, tmp_path / "model")
    (model / "manifest.json").unlink()
    (model / "model.safetensors").rename(model / "model.fp16.safetensors")
    assert main(["convert", str(model), str(tmp_path / "class"), "--variant", "fp16"]) == 0
    assert "model/model.fp16.safetensors, sha256" in capsys.readouterr().out
    words = ["sample", str(model), "--vae", str(tmp_path / "ours"), "--variant", "fp16", "--num-videos", "1"]
    assert main([*words, "--steps", "1", "--classes", "0", "--out", str(tmp_path / "b")]) == 0
    said = capsys.readouterr()
    assert "model.fp16.safetensors sha256" in said.out
    assert "ours has no files of the variant 'fp16': reading its plain files" in said.err


def test_a_folder_of_another_trainer_suggests_the_file_to_load(tiny, tmp_path, capsys):
    """As saved by accelerate and DeepSpeed."""
    state = {f"_orig_mod.module.{key}": tensor for key, tensor in state_for_original(tiny).items()}
    (tmp_path / "checkpoint/pytorch_model").mkdir(parents=True)
    torch.save({"module": state, "ds_config": {}}, tmp_path / "checkpoint/pytorch_model/mp_rank_00_model_states.pt")
    torch.save(state, tmp_path / "checkpoint/pytorch_model.bin")
    for folder, name in (
        ("checkpoint", "pytorch_model.bin"),
        ("checkpoint/pytorch_model", "mp_rank_00_model_states.pt"),
    ):
        with pytest.raises(CheckpointError, match=f"not a model folder: give a file in it, {name}"):
            load_model(tmp_path / folder)
        assert load_model(tmp_path / folder / name, num_heads=2).config == tiny.config
    with pytest.raises(CheckpointError, match=r"not a model folder$"):
        read_config(tmp_path / "nowhere", dict)
