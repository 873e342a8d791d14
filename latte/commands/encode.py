"""`latte encode`: a data set's latents, encoded once, for training."""

from pathlib import Path

import torch

from latte.commands.parser import Parser, add_device_option
from latte.device import usable_device
from latte.text.tokenizer import Tokenizer
from latte.train.data.encode_latents import encode
from latte.train.data.folders import open_clips
from latte.train.presets import PRESETS, resolve
from latte.weights.hub import find_pipeline
from latte.weights.published import load_t5

LATENT_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def main(argv: list[str]) -> None:
    """Encode the data of a training configuration."""
    parser = Parser(prog="latte encode", description=__doc__.split(":", 1)[1].strip())
    parser.add_argument("--config", default="folder", help=f"of the training: {', '.join(PRESETS)}, or a file")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write; a stopped one is gone on with")
    parser.add_argument("--text-encoder", metavar="FOLDER", help="also embed captions, with this model's T5")
    parser.add_argument("--shard-size", type=int, default=64, help="videos in a file (default: 64)")
    parser.add_argument(
        "--dtype", choices=LATENT_DTYPES, default="float16", help="of what is stored (default: float16)"
    )
    add_device_option(parser)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="settings of the training, such as data=videos")
    args = parser.parse_intermixed_args(argv)
    if args.shard_size < 1:
        raise ValueError(f"--shard-size is {args.shard_size}; it must be 1 or more")
    config, device, dtype = resolve(args.config, args.changes), usable_device(args.device), LATENT_DTYPES[args.dtype]
    if config.kind in ("vae", "features"):
        raise ValueError(f"kind={config.kind} trains on pixels: there are no latents to encode")
    if args.text_encoder and config.kind != "t2v":
        raise ValueError("--text-encoder does nothing for classes: leave it out, or give kind=t2v")
    text = None
    if args.text_encoder:
        folder = find_pipeline(args.text_encoder)
        text = load_t5(folder / "text_encoder").to(device), Tokenizer(folder / "tokenizer")
    stored = encode(config, open_clips(config), args.out, text, args.shard_size, dtype, device)
    size = sum(about["bytes"] for about in stored.files.values())
    frames = sum(row.frames for row in stored.rows)
    print(f"{args.out}: {stored.videos} videos, {frames} frames, {size / 2**20:.1f} MiB")
    print(f"train with the same settings and latents={args.out}")
