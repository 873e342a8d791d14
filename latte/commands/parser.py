"""The argument parser of every command: a wrong word ends in one line that names the nearest right one."""

import argparse
import difflib
import re
import sys
from typing import NoReturn

from latte.files import one_line


class Parser(argparse.ArgumentParser):
    """argparse's, without its page of usage in front of an error and without guessing at cut options."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say it in one line, with the closest option or command, and exit with 2."""
        known = [option for action in self._actions for option in action.option_strings]
        known += [str(choice) for action in self._actions for choice in action.choices or []]
        words = re.findall(r"(?<=unrecognized arguments: )\S+|(?<=invalid choice: ')[^']+", message)
        close = [match for word in words for match in difflib.get_close_matches(word.split("=")[0], known, 1)]
        hint = f"did you mean {close[0]}?" if close else f"see {self.prog} --help"
        print(f"{self.prog}: error: {one_line(message)}; {hint}", file=sys.stderr)
        raise SystemExit(2)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """--device, by default cuda where there is one."""
    import torch  # here, so that `latte --help` need not wait for it

    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help=f"what to compute on (here: {default})")
