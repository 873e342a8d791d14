"""Training runs that take seconds, and functions to compare them."""

import torch
from safetensors.torch import load_file

from latte.train.data.latents import open_data
from latte.train.loop import train
from latte.train.resolve import resolve

SMALL = ["steps=12", "clips=12", "global_batch_size=4", "num_frames=4", "image_size=16"]
SMALL += ["log_every=1", "save_every=5", "warmup=2"]
PLAIN = ["optimizer=adamw", "learning_rate=1.5e-3", "schedule=cosine", "cooldown=0.2", "cooldown_shape=linear"]
PLAIN += ["ema_decay=0.999", "precision=fp32", "timestep_std=1.0", "timestep_mean=0.5"]
PLAIN += ["model.mlp_ratio=4.0", "model.self_condition=false"]  # all as in shapes-plain
TINY_MODEL = ["model.depth=2", "model.hidden_size=16", "model.num_heads=2", "model.patch_size=2"]
TINY = [*SMALL, *PLAIN, *TINY_MODEL]  # for the preset shapes
TINY_PLAIN = [*SMALL, *TINY_MODEL]  # for shapes-plain, as in `small`
TINY_T2V = [
    *SMALL,
    "model={num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 2, prediction: v}",
]
TINY_T2V += ["optimizer=adamw", "learning_rate=1.5e-3", "schedule=cosine", "ema_decay=0.999", "sample_guidance=2"]
TINY_T2V += ["timestep_std=1.1", "timestep_mean=-0.2", "sample_settings={}"]
TINY_T2V += ["text_encoder={d_model: 8, d_kv: 4, d_ff: 16, num_layers: 1, num_heads: 2}"]
TINY_FEATURES = [*SMALL, "model.widths=[4,8]", "model.features=8"]
TINY_VAE = [*SMALL, "model={block_out_channels: [4,8,8,8], layers_per_block: 1, norm_num_groups: 4}"]
TINY_VAE += ["thumbnail_weight=0", "thumbnail_scale=4", "detail_scale=0", "schedule=cosine", "learning_rate=1.5e-3"]
TINY_VAE += ["ema_decay=0.999"]


def run(config, folder, **options):
    return train(config, folder, open_data(config), **options)


def tensors(folder):
    return {
        f"{n}.{k}": v for n in ("model", "ema", "optimizer") for k, v in load_file(folder / f"{n}.safetensors").items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def small(vae, *changes):
    return resolve("shapes-plain", [*TINY_PLAIN, f"vae={vae}", *changes])


def small_t2v(vae, *changes):
    return resolve("shapes-t2v", [*TINY_T2V, "precision=fp32", f"vae={vae}", *changes])
