"""Check the import contracts of setup.cfg, as `make check` does: python tests/helpers/lint_imports.py

import-linter looks for the package `latte` on disk, but its parts lie in five folders of the source tree (package_dir
in setup.cfg). This script joins them in a temporary folder of links, and runs `lint-imports` on that.
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


def main() -> int:
    """Run lint-imports on the joined package; its exit status, 0 if all contracts are kept."""
    command = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    with tempfile.TemporaryDirectory() as folder:
        join_packages(Path(folder))
        arguments = [str(ROOT / "setup.cfg"), "--no-cache"]
        environment = {**os.environ, "PYTHONPATH": folder}
        run = subprocess.run([sys.executable, "-c", command, *arguments], cwd=folder, env=environment)
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
