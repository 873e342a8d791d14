"""Presets: settings of training runs by name, as far as they differ from the defaults."""

from dataclasses import replace
from typing import Any

from latte.train.base_config import AUTO
from latte.train.config import (
    FeaturesTrainConfig,
    LatteTrainConfig,
    T2VTrainConfig,
    VAETrainConfig,
)

# 8x downsampling, and few features at high resolution
SMALL_VAE = {"block_out_channels": [16, 32, 64, 64], "layers_per_block": 1, "norm_num_groups": 8}
# a small VAE whose latents hold colours and outlines apart
SHAPES_VAE = VAETrainConfig(
    model={**SMALL_VAE, "latent_channels": 6},  # three of a thumbnail, three of details
    num_frames=1,
    clips=20000,
    global_batch_size=16,
    steps=6000,
    learning_rate=2e-3,
    warmup=100,
    schedule="trapezoid",
    cooldown=0.4,
    cooldown_shape="sqrt",
    kl_weight=1e-3,
    thumbnail_weight=0.1,
    thumbnail_scale=3.0,
    detail_scale=9.0,
    ema_decay=0.998,
    precision=AUTO,
)
# a small class-conditional Latte on the shapes, trained by AdamW as the paper's; ablations start from it
SHAPES_PLAIN = LatteTrainConfig(
    vae="shapes/vae",
    model={"depth": 8, "hidden_size": 176, "num_heads": 4, "patch_size": 4, "prediction": "v"},
    sample_latents=False,
    timestep_std=1.0,
    timestep_mean=0.5,
    steps=24000,
    learning_rate=1.5e-3,
    warmup=200,
    schedule="cosine",
    ema_decay=0.999,
)
# what the bundled models of the shapes have in common (docs/modern-recipe.md)
MODERN: dict[str, Any] = {
    "clips": 24576,
    "global_batch_size": 64,
    "timestep_std": 1.2,
    "timestep_mean": 0.0,
    "optimizer": "muon",
    "learning_rate": 2e-3,
    "warmup": 100,
    "schedule": "trapezoid",
    "cooldown": 0.3,
    "cooldown_shape": "sqrt",
    "ema_decay": 0.998,
    "precision": AUTO,
}
# the bundled class-conditional model, from scratch; its timesteps changed in training (docs/log/class-model.md)
SHAPES = replace(
    SHAPES_PLAIN,
    model={**SHAPES_PLAIN.model, "hidden_size": 192, "mlp_ratio": 3.0, "self_condition": True},
    steps=18500,
    **MODERN,
    sample_guidance=2.5,
    sample_settings={"guidance_interval": [400, 1000], "num_inference_steps": 100, "eta": 1.0},
)
# the bundled text-to-video model of the shapes
SHAPES_T2V = T2VTrainConfig(
    vae="shapes/vae",
    model={
        **{"num_layers": 4, "num_attention_heads": 6, "attention_head_dim": 32, "patch_size": 4},
        **{"prediction": "v", "self_condition": True},
    },
    text_encoder={"d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 2, "num_heads": 4},
    sample_latents=False,
    steps=8500,
    **MODERN,
    sample_guidance=1.4,
    sample_settings={"num_inference_steps": 50, "eta": 1.0},
)
# the included feature network of the shapes distance (latte.eval.networks.shape_features)
SHAPES_FEATURES = FeaturesTrainConfig(
    clips=20000,
    steps=3000,
    learning_rate=2e-3,
    warmup=50,
    schedule="cosine",
    weight_decay=0.01,
    ema_decay=0.99,
)
# Latte-XL/2 on FaceForensics, as the paper trained it: Vchitect/Latte, configs/ffs/ffs_train.yaml and train.py
FFS = LatteTrainConfig(
    data="data/ffs",
    classes=False,  # unconditional
    vae="sd-vae-ft-ema",  # Stable Diffusion's, fine-tuned; the folder of its config.json
    model={"depth": 28, "hidden_size": 1152, "num_heads": 16, "patch_size": 2},  # Latte-XL/2, 674 M parameters
    image_size=256,
    frame_interval=3,  # the paper's choice among several
    latents="step",  # of frames that are drawn anew at each step, as in the original
    num_workers=8,
    flip=True,  # the only augmentation
    global_batch_size=40,  # 8 GPUs of 80 GB with 5 clips each
    micro_batch_size=5,  # what such a GPU holds in float32
    steps=1_000_000,  # an upper bound: the paper does not say when it stopped; the learning rate is constant
    clip_grad=0.1,
    clip_from=20_000,
    precision=AUTO,  # the original: "tf32"
    seed=3407,
    log_every=100,
    save_every=10_000,
)
SKY = replace(
    FFS,
    data="data/sky",
    flip=False,  # the original's loader for it has none
    log_every=50,
)
UCF101 = replace(
    FFS,
    data="data/ucf101",
    classes=True,  # its folders, 101 of them
    clip_from=100_000,
    log_every=50,
)
FOLDER_VAE = VAETrainConfig(
    data="videos",
    flip=True,
    model=SMALL_VAE,
    num_frames=1,
    clips=20000,
    steps=3000,
    learning_rate=1.5e-3,
    warmup=100,
    schedule="cosine",
    kl_weight=1e-4,
    ema_decay=0.999,
    precision=AUTO,
)
# the VAE of ucf101-modern: 32x downsampling, as FAR's
UCF101_VAE = replace(
    FOLDER_VAE,
    data="data/ucf101",
    image_size=256,
    model={**FOLDER_VAE.model, "block_out_channels": [64, 128, 256, 256, 512, 512], "latent_channels": 32},
    steps=200_000,
)
# not the paper's: Latte-XL with the recipe of FAR-XL (Gu, Mao & Shou 2025, arXiv 2503.19325; showlab/FAR,
# options/train/far/video_generation/FAR_XL_ucf101_cond_res256_400K_bs32.yml), an autoregressive network of another kind
UCF101_MODERN = replace(
    UCF101,
    vae="runs/ucf101-vae/final",
    sample_latents=False,  # FAR's autoencoder, DC-AE, has no posterior to draw from
    # FAR: a flow, without a learned variance, on patches of one latent; Latte: all else
    model={**FFS.model, "patch_size": 1, "prediction": "flow", "learn_sigma": False},
    timestep_std=1.0,  # FAR: logit-normal(0, 1), here one timestep a clip, there one a frame
    global_batch_size=32,
    micro_batch_size=4,
    steps=400_000,
    clip_grad=1.0,
    clip_from=0,
    sample_guidance=2.0,
)
TAICHI = replace(
    FFS,
    data="data/taichi",
    clip_from=500_000,
    log_every=50,
)
# not the paper's: a LatteT2V of the size of Latte-1, on embeddings of captions by a T5 that is not trained, which
# `latte encode --config t2v --text-encoder Latte-1 --out latents/t2v` stores with the latents
T2V = T2VTrainConfig(
    data="data/t2v",
    vae="sd-vae-ft-ema",
    latents="latents/t2v",
    # 1,057 M parameters
    model={"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "patch_size": 2},
    image_size=512,
    frame_interval=3,
    global_batch_size=64,
    micro_batch_size=1,
    gradient_checkpointing=True,
    steps=200_000,
    warmup=1000,
    clip_grad=0.1,
    precision=AUTO,
    log_every=100,
    save_every=5000,
)
# Latte-1 trained further on captioned videos, with its own VAE and embeddings by its own T5
T2V_FINETUNE = replace(
    T2V,
    vae="Latte-1/vae",
    init="Latte-1",
    global_batch_size=8,
    steps=5000,
    learning_rate=2e-5,
    warmup=100,
    ema_decay=0.999,
    save_every=1000,
)
IMAGES = dict(
    num_images=8,  # "+IMG": each clip comes with still images of other clips
    global_batch_size=32,  # 4 a GPU
    micro_batch_size=4,
)
PRESETS = {
    "shapes-vae": SHAPES_VAE,
    "shapes": SHAPES,
    "shapes-plain": SHAPES_PLAIN,
    "shapes-t2v": SHAPES_T2V,
    "shapes-features": SHAPES_FEATURES,
    # a small VAE and a small Latte for a folder of videos, if Stable Diffusion's VAE is not available
    "folder-vae": FOLDER_VAE,
    "folder": replace(
        SHAPES_PLAIN,
        data="videos",
        vae="runs/folder-vae/final",
        clips=256,
        global_batch_size=8,
        steps=3000,
        timestep_std=0.0,
        timestep_mean=0.0,
        precision=AUTO,
    ),
    # behind each, the FVD that the paper reports, if a second source confirms it
    "ffs": FFS,  # 34.00
    "sky": SKY,  # 59.82
    "ucf101": UCF101,  # 477.97
    "ucf101-vae": UCF101_VAE,
    "ucf101-modern": UCF101_MODERN,  # not measured; FAR-XL with this recipe has 108 (4 sets of samples, ± 4.2)
    "taichi": TAICHI,
    "t2v": T2V,  # not measured
    "t2v-finetune": T2V_FINETUNE,  # not measured
    "ffs-img": replace(FFS, clip_from=500_000, **IMAGES),
    "sky-img": replace(SKY, **IMAGES),
    "ucf101-img": replace(UCF101, **IMAGES),
    "taichi-img": replace(TAICHI, **IMAGES),  # 97.09
}
