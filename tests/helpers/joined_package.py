"""Run a tool on the source tree joined into one package: python tests/helpers/joined_package.py lint-imports ARGUMENTS

The parts of `latte` lie in five folders (package_dir in setup.cfg), but tools that read source code expect one.
This script links the folders into a temporary folder and runs the tool there, with that folder as PYTHONPATH.
Paths in the arguments are relative to the root of the source tree.
"""

import os
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]


def join_packages(folder: Path) -> None:
    """Make folder/latte, with a link to each module and package that the installed `latte` has."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["package_dir"].split("\n")
    parts = dict(line.replace(" ", "").split("=") for line in lines if line)
    package = folder / "latte"
    package.mkdir()
    for path in (ROOT / parts.pop("latte")).iterdir():
        if f"latte.{path.name}" not in parts:
            (package / path.name).symlink_to(path)
    for name, path in parts.items():
        (folder / name.replace(".", "/")).symlink_to(ROOT / path)


def main(tool: str, *arguments: str) -> int:
    """Run a tool of this Python's environment on the joined package, and return its exit status."""
    resolved = [str(ROOT / word) if (ROOT / word).exists() else word for word in arguments]
    with tempfile.TemporaryDirectory() as folder:
        join_packages(Path(folder))
        command = [str(Path(sys.executable).parent / tool), *resolved]
        return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": folder}).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
