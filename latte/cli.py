"""The command `latte`: words in, one of the project's functions called. Heavy imports wait until a command runs."""

import argparse
import os
import re
import sys
import warnings
from importlib import import_module

from latte import __version__
from latte.commands.parser import Parser
from latte.files import one_line

COMMANDS = {  # name, which is also the module's in latte.commands, and what it does
    "sample": "make videos with a model, and a page to look at them",
    "prepare": "check a data set's videos and list them for training",
    "train": "train a model or a VAE, on the built-in shapes or on a folder of videos",
    "encode": "encode a data set's latents, and captions, for training",
    "plot": "draw the curves of a training",
    "convert": "write another project's checkpoint as a model folder",
    "eval": "measure videos: FVD and others beside real ones, or the examiner's scores",
    "ablate": "the paper's ablations: train every arm, score, and report",
    "bench": "benchmarks: what an acceleration saves, and what it costs",
    "info": "parameters and FLOPs of every variant and size, beside the paper's",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; its status: 0, 2 with one line for bad input, 1 for what should not happen, 130 interrupted."""
    parser = Parser(
        prog="latte",
        description="Latte, the latent diffusion transformer for video. More: latte COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:9} {help}" for name, help in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"latte-video {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parsed = parser.parse_args(argv)

    def say(kind: str, message: object) -> None:
        print(f"latte {parsed.command}: {kind}{one_line(message)}", file=sys.stderr)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say("warning: ", message)
            # torchvision, which timm imports, beside a CPU build of torch: its picture reader is not used here
            warnings.filterwarnings("ignore", "Failed to load image Python extension")
            import_module(f"latte.commands.{parsed.command}").main(parsed.arguments)
    except KeyboardInterrupt:
        say("", "stopped")
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough, as in `latte info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("LATTE_TRACEBACK"):
            raise
        if isinstance(error, ValueError | OSError):
            say("error: ", error)
            return 2
        if isinstance(error, MemoryError) or re.search("out of memory|allocate memory", str(error), re.IGNORECASE):
            say("error: ", f"out of memory: ask for less at a time (batch_size, micro_batch_size, frames): {error}")
            return 2
        say("error: ", f"unexpected {type(error).__name__}: {error}; with LATTE_TRACEBACK=1 it shows where")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
