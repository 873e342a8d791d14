"""Checkpoints as other trainers write them: how they wrap weights, and what else they store."""

import argparse
import pathlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latte.cli import main
from latte.weights.convert_latte import COMPUTED, state_for_original, unwrap
from latte.weights.folder import read_config
from latte.weights.load import load_model
from latte.weights.pickles import Foreign
from latte.weights.tensors import CheckpointError, load_strictly, read_tensors

N = torch.tensor(5)
FLOATS8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def other(state):
    """Different weights under the same names; the position tables are fixed."""
    return {name: tensor if name in COMPUTED else tensor + 1 for name, tensor in state.items()}


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def inside(word, state):
    """The names they have if each block is wrapped."""
    return {re.sub(r"^(blocks\.\d+)\.", rf"\1.{word}.", name): tensor for name, tensor in state.items()}


VAE = {"vae.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3), "vae.encoder.blocks.0.weight": torch.zeros(1)}
ABOUT = {"epoch": 3, "pytorch-lightning_version": "2.2.0", "optimizer_states": [{"state": {0: {"exp_avg": N}}}]}
FORMS = {  # of a checkpoint with averaged weights a and other weights m
    "lightning": lambda a, m: {**ABOUT, "state_dict": {**under("model.", m), **under("ema.", a), **VAE}},
    "lightning callback": lambda a, m: {
        **ABOUT,
        "state_dict": under("model.", m),
        "ema_state_dict": under("model.", a),
    },
    "lightning, compiled": lambda a, m: {
        "state_dict": {**under("model._orig_mod.", m), **under("ema._orig_mod.module.", a)}
    },
    "lightning's averaging": lambda a, m: {
        **ABOUT,
        "state_dict": under("model.", a),
        "current_model_state": under("model.", m),
        "averaging_state": {"n_averaged": N},
    },
    "lightning, best score": lambda a, m: {
        **ABOUT,
        "state_dict": {**under("model.", m), **under("ema.", a)},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"kth_value": torch.tensor(torch.inf)}},
        "loss": torch.tensor(torch.nan),
    },
    "words in capitals": lambda a, m: {"net": m, "netEMA": a},
    "words in one": lambda a, m: {"model": m, "emaModel": a},
    "latent diffusion": lambda a, m: {
        "state_dict": {
            **under("model.diffusion_model.", m),
            **under("model_ema.diffusion_model", {k.replace(".", ""): z for k, z in a.items() if k not in COMPUTED}),
            "model_ema.decay": torch.tensor(0.99),
            "model_ema.num_updates": N,
        }
    },
    "latent diffusion's, bare": lambda a, m: {
        **m,
        **under("model_ema.", {k.replace(".", ""): z for k, z in a.items()}),
        "model_ema.num_updates": N,
    },
    "averaged model": lambda a, m: {"ema": {"n_averaged": N, **under("module.", a)}, "model": m},
    "averaged model of ddp": lambda a, m: {"swa_model": {"n_averaged": N, **under("module.module.", a)}, "model": m},
    "ema_pytorch": lambda a, m: {
        "step": 3,
        "model": m,
        "ema": {
            "initted": torch.tensor(True),
            "step": N,
            **under("online_model.", {name: tensor.clone() for name, tensor in m.items()}),
            **under("ema_model.", a),
        },
    },
    "ema_pytorch alone": lambda a, m: {"initted": N, "step": N, **under("online_model.", m), **under("ema_model.", a)},
    "basicsr": lambda a, m: {"params": m, "params_ema": a},
    "averages of parameters": lambda a, m: {"params": m, "params_avg": a},
    "timm": lambda a, m: {"state_dict": m, "state_dict_ema": a, "arch": "Latte-XL/2"},
    "tutorial": lambda a, m: {"model_state_dict": m, "ema_state_dict": a, "optimizer_state_dict": {}, "loss": 0.1},
    "net": lambda a, m: {"net": m, "net_ema": a},
    "composer": lambda a, m: {"state": {"model": m, "ema": {"shadow": a}, "rank_zero_seed": 1}},
    "deepspeed": lambda a, m: {"module": m, "ema": {"module": a}, "ds_config": {"zero": {"stage": 2}}},
    "fsdp": lambda a, m: {
        "model": under("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module", m)),
        "ema": under("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module._checkpoint_wrapped_module", a)),
    },
    "blocks compiled": lambda a, m: {"model": inside("_orig_mod", m), "ema": inside("_orig_mod", a)},
    "ema of the learned": lambda a, m: {"model": m, "ema": {k: z for k, z in a.items() if k not in COMPUTED}},
    "flat": lambda a, m: {**m, **under("ema.", a)},
    "empty tables": lambda a, m: {"ema": a, "model": m, "best": {"of": 3}, "weights": {}},
    "dit": lambda a, m: {
        "model": m,
        "ema": a,
        "opt": {"state": {}},
        "args": argparse.Namespace(model="Latte", lr=1e-4),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_unwrapped_from_every_trainers_format(form, tiny, tmp_path):
    plain = state_for_original(tiny)
    averaged = other(plain)
    torch.save(FORMS[form](averaged, plain), tmp_path / "last.ckpt")
    for weights, right in (("ema", averaged), ("model", plain)):
        model = load_model(tmp_path / "last.ckpt", num_heads=2, weights=weights)
        assert model.config == tiny.config
        found = state_for_original(model)
        assert all(torch.equal(found[name], tensor) for name, tensor in right.items()), (form, weights)


@pytest.mark.parametrize("keys", ["state_dict", "model_state_dict", "net", "weights", "params", "module", "state.app"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "latte.", "diffusion.model.module."])
def test_the_only_weights_of_a_checkpoint_are_taken_either_way(keys, prefix, tiny, tmp_path):
    table = under(prefix, state_for_original(tiny))
    for key in reversed(keys.split(".")):
        table = {key: table, "step": 3}
    for weights in ("ema", "model", None):
        assert unwrap(table, weights).keys() == state_for_original(tiny).keys()


def test_other_weights_than_requested_are_never_used(tiny):
    state = state_for_original(tiny)
    object_ = Foreign("ema.EMA")
    lit = {"model_ema." + name.replace(".", "_"): tensor for name, tensor in state.items()}
    for table, weights, say in (
        ({"model": state}, "ema", "holds ['model'], not 'ema'; choose weights='model'"),
        ({"ema": state}, "model", "holds ['ema'], not 'model'; choose weights='ema'"),
        ({"state_dict_ema": state, "x": 1}, "model", "holds ['state_dict_ema'], not 'model'"),
        ({"state_dict": state, "ema": object_}, "ema", "ema is an object of ema.EMA"),
        ({"state_dict": state, "ema": {"shadow_params": list(state.values())}}, "ema", "list of tensors without names"),
        ({"net": state, "ema": {"stds": [0.05], "emas": [other(state)]}}, "ema", "ema.emas is a list of tables"),
        ({"net": state, "emas": {"a": other(state), "b": state}}, "ema", "both emas.a and emas.b, which differ"),
        ({"state_dict": {**under("model.", state), **lit}}, "ema", "is not a name of this network; choose weights="),
        ({"ema": state, "ema_model": other(state)}, "ema", "both ema and ema_model, which differ"),
        ({"ema_0.9999": state, "ema_0.99": other(state)}, "ema", "both ema_0.9999 and ema_0.99, which differ"),
        ({"state_dict": {**under("student.", state), **under("teacher.", other(state))}}, "ema", "which differ"),
        ({"model": state, "net": other(state)}, "model", "both model and net, which differ"),
        ({"ema": state, "model": object_}, "model", "holds ['ema'], not 'model'"),
    ):
        with pytest.raises(ValueError, match=re.escape(say)):
            unwrap(table, weights)
    assert unwrap({"ema": state, "ema_model": dict(state)}).keys() == state.keys()
    assert unwrap({"state_dict": {**under("model.", state), **lit}}, "model").keys() == state.keys()


def test_surplus_entries_beside_wrapped_weights_are_rejected(tiny, tmp_path, capsys):
    state = state_for_original(tiny)
    for extra in ("lora.weight", "blocks.0.attn.q_norm.weight", "n_averaged_more"):
        torch.save({"state_dict": {**under("model.", state), f"model.{extra}": N}}, tmp_path / "more.ckpt")
        assert main(["convert", str(tmp_path / "more.ckpt"), str(tmp_path / "out"), "--num-heads", "2"]) == 2
        assert f"{extra}' has no place in the table of names" in capsys.readouterr().err
    flat = {"_fsdp_wrapped_module._flat_param": torch.zeros(9)}
    torch.save({"model": flat}, tmp_path / "flat.pt")
    assert main(["convert", str(tmp_path / "flat.pt"), str(tmp_path / "out")]) == 2
    assert "not the weights of an original Latte" in capsys.readouterr().err


class Recorder:
    """Counts how often it is built."""

    built = 0

    def __init__(self, *_):
        Recorder.built += 1

    def __reduce__(self):
        return Recorder, (1,), {"attribute": 2}


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_are_left_out_without_being_built(zipped, tiny, tmp_path):
    objects = {
        "args": argparse.Namespace(path=pathlib.Path("/data"), lr=np.float64(1e-4)),
        "path": pathlib.PurePosixPath("/data"),
        "loss": np.float32(0.5),
        "dtype": np.dtype("float32"),
        "array": np.arange(3),
        "recorder": Recorder(),
        "function": np.mean,
        "type": torch.float16,
        "nested": [{"deep": argparse.Namespace(a=Recorder())}],
        pathlib.PurePosixPath("key"): 1,
    }
    state, before = state_for_original(tiny), Recorder.built
    torch.save({"ema": state, **objects}, tmp_path / "0050000.pt", _use_new_zipfile_serialization=zipped)
    table = read_tensors(tmp_path / "0050000.pt")
    assert Recorder.built == before
    assert isinstance(table["args"], Foreign) and table["args"].name == "argparse.Namespace"
    assert not hasattr(table["args"], "path")
    assert load_model(tmp_path / "0050000.pt", num_heads=2).config == tiny.config
    assert not [known for known in torch.serialization.get_safe_globals() if isinstance(known, tuple)]


def test_a_pickled_network_is_named(tiny, tmp_path):
    for stored, say in ((tiny, "holds an object of"), ({"ema": tiny}, ".?ema.? is an object of")):
        torch.save(stored, tmp_path / "whole.pt")
        with pytest.raises(
            CheckpointError, match=rf"whole\.pt.*{say} latte\.models\.latte\.Latte, which is not a tensor"
        ):
            load_model(tmp_path / "whole.pt")


def test_deep_tables_are_examined(tiny, tmp_path):
    state = state_for_original(tiny)
    state["blocks.0.attn.proj.weight"] = state["blocks.0.attn.proj.weight"] * float("nan")
    torch.save({"state": {"model": {"state_dict": state}}}, tmp_path / "deep.pt")
    with pytest.raises(CheckpointError, match=r"state\.model\.state_dict\.blocks\.0\.attn\.proj\.weight holds values"):
        load_model(tmp_path / "deep.pt", num_heads=2)
    loop: dict = {"x": torch.zeros(1)}
    loop |= {str(i): loop for i in range(20)}
    torch.save(loop, tmp_path / "loop.pt")
    with pytest.raises(CheckpointError, match="more than 10000 tables"):
        load_model(tmp_path / "loop.pt", num_heads=2)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
)
def test_plain_float8_weights_are_read(dtype, tiny, tmp_path):
    state = {name: tensor.detach().to(dtype) for name, tensor in state_for_original(tiny).items()}
    for name, save in (("x.pt", torch.save), ("x.safetensors", save_file)):
        if "fnuz" in str(dtype) and save is save_file:
            continue  # not supported by safetensors
        save(state, tmp_path / name)
        found = state_for_original(load_model(tmp_path / name, num_heads=2))
        assert all(torch.equal(found[name], z.float()) for name, z in state.items() if name not in COMPUTED)
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "out"), "--num-heads", "2"]) == 0
    state["x_embedder.proj.bias"] = torch.full((16,), float("nan")).to(dtype)
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=r"x_embedder\.proj\.bias holds values that are not finite"):
        load_model(tmp_path / "nan.pt", num_heads=2)


def test_single_numbers_that_are_weights_must_be_finite():
    network = torch.nn.Module()
    network.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(CheckpointError, match=r"x\.pt: scale is not finite"):
        load_strictly(network, {"scale": torch.tensor(torch.nan)}, Path("x.pt"))


@pytest.mark.parametrize(
    ("content", "say"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b'{"error": "not found"}', "is JSON: give"),
        (b"\x1f\x8b\x08", "is a gzip archive"),
        (b"abc", "is damaged or is not a checkpoint"),
    ],
)
@pytest.mark.parametrize("command", ["convert", "info"])
def test_files_that_are_no_checkpoints_are_named(command, content, say, tmp_path, capsys):
    (tmp_path / "model.pt").write_bytes(content)
    more = [str(tmp_path / "out")] if command == "convert" else []
    assert main([command, str(tmp_path / "model.pt"), *more]) == 2
    assert f"model.pt {say}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "say"),
    [
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "are in shards: merge them"),
        (["model.pt", "__0_0.distcp"], "merge it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save"),
        (["model.pt"], "give a file in it, model.pt"),
    ],
)
def test_folders_of_other_trainers_get_advice(names, say, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=say):
        read_config(tmp_path, dict)
