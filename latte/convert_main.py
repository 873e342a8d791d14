"""`latte convert`: another project's checkpoint as a model folder, or a model as the original's file."""

import argparse
from pathlib import Path

import torch

from latte.checkpoint import find_model, load_model, save_model
from latte.convert import state_for_original
from latte.files import replacing
from latte.tensors import digest, write_tensors

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(argv: list[str]) -> None:
    """Read what latte.load_model reads; write config.json and model.safetensors, or one file for the original."""
    parser = argparse.ArgumentParser(prog="latte convert", description=__doc__)
    parser.add_argument("source", help="an original .pt or .safetensors file, a model folder, or a shipped model")
    parser.add_argument("target", type=Path, help="the folder to write, or with --to original the .pt or .safetensors")
    parser.add_argument("--to", choices=("latte", "original"), default="latte", help="whose form (default: latte)")
    parser.add_argument("--num-heads", type=int, help="attention heads, for a width that was never published")
    parser.add_argument(
        "--weights", choices=("ema", "model"), default="ema", help="which of the two a checkpoint holds"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the written weights")
    args = parser.parse_args(argv)
    source = find_model(args.source)
    model = load_model(source, args.num_heads, args.weights)
    if source.is_file():
        print(f"read {source}, sha256 {digest(source)}")
    if args.to == "original":
        write_original(model, args.target, DTYPES[args.dtype])
    else:
        save_model(model, args.target, DTYPES[args.dtype])
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.target}: Latte, {count:,} parameters, {model.config.num_classes or 'no'} classes, {args.dtype}")


def write_original(model, path: Path, dtype: torch.dtype) -> None:
    """A file that the original's load_state_dict takes: {"ema": tensors} as .pt, or the tensors as .safetensors."""
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{path}: the original reads .pt or .safetensors files")
    state = state_for_original(model)
    if path.suffix == ".safetensors":
        write_tensors(path, state, dtype)
        return
    with replacing(path) as draft:
        torch.save({"ema": {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}}, draft)
