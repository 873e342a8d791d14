"""The argument parser of every command: a mistyped argument ends in one line that suggests the closest one."""

import argparse
import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from latte.files import one_line, writable, write_json
from latte.weights.hub import find_pipeline

MAY_BE_EMPTY = ("arguments", "config", "prompt", "negative_prompt")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that does not accept abbreviated options, and prints errors without the usage text.

    An empty argument is an error, since a path would then be the working folder, except for prompts and --config.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, lambda text: Path(os.path.expanduser(text)))  # no shell expands --out=~/videos

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string and action.dest not in MAY_BE_EMPTY:
            raise argparse.ArgumentError(
                action, "the value is empty; if it comes from a shell variable, that variable is not set"
            )
        return super()._get_value(action, arg_string)  # type: ignore[misc]

    def error(self, message: str) -> NoReturn:
        """Print an error in one line, with the closest option or choice, and exit with status 2."""
        failed = message.removeprefix("argument ").partition(": invalid choice")[0]
        actions = [action for action in self._actions if "/".join(action.option_strings) == failed] or self._actions
        options = [option for action in self._actions for option in action.option_strings]
        choices = [str(choice) for action in actions for choice in action.choices or []]
        mistyped = re.findall(r"(?<=unrecognized arguments: )\S+|(?<=invalid choice: ')[^']+", message)
        known = lambda word: options if word.startswith("-") and "unrecognized" in message else choices
        close = [match for word in mistyped for match in nearest(word.split("=")[0], known(word))]
        hint = f"did you mean {close[0]}?" if close else f"see {self.prog} --help"
        takes_settings = any(action.dest == "changes" for action in self._actions)
        if takes_settings and failed.startswith("-") and any("=" in word for word in mistyped):
            hint = f"write settings key=value before {failed}, which takes several words"
        elif takes_settings and not close and "unrecognized" in message:
            hint = f"settings are written key=value; {hint}"
        print(f"{self.prog}: error: {one_line(message)}; {hint}", file=sys.stderr)
        raise SystemExit(2)

    def words(self, values: argparse.Namespace) -> list[str]:
        """The arguments that are parsed into these values. A value that is missing or the default needs none."""
        positional: list[str] = []
        options: list[str] = []
        for action in self._actions:
            value = getattr(values, action.dest, action.default)
            if value == action.default:
                continue
            parts = value if isinstance(value, list) else [value]
            texts = [f"{part!r}".removesuffix(".0") if isinstance(part, float) else str(part) for part in parts]
            if not action.option_strings:
                positional += texts
            elif value is True:
                options += [action.option_strings[0]]
            elif texts[0].startswith("-"):  # which would be read as an option
                options += [f"{action.option_strings[0]}={texts[0]}", *texts[1:]]
            else:
                options += [action.option_strings[0], *texts]
        return positional + options


def nearest(word: str, known: list[str]) -> list[str]:
    """The option or choice that is most similar to a mistyped one, if any; the dashes of options do not count."""
    names = {name.lstrip("-"): name for name in known}
    return [names[match] for match in difflib.get_close_matches(word.lstrip("-"), names, 1)]


def command_parser(commands: dict[str, str], version: str) -> Parser:
    """The parser of `latte COMMAND ...`: .command, and .arguments, which the command parses itself.

    Args:
        commands: Name of each command, and what it does.
        version: The version that --version prints.
    """
    parser = Parser(
        prog="latte",
        description="Latte, the latent diffusion transformer for video. For a command's options: latte COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:9} {purpose}" for name, purpose in commands.items()),
    )
    parser.add_argument("--version", action="version", version=f"latte-video {version}")
    parser.add_argument("command", choices=commands, metavar="COMMAND", help="one of the commands below")
    rest = parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    rest.required = False  # or argparse asks for it where only the command is missing
    return parser


def add_device_option(parser: argparse._ActionsContainer) -> None:
    """Add --device. None stands for its default, since PyTorch would be needed to know it: see usable_device."""
    words = "cpu, cuda, cuda:N, mps or xpu (default: cuda if this machine has it, else cpu)"
    parser.add_argument("--device", help=words)


def add_download_option(parser: argparse._ActionsContainer) -> None:
    """Add --download, without which nothing is fetched."""
    words = "fetch models named OWNER/NAME from the Hugging Face hub (needs the extra hub; default: use its cache only)"
    parser.add_argument("--download", action="store_true", help=words)


def check_out_file(path: Path | None) -> None:
    """Raise ValueError, before any work, if the file of --out cannot be written."""
    if path and (path.is_dir() or not writable(path.parent)):
        raise ValueError(f"--out {path} is not a file that can be written to: name one, such as results.json")


def check_result_file(path: Path | None) -> None:
    """Raise ValueError, before any work, if the file of --out cannot be written, or is not a .json file."""
    check_out_file(path)
    if path and path.suffix != ".json":
        raise ValueError(f"--out {path} is not a .json file: name one, such as {path.with_suffix('.json')}")


def check_out_folder(path: Path) -> None:
    """Raise ValueError, before any work, if the folder of --out cannot be written to."""
    if not writable(path):
        raise ValueError(f"--out {path} is not a folder that can be written to: choose another")


def check_model(name: str | None, download: bool = False) -> None:
    """Raise CheckpointError, before PyTorch is imported, for a model that is not on this machine nor to be downloaded.

    None stands for a default, which is bundled.
    """
    if name is not None and not download and not os.path.exists(name):
        find_pipeline(name)


def write_result(path: Path | None, values: dict[str, Any]) -> None:
    """Write a result to the file of --out, if it is given, and say so."""
    if path:
        write_json(path, values)
        print(f"wrote {path}")
