"""The `latte` command: finds the module of a subcommand, runs it, and reports errors in one line.

PyTorch is imported only after the options are parsed, so that help texts and option errors appear at once.
"""

import io
import os
import re
import sys
import warnings
from contextlib import suppress
from importlib import import_module

from latte import __version__
from latte.allocator import keep_freed_memory
from latte.commands.options import OPTIONS
from latte.commands.parser import command_parser
from latte.disk_errors import ONLY_FROM_WRITING, describe, failed_write, reason_of
from latte.files import SEEN, one_line

COMMANDS = {  # the name of each command, and of its module in latte.commands, with its help text
    "sample": "generate videos with a model, and a page to view them",
    "demo": "serve a web page to make and compare videos and to view results",
    "plan": "print and draw what a sampling plan computes and reuses",
    "calibrate": "search for a plan that computes less, and write it",
    "prepare": "check a folder of videos and list them for training",
    "train": "train a model or a VAE on the built-in shapes or on your videos",
    "distill": "distil a model into a student that samples in a few steps",
    "encode": "precompute a data set's latents and text embeddings for training",
    "average": "make a model from a training run with another EMA length, chosen after training",
    "plot": "plot the curves of a training run",
    "convert": "convert a checkpoint to a model folder, or a model to the original format",
    "eval": "evaluate videos (FVD and other metrics), or a model of the built-in shapes",
    "ablate": "run the paper's ablations: train every arm, score it, and write a report",
    "bench": "benchmark speed, memory and accuracy",
    "info": "describe what a path holds; or list parameters and FLOPs of every variant and size, next to those of "
    "the paper",
}
# the message of a stopped command, unless it raises KeyboardInterrupt with its own text, as training does
STOPPED = {
    "encode": "stopped; run the same command again to resume",
    "ablate": "stopped; finished work is kept; run the same command again to resume",
    "demo": "stopped",
    **dict.fromkeys(("train", "distill"), "stopped; run the same command again to start or to resume it"),
}
STOPPED_OTHERWISE = "stopped; no result was written"
OUT_OF_MEMORY = re.compile("out of memory|allocate memory", re.IGNORECASE)  # PyTorch on any device, and the system


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The command and its arguments. None takes them from sys.argv.

    Returns:
        0 for success, 1 for an unexpected error, 2 for bad input or too little memory, 130 if interrupted, and 141 if
        the reader of the output closed it.

    Raises:
        SystemExit: From the parser: status 0 after --help and --version, 2 after a wrong argument.
        Exception: Any unexpected one, with its traceback, if LATTE_TRACEBACK is set in the environment.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    parsed = command_parser(COMMANDS, __version__).parse_args(argv)
    name = " ".join((parsed.command, *parsed.arguments[:1])) if parsed.command == "bench" else parsed.command
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print_message(name, f"warning: {one_line(message)}")
        try:
            SEEN.clear()
            options = OPTIONS[parsed.command](parsed.arguments)
            if os.environ.get("LATTE_KEEP_MEMORY") != "0":
                keep_freed_memory()
            import_module(f"latte.commands.{parsed.command}").main(options)  # which may load PyTorch
            sys.stdout.flush()
        except KeyboardInterrupt as stop:
            print_message(name, str(stop) or STOPPED.get(parsed.command, STOPPED_OTHERWISE))
            return 130
        except BrokenPipeError:  # as in `latte info | head`
            discard_output()
            return 141
        except Exception as error:
            if os.environ.get("LATTE_TRACEBACK"):
                raise
            status, reason = explain(error)
            print_message(name, f"error: {one_line(reason)}")
            with suppress(OSError):
                sys.stdout.flush()
                return status
            discard_output()
            return status
    return 0


def discard_output() -> None:
    """Send the remaining output to the null device, so that Python does not fail to flush it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit status of a failed command and the message to print."""
    failure = failed_write(error)
    if failure is not None and failure.errno in ONLY_FROM_WRITING and failure.filename is None:
        failure.filename = "standard output"  # errors from writing a file name that file
    if failure is error or (failure is not None and reason_of(failure).lower() not in str(error).lower()):
        return 2, describe(failure)
    if isinstance(error, ValueError | OSError):
        return 2, str(error)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return 2, f"out of memory: reduce batch_size, micro_batch_size or the number of frames: {error}"
    return 1, f"unexpected {type(error).__name__}: {error}; set LATTE_TRACEBACK=1 to see the traceback"


def print_message(command: str, message: str) -> None:
    """Print to standard error, as all messages of a command are printed."""
    text, progress = f"latte {command}: {message}", sys.modules.get("latte.progress")
    with suppress(OSError):  # the disk of a log is full, for instance
        if progress is None:
            print(text, file=sys.stderr)
        else:  # above the bar that may be on the screen
            progress.Progress.write(text, file=sys.stderr)
