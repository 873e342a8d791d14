"""The command `latte`: words in, one of the project's functions called. Heavy imports wait until a command runs."""

import argparse
import os
import sys
import warnings

from latte import __version__

COMMANDS = {  # name: (module that has main(argv), what it does)
    "sample": ("latte.sample", "make videos with a model, and a page to look at them"),
    "train": ("latte.train.main", "train a model or a VAE, on the built-in shapes or on a folder of videos"),
    "convert": ("latte.convert_main", "write another project's checkpoint as a model folder"),
    "eval": ("latte.eval.main", "measure a model of the built-in shapes, beside real clips"),
    "info": ("latte.info", "parameters and FLOPs of every variant and size, beside the paper's"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; bad input ends in one line and status 2, an interrupt in status 130."""
    parser = argparse.ArgumentParser(
        prog="latte",
        description="Latte, the latent diffusion transformer for video. More: latte COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:9} {help}" for name, (_, help) in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"latte-video {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parsed = parser.parse_args(argv)
    from importlib import import_module

    def tell(message: Warning | str, *_) -> None:
        print(f"latte {parsed.command}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = tell
            # torchvision, which timm imports, beside a CPU build of torch: its picture reader is not used here
            warnings.filterwarnings("ignore", "Failed to load image Python extension")
            import_module(COMMANDS[parsed.command][0]).main(parsed.arguments)
    except (ValueError, OSError) as error:
        if os.environ.get("LATTE_TRACEBACK"):
            raise
        print(f"latte {parsed.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        print(f"latte {parsed.command}: error: out of memory: ask for less at a time", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"latte {parsed.command}: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
