"""`latte convert`: another project's checkpoint as a model folder, or a model as the original's file."""

from pathlib import Path

import torch

from latte.commands.parser import Parser
from latte.files import read_json, replacing, write_json
from latte.models.latte import Latte
from latte.weights.convert_latte import state_for_original
from latte.weights.folder import check_target
from latte.weights.hub import find_pipeline
from latte.weights.load import is_text_pipeline, load_model, model_root, own_vae, save_model, weights_file
from latte.weights.published import rewrite
from latte.weights.sampling_defaults import CLASS_GUIDANCE, SAMPLING_FILE, load_sampling, save_sampling
from latte.weights.tensors import DTYPES, CheckpointError, cast, digest, write_tensors
from latte.weights.vae_folder import is_vae, load_vae, save_vae, vae_file


def main(argv: list[str]) -> None:
    """Read what latte.load_model reads, or a VAE's folder; write a model folder, or one file for the original."""
    parser = Parser(prog="latte convert", description=__doc__)
    parser.add_argument("source", help="an original .pt or .safetensors file, a model's or VAE's folder, or what ships")
    parser.add_argument("target", type=Path, help="the folder to write, or with --to original the .pt or .safetensors")
    parser.add_argument("--to", choices=("latte", "original"), default="latte", help="whose form (default: latte)")
    parser.add_argument("--num-heads", type=int, help="attention heads, for a width that was never published")
    parser.add_argument(
        "--weights", choices=("ema", "model"), default="ema", help="which of the two a checkpoint holds"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the written weights")
    args = parser.parse_args(argv)
    source, dtype = find_pipeline(args.source), DTYPES[args.dtype]
    if is_vae(source):
        if args.to == "original":
            raise ValueError(f"{source} is a VAE, which has one form: leave out --to original")
        if args.num_heads is not None or args.weights != "ema":
            raise ValueError(f"{source} is a VAE: --num-heads and --weights are for a Latte")
        vae = load_vae(source)
        print(f"read {vae_file(source)}, sha256 {digest(vae_file(source))}")
        save_vae(vae, args.target, dtype)
        print(f"{args.target}: VAE, {count(vae)} parameters, {args.dtype}")
        return
    if is_text_pipeline(source):
        if args.to == "original" or args.num_heads is not None or args.weights != "ema":
            raise ValueError(f"{source} is a text-to-video model: --to, --num-heads and --weights are for others")
        for name, file, parameters in rewrite(source, args.target, dtype):
            print(f"read {file}, sha256 {digest(file)}: {name}, {parameters:,} parameters")
        print(f"{args.target}: text-to-video, {args.dtype}")
        return
    model, file = load_model(source, args.num_heads, args.weights), weights_file(source, args.weights)
    print(f"read {file}, sha256 {digest(file)}")
    if args.to == "original":
        write_original(model, args.target, dtype)
    else:
        write_folder(model, source, args.target, dtype)
    print(f"{args.target}: Latte, {count(model)} parameters, {model.config.num_classes or 'no'} classes, {args.dtype}")


def count(network: torch.nn.Module) -> str:
    """How many parameters, for people."""
    return f"{sum(parameter.numel() for parameter in network.parameters()):,}"


def write_folder(model: Latte, source: Path, target: Path, dtype: torch.dtype) -> None:
    """The model as a folder, and with it what stands beside the weights in `source`: the VAE, the names of the classes,
    how it is sampled.

    CheckpointError: `target` holds something that is not to be lost, or not to be taken for this model's.
    """
    for folder in (target, target / "vae"):
        check_target(folder)
    own, sampled = own_vae(source), model_root(source) / SAMPLING_FILE
    there = {"vae": own, "classes.json": (source / "classes.json").exists(), SAMPLING_FILE: sampled.exists()}
    for name in (name for name, has in there.items() if not has and (target / name).exists()):
        raise CheckpointError(f"{target} holds the {name} of another model, {source} has none: choose a new folder")
    vae = None if own is None else load_vae(own)
    names = read_json(source / "classes.json") if (source / "classes.json").is_file() else None
    save_model(model, target, dtype)
    if vae is not None:
        save_vae(vae, target / "vae", dtype)
    if names is not None:
        write_json(target / "classes.json", names)
    if sampled.is_file():
        save_sampling(load_sampling(sampled.parent, CLASS_GUIDANCE if model.config.num_classes else 1.0), target)


def write_original(model: Latte, path: Path, dtype: torch.dtype) -> None:
    """A file that the original's load_state_dict takes: {"ema": tensors} as .pt, or the tensors as .safetensors.

    ValueError: it is to be another kind of file, the original has no such model, or a weight does not fit in `dtype`.
    """
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{path}: the original reads .pt or .safetensors files")
    state = cast(state_for_original(model), dtype)
    if path.suffix == ".safetensors":
        write_tensors(path, state)
        return
    with replacing(path) as draft:
        torch.save({"ema": state}, draft)
