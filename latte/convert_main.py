"""`latte convert`: another project's checkpoint, written as a model folder."""

import argparse
from pathlib import Path

import torch

from latte.checkpoint import load_model, save_model

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(argv: list[str]) -> None:
    """Read what latte.load_model reads and write config.json and model.safetensors."""
    parser = argparse.ArgumentParser(prog="latte convert", description=__doc__)
    parser.add_argument("source", type=Path, help="an original .pt or .safetensors file, or a model folder")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--num-heads", type=int, help="attention heads, for a width that was never published")
    parser.add_argument(
        "--weights", choices=("ema", "model"), default="ema", help="which of the two a checkpoint holds"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the written weights")
    args = parser.parse_args(argv)
    model = load_model(args.source, args.num_heads, args.weights)
    save_model(model, args.target, DTYPES[args.dtype])
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.target}: Latte, {count:,} parameters, {model.config.num_classes or 'no'} classes, {args.dtype}")
