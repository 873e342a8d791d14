"""The forms a VAE comes in: latent diffusion's names, whole checkpoints, single files, older attention."""

import json
import os
import re
import shutil
import warnings

import pytest
import torch
from awake_models import awake
from safetensors.torch import save_file

from latte.cli import main
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.weights.manifest import digest, digest_folder
from latte.weights.stored_names import mentions
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import is_vae, load_vae, save_vae

CONFIG = VAEConfig(block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=32)
PUBLISHED = {  # names of every kind in CompVis's files
    *(
        "encoder.conv_in.weight",
        "encoder.conv_out.bias",
        "encoder.norm_out.weight",
        "encoder.down.0.block.0.norm2.weight",
        "encoder.down.1.block.0.nin_shortcut.weight",
    ),
    *(
        "encoder.down.1.downsample.conv.bias",
        "encoder.mid.block_2.conv1.weight",
        "encoder.mid.attn_1.q.weight",
        "encoder.mid.attn_1.proj_out.bias",
    ),
    *("encoder.mid.attn_1.norm.weight",),
    *(
        "decoder.conv_in.weight",
        "decoder.up.0.block.0.nin_shortcut.bias",
        "decoder.up.2.block.1.conv2.weight",
        "decoder.up.1.upsample.conv.weight",
    ),
    *(
        "decoder.up.2.upsample.conv.bias",
        "decoder.mid.block_1.norm1.bias",
        "decoder.mid.attn_1.v.bias",
        "decoder.norm_out.bias",
    ),
    *("quant_conv.weight", "post_quant_conv.bias"),
}


@pytest.fixture(scope="module")
def state():
    return {name: tensor.detach() for name, tensor in awake(AutoencoderKL(CONFIG)).state_dict().items()}


def latent_diffusion(state):
    """The tensors under latent diffusion's names."""
    renamed = {}
    for name, tensor in state.items():
        if ".attentions." in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        if up := re.match(r"decoder\.up_blocks\.(\d)", name):
            name = name.replace(up[0], f"decoder.up.{2 - int(up[1])}")
        for ours, theirs in (
            ("down_blocks.", "down."),
            (".downsamplers.0.", ".downsample."),
            (".upsamplers.0.", ".upsample."),
            ("mid_block.resnets.0.", "mid.block_1."),
            ("mid_block.resnets.1.", "mid.block_2."),
            ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
            ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
            ("mid_block.attentions.0.to_", "mid.attn_1."),
            (".resnets.", ".block."),
            ("conv_norm_out", "norm_out"),
            ("conv_shortcut", "nin_shortcut"),
        ):
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    assert renamed.keys() >= PUBLISHED
    return renamed


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


UNET = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(3), "cond_stage_model.x.weight": torch.zeros(1)}
FILES = {
    "vae-ft-mse-840000-ema-pruned.ckpt": lambda ldm, ours: {"state_dict": {**ldm, "loss.logvar": torch.zeros(1)}},
    "vae-ft-mse-840000-ema-pruned.safetensors": lambda ldm, ours: ldm,
    "v1-5-pruned.ckpt": lambda ldm, ours: {"state_dict": {**UNET, **under("first_stage_model.", ldm)}, "epoch": 1},
    "v1-5-pruned.safetensors": lambda ldm, ours: {**UNET, **under("first_stage_model.", ldm)},
    "last.ckpt": lambda ldm, ours: {"state_dict": {**under("model.", UNET), **under("vae.", ours)}},
    "diffusion_pytorch_model.bin": lambda ldm, ours: ours,
    "model.safetensors": lambda ldm, ours: ours,
}


@pytest.mark.parametrize("name", FILES)
def test_single_files_are_read(name, state, tmp_path, capsys):
    table, file = FILES[name](latent_diffusion(state), state), tmp_path / name
    save_file(table, file) if name.endswith(".safetensors") else torch.save(table, file)
    with pytest.warns(UserWarning, match="using Stable Diffusion's, 0.18215 and 32"):
        vae = load_vae(file)
    assert vae.config == CONFIG and is_vae(file)
    assert all(torch.equal(tensor, state[key]) for key, tensor in vae.model.state_dict().items())
    if not name.startswith("v"):
        return
    assert main(["convert", str(file), str(tmp_path / "folder")]) == 0
    assert f"read {file}, sha256 {digest(file)}" in capsys.readouterr().out
    with warnings.catch_warnings(action="error"):
        assert load_vae(tmp_path / "folder").config == CONFIG


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
@pytest.mark.parametrize("form", ["latent diffusion", "old attention", "shards", "fp16"])
def test_every_form_of_vae_folder_is_read(name, form, state, tmp_path):
    folder, end = save_vae(VideoVAE(AutoencoderKL(CONFIG)), tmp_path / "vae"), name.rpartition(".")[2]
    for written in ("model.safetensors", "manifest.json"):
        (folder / written).unlink()
    save = save_file if end == "safetensors" else lambda table, path: torch.save(table, path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    if form == "latent diffusion":
        save(latent_diffusion(state), folder / name)
    elif form == "old attention":
        rename = lambda key: re.sub(r"to_(q|k|v|out\.0)(?=\.)", lambda found: old[found[0]], key)
        save({rename(key): tensor for key, tensor in state.items()}, folder / name)
    elif form == "fp16":
        state = {key: tensor.half() for key, tensor in state.items()}
        save(state, folder / f"diffusion_pytorch_model.fp16.{end}")
    else:
        keys = list(state)
        halves = {f"diffusion_pytorch_model-{i}.{end}": keys[i::2] for i in range(2)}
        for file, half in halves.items():
            save({key: state[key] for key in half}, folder / file)
        index = {"weight_map": {key: file for file, half in halves.items() for key in half}}
        (folder / f"{name}.index.json").write_text(json.dumps(index))
    vae = load_vae(folder)
    assert all(torch.equal(tensor, state[key].float()) for key, tensor in vae.model.state_dict().items())


def test_ambiguous_or_invalid_vaes_are_rejected(state, tmp_path):
    ldm = latent_diffusion(state)
    for table, say in (
        ({"x": torch.zeros(1)}, r"not the weights of a VAE: encoder\.conv_in\.weight is missing"),
        ({**under("a.", ldm), **under("b.", {key: z + 1 for key, z in ldm.items()})}, "both a and b, which differ"),
        ({**ldm, "encoder.mid.attn_2.q.weight": torch.zeros(1)}, r"not of this model, first encoder\.mid\.attn_2"),
        ({k: z for k, z in ldm.items() if "decoder.up.1" not in k}, "missing, first decoder"),
        ({**ldm, "decoder.up.7.block.0.conv1.weight": torch.zeros(1)}, "53 tensors missing"),
        (
            {**under("first_stage_model.", ldm), "conditioner.embedders.0.x": torch.zeros(1)},
            "a later model than Stable",
        ),
        ({**ldm, "encoder.conv_in.weight": torch.zeros(3)}, r"encoder\.conv_in\.weight has the shape \(3,\)"),
        (
            {**ldm, "encoder.conv_in.weight_scale": torch.ones(1)},
            "not of this model, first encoder.conv_in.weight_scale",
        ),
    ):
        torch.save(table, tmp_path / "x.ckpt")
        with warnings.catch_warnings(action="ignore"), pytest.raises(CheckpointError, match=rf"x\.ckpt.*{say}"):
            load_vae(tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"x\.ckpt is a file, but a folder is needed: `latte convert"):
        digest_folder(tmp_path / "x.ckpt")  # as recorded by training


def test_damaged_files_are_not_vaes_and_names_need_not_be_utf8(tmp_path):
    """A single-file VAE is recognised by a name in it, which damage must not turn into another error."""
    weights = {"encoder.conv_in.weight": torch.zeros(2), "encoder.norm_out.weight": torch.zeros(2)}
    save_file(weights, tmp_path / "plain.safetensors")
    odd = tmp_path / os.fsdecode(b"v\xe9.safetensors")
    shutil.copy(tmp_path / "plain.safetensors", odd)
    assert mentions(odd, "conv_in.weight") and not mentions(odd, "absent")
    torch.save(weights, tmp_path / "plain.pt")
    content = bytearray((tmp_path / "plain.pt").read_bytes())
    content[content.index(b"conv_in")] ^= 1
    (tmp_path / "plain.pt").write_bytes(content)
    assert not mentions(tmp_path / "plain.pt", "conv_in.weight")
