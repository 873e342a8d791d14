"""A text-to-video folder as published, built from the recorded values; and a vocabulary where T5's is missing."""

import json
import os
from pathlib import Path

import torch
from goldens import FOLDER
from safetensors import safe_open
from safetensors.torch import save_file

from latte.models.vae import AutoencoderKL, VAEConfig
from latte.text.tokenizer import train_vocabulary

PROMPTS = ("A dog wearing sunglasses floating in space, surreal, nebulae in background", "A small cactus with a happy")
CAPTIONS = ["a red star moving left", "a green circle growing", *PROMPTS] * 9
QUICK = dict(num_inference_steps=4, video_length=4, progress=False, output_type="latent")  # a call of the pipeline
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def real_vocabulary() -> bytes | None:
    """T5's vocabulary, if LATTE_TEST_DATA names a folder with it."""
    path = Path(os.environ.get("LATTE_TEST_DATA", "")) / "t5/spiece.model"
    return path.read_bytes() if path.is_file() else None


def write_published(folder: Path) -> Path:
    """The whole folder: transformer, vae, vae_temporal_decoder, a text encoder in two shards, tokenizer, scheduler."""
    with safe_open(FOLDER / "tiny_latte_1.safetensors", "pt") as file:
        table = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = file.metadata()
    for part in ("transformer", "vae", "vae_temporal_decoder", "text_encoder", "scheduler"):
        (folder / part).mkdir(parents=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(notes[f"{part}.config"])
        weights = {k.removeprefix(f"{part}."): v for k, v in table.items() if k.startswith(f"{part}.")}
        if part == "vae_temporal_decoder":  # recorded without its encoder, whose sizes are those of any VAE
            config = json.loads(notes[f"{part}.config"]) | {"temporal_decoder": True}
            with torch.device("meta"):
                whole = AutoencoderKL(VAEConfig.from_dict(config)).state_dict()
            weights |= {name: torch.zeros(tensor.shape) for name, tensor in whole.items() if name not in weights}
        if part not in ("text_encoder", "scheduler"):
            save_file(weights, folder / part / "diffusion_pytorch_model.safetensors")
        if part == "text_encoder":
            rows = torch.randn(32128, 32, generator=torch.Generator().manual_seed(0)).half()
            rows[table["used_ids"]] = weights["shared.weight"]
            weights["shared.weight"] = rows
            half = len(weights) // 2
            shards = dict(zip(SHARDS, (dict(list(weights.items())[:half]), dict(list(weights.items())[half:]))))
            for name, shard in shards.items():
                save_file(shard, folder / part / name)
            index = {"weight_map": {key: name for name, shard in shards.items() for key in shard}}
            (folder / part / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/spiece.model").write_bytes(real_vocabulary() or train_vocabulary(CAPTIONS, 100))
    return folder
