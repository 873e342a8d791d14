"""The options of `latte convert` and `latte info`."""

from argparse import Namespace
from pathlib import Path

from latte.commands.options.choices import STORED_DTYPES
from latte.commands.options.sampling import NO_AUTOGUIDANCE
from latte.commands.parser import Parser, add_download_option, check_model
from latte.models.latte_config import SIZES, VARIANTS
from latte.weights.find_models import bundled_models, find_model, nearest_path

FORMATS = ("latte", "original", "diffusers")


def convert_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte convert`."""
    description = "Convert a checkpoint to a model folder, or a model to the original's or diffusers' format."
    parser = Parser(prog="latte convert", description=description)
    add = parser.add_argument
    add("source", help="a checkpoint file, a model's or VAE's folder, or a name")
    add_download_option(parser)
    add("target", type=Path, help="the folder to write, or with --to original the .pt or .safetensors")
    words = "format of the target: latte (default), original (class-conditional), diffusers (text-to-video)"
    add("--to", choices=FORMATS, default="latte", help=words)
    add("--overwrite", action="store_true", help="replace the model that the target holds")
    add("--num-heads", type=int, help="attention heads, for a width that was never published")
    add("--weights", choices=("ema", "model"), default="ema", help="which weights of a checkpoint")
    words = "type of the written weights; int8: matrices in 8 bits with a scale for each row, the rest in float16"
    add("--dtype", choices=STORED_DTYPES, default="float32", help=words)
    words = "a word in the names of the weight files, such as fp16"
    add("--variant", help=words)
    words = "weaker model to write into the folder, for autoguidance; none leaves it out (default: the source's own)"
    add("--autoguidance", metavar="MODEL", help=words)
    words = "guidance scale away from the weaker model, the default of later calls"
    add("--autoguidance-scale", type=float, metavar="SCALE", help=words)
    words = "leave out parts that are those of this bundled model (VAE, text encoder, vocabulary), and name it instead"
    add("--share", metavar="MODEL", help=words)
    args = parser.parse_args(argv)
    check_model(args.source, args.download)
    if args.share is not None and (args.to != "latte" or args.autoguidance is not None):
        raise ValueError("--share needs --to latte and no --autoguidance: leave it out")
    if args.autoguidance_scale is not None and args.autoguidance in (None, NO_AUTOGUIDANCE):
        raise ValueError("--autoguidance-scale does nothing without --autoguidance MODEL: name the weaker model")
    if args.dtype == "int8" and (args.to != "latte" or args.autoguidance is not None):
        raise ValueError("--dtype int8 needs --to latte and no --autoguidance: choose another --dtype")
    if args.autoguidance is not None and args.to == "original":
        raise ValueError("--autoguidance does nothing with --to original, which has no autoguidance: leave it out")
    return args


def named_path(name: str) -> Path:
    """The path, or the folder of the bundled model, that `latte info` describes. Raises ValueError if there is none."""
    path = Path(name)
    if not path.exists() and name in bundled_models():
        return find_model(name)
    if not path.exists():
        near = nearest_path(path)
        raise ValueError(f"there is nothing at {name}" + (f": did you mean {near}?" if near else ""))
    return path


def info_options(argv: list[str]) -> Namespace:
    """Parse the options of `latte info`."""
    description = "Describe what a path holds, or list parameters and GMACs of every variant next to the paper's table."
    parser = Parser(prog="latte info", description=description)
    add = parser.add_argument
    words = "a run, model, data list, latents, features, statistics, results or videos; or the name of a bundled model"
    add("path", nargs="?", metavar="PATH", help=words)
    add("--sizes", nargs="+", choices=SIZES, help="model sizes (default: all)")
    add("--patch-size", type=int, choices=(2, 4, 8), help="side of a patch, in latent pixels (default: 2)")
    add("--variants", nargs="+", type=int, choices=VARIANTS, help="model variants (default: all)")
    add("--num-classes", type=int, help="number of classes (default: 0, unconditional)")
    args = parser.parse_args(argv)
    if args.path:
        named_path(args.path)
    defaults = {"sizes": list(SIZES), "patch_size": 2, "variants": list(VARIANTS), "num_classes": 0}
    for name, default in defaults.items():
        if args.path and getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for the table of sizes: leave it out, or the path")
        setattr(args, name, default if getattr(args, name) is None else getattr(args, name))
    return args
