"""The documentation agrees with the project: links resolve, quoted commands and options exist, examples compile."""

import ast
import configparser
import contextlib
import io
import pkgutil
import re
import shlex
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from latte.cli import main
from latte.train.config import LatteTrainConfig
from latte.train.config_tables import from_text, typed

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")})
# the pages that describe the repository as it is now; others also name users' files and past ones
DESCRIPTIONS = [ROOT / page for page in ("README.md", "CONTRIBUTING.md", "docs/architecture.md")]
FOLDERS = ("models", "diffusion", "latte", "train", "eval", "tests", "docs")
# characters of a heading that links to it leave out
NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    """A page's path from the root, as a test id."""
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {NOT_IN_ANCHORS.sub("", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words of every `latte ...` command that a page quotes, in code blocks and inline."""
    text = page.read_text()
    lines = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").split("\n")]
    lines += re.findall(r"`(latte [^`]+)`", FENCE.sub("", text))
    found = [shlex.split(line, comments=True) for line in lines if re.match(r"(torchrun .* -m )?latte [a-z]", line)]
    return [words[words.index("latte") :] for words in found]


def quotes(page: Path, pattern: str) -> list[str]:
    """The inline code of a page that fully matches a pattern."""
    quoted = re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))
    return [text for text in quoted if re.fullmatch(pattern, text)]


@cache
def help_text(*command: str) -> str:
    """What `latte COMMAND --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page: Path) -> None:
    """A link to a file leads to an existing one, and a link to a heading to one on that page."""
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text()))
    for link in (unquote(link) for link in links if not re.match(r"[a-z]+:", link)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link} names no heading of {name(target)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_quoted_commands_exist_with_their_options(page: Path) -> None:
    """Each --option of a quoted command is in that command's help."""
    for words in commands(page):
        command = words[1:3] if words[1] == "bench" else words[1:2]
        known = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_text(*command)))
        used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert known, f"{name(page)}: latte {' '.join(command)} has no help"
        assert used <= known, f"{name(page)}: latte {' '.join(command)} has no {', '.join(sorted(used - known))}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_compile(page: Path) -> None:
    """Each block of Python is valid."""
    for language, block in FENCE.findall(page.read_text()):
        if language == "python":
            ast.parse(block, filename=name(page))


@pytest.mark.parametrize("page", DESCRIPTIONS, ids=name)
def test_quoted_paths_exist(page: Path) -> None:
    """Each `folder/file` of the repository that a page quotes exists."""
    quoted = quotes(page, r"[\w.-]+/[\w./-]*|\w[\w.-]*\.(?:py|md|cfg|toml|cff|yml)")
    paths = [path for path in quoted if "/" not in path or path.partition("/")[0] in FOLDERS]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, f"{name(page)}: no {', '.join(missing)} in the repository"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_quoted_python_names_exist(page: Path) -> None:
    """Each `latte.module.name` that a page quotes can be imported."""
    for dotted in quotes(page, r"latte(?:\.[A-Za-z_]\w*)+"):
        pkgutil.resolve_name(dotted)


def test_the_table_of_training_settings_gives_their_defaults() -> None:
    """Each is a setting of a Latte, and has this default; the table has the settings that most runs change."""
    page = (ROOT / "docs/training.md").read_text()
    table = page.partition("| setting | default | what it does |")[2].partition("\n\n")[0]
    told = {
        setting: default for setting, default in re.findall(r"^\| `(\w+)` \| (?:`(.+?)`)? ?\| \S", table, re.MULTILINE)
    }
    assert len(told) == table.count("\n| `")
    defaults = LatteTrainConfig.defaults()
    for setting, default in told.items():
        assert typed(setting, from_text(setting, default)) == defaults[setting], setting
    assert told.keys() >= {
        "data",
        "vae",
        "steps",
        "learning_rate",
        "global_batch_size",
        "precision",
        "save_every",
        "init",
    }


def test_the_documentation_checks_find_something() -> None:
    """The tests above do check something."""
    assert "models/attention.py" in quotes(ROOT / "docs/architecture.md", r"\w+/.*")
    assert len(commands(ROOT / "README.md")) > 10
    assert help_text("sample").startswith("usage: latte sample")


def test_the_diagram_of_imports_shows_every_layer_of_the_contract_in_its_order():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:layers"]["layers"].split("\n")
    of_module = {name.strip(): i for i, layer in enumerate(layers) for name in re.split("[|:]", layer) if name.strip()}
    diagram = next(
        block for _, block in FENCE.findall((ROOT / "docs/architecture.md").read_text()) if "latte.models" in block
    )
    shown = re.findall(r"latte\.(\w+)(?![.\w])", diagram)
    assert sorted(shown) == sorted(of_module) and len(shown) > 40
    order = [of_module[name] for name in shown]
    assert order == sorted(order)
