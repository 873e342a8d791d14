"""`latte encode`: encodes the latents of a data set once, and stores them for training."""

import shlex
from argparse import Namespace
from itertools import count
from pathlib import Path

from latte.commands.parser import check_out_folder
from latte.device import usable_device
from latte.folder_lock import exclusive
from latte.text.tokenizer import Tokenizer
from latte.train.base_config import TrainConfig
from latte.train.data.encode_latents import encode_data_set
from latte.train.data.folders import open_clips
from latte.train.resolve import resolve
from latte.train.start import require_vae
from latte.weights.hub import find_pipeline
from latte.weights.manifest import digest_folder
from latte.weights.published import load_t5
from latte.weights.shared_parts import part_folder
from latte.weights.tensors import DTYPES

LATENT_DTYPES = {name: dtype for name, dtype in DTYPES.items() if name != "bfloat16"}  # which rounds too coarsely


def main(args: Namespace) -> None:
    """Encode the data set of a training configuration."""
    device, dtype = usable_device(args.device), LATENT_DTYPES[args.dtype]
    config = resolve(args.config, args.changes, device)
    if config.kind in ("vae", "features"):
        raise ValueError(f"kind={config.kind} trains on pixels, so there are no latents to encode")
    if args.text_encoder and config.kind != "t2v":
        raise ValueError("--text-encoder has no effect on class-conditional training: leave it out, or give kind=t2v")
    require_vae(config)
    text, about = None, {}
    if args.text_encoder:
        folder = find_pipeline(args.text_encoder, not args.download)
        encoder = part_folder(folder, "text_encoder")
        text = load_t5(encoder).to(device), Tokenizer(part_folder(folder, "tokenizer"))
        about = {"name": Path(args.text_encoder).absolute().name, "path": str(args.text_encoder)}
        about |= {"sha256": digest_folder(encoder)}
    check_out_folder(args.out)
    with exclusive(args.out, replaced=True):
        latents = encode_data_set(config, open_clips(config), args.out, text, args.shard_size, dtype, device, about)
    size = sum(file["bytes"] for file in latents.files.values())
    frames = sum(video.frames for video in latents.videos)
    print(f"{args.out}: {latents.num_videos} videos, {frames} frames, {size / 2**20:.1f} MiB")
    print(f"to train on these latents: {shlex.join(training_command(args, config))}")


def training_command(args: Namespace, config: TrainConfig) -> list[str]:
    """The command that trains on the encoded data, with the same settings."""
    words = [change for change in args.changes if change.partition("=")[0] not in ("latents", "num_workers")]
    words += [f"latents={args.out}"]
    words += ["num_workers=0"] if config.num_workers else []  # there are no videos to read
    words += ["text_encoder={}"] if args.text_encoder and getattr(config, "text_encoder", {}) else []
    names = (args.out.name if number == 1 else f"{args.out.name}-{number}" for number in count(1))
    run = next(path for path in (Path("runs", name) for name in names) if not path.exists())
    device = ["--device", args.device] if args.device else []
    return ["latte", "train", "--config", args.config, "--run", str(run), *device, *words]
