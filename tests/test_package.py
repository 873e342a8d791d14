"""What is installed, and how the source is laid out."""

import ast
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"latte": "latte", **{f"latte/{name}": name for name in ("models", "diffusion", "train", "eval")}}
# path in the installed package -> source file
SOURCES = {
    f"{installed}/{path.relative_to(ROOT / folder).as_posix()}": path
    for installed, folder in FOLDERS.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
}
LONGEST_FUNCTION = 60  # lines, with its docstring


def run(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **options)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def test_a_users_own_modules_do_not_collide(tmp_path):
    for name in ("models", "train", "diffusion", "eval"):
        (tmp_path / f"{name}.py").write_text(f"mine = {name!r}\n")
    code = "import models, train, diffusion, eval; import latte.models.latte, latte.diffusion.loss; print(models.mine)"
    assert run("-W", "ignore", "-c", code, cwd=tmp_path).stdout == "models\n"


def test_only_latte_is_importable_at_top_level(tmp_path):
    result = run("-c", "import models", cwd=tmp_path)
    assert "No module named 'models'" in result.stderr


def test_sources_of_all_packages_are_found():
    packages = {name.rpartition("/")[0] for name in SOURCES}
    expected = "commands commands/options demo fast parallel plans shapes text video weights models diffusion train"
    expected += " train/data train/objectives"
    expected += " eval eval/ablate eval/bench eval/compat eval/networks"
    assert packages == {"latte", *(f"latte/{name}" for name in expected.split())}
    assert all(f"{package}/__init__.py" in SOURCES for package in packages)


def test_wheel_holds_every_module_and_asset(tmp_path):
    # setuptools keeps its build folder in the tree: build from a copy
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.split("\n"):
        source = ROOT / name
        if name and not name.startswith("tests/") and source.is_file():
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "src" / name).write_bytes(source.read_bytes())
    built = run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), cwd=tmp_path / "src")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("latte_video-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {*SOURCES, "latte/py.typed"}
    expected |= {f"latte/{p.relative_to(ROOT / 'latte')}" for p in (ROOT / "latte/assets").rglob("*") if p.is_file()}
    assert expected <= inside, sorted(expected - inside)
    assert {name.split("/")[0] for name in inside if ".dist-info" not in name} == {"latte"}
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    site = str(tmp_path / "site")
    code = f"import sys; sys.path.insert(0, {site!r}); import latte.train.loop as loop; print(loop.__file__)"
    assert run("-I", "-W", "ignore", "-c", code, cwd=tmp_path).stdout.startswith(site)


def test_no_two_modules_share_a_file_name():
    places = defaultdict(list)
    for name, path in SOURCES.items():
        if not path.read_text().startswith('"""The former name of'):
            places[name.rpartition("/")[2]].append(name)
    assert not {name: shared for name, shared in places.items() if name != "__init__.py" and len(shared) > 1}


def test_no_function_is_too_long():
    too_long = {}
    for name, path in SOURCES.items():
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    too_long[f"{name}:{node.lineno} {node.name}"] = lines
    assert not too_long


def test_argparse_stays_on_the_command_line():
    found = set()
    for name, path in SOURCES.items():
        for node in nodes(path):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) else []
            if "argparse" in imported:
                found.add(name)
    assert found and all(name.startswith("latte/commands/") for name in found)


def test_public_names_are_shown_before_they_are_imported():
    code = "import sys, latte; print('torch' in sys.modules, {*latte.__all__} <= {*dir(latte)}, latte.__version__)"
    assert run("-c", code).stdout == "False True 0.1.0\n"
    code = "from latte import *; print(LattePipeline.__name__, load_model.__name__)"
    assert run("-W", "ignore", "-c", code).stdout == "LattePipeline load_model\n"
    assert "module 'latte' has no attribute 'LattePipelin'" in run("-c", "import latte; latte.LattePipelin").stderr


def test_a_plain_installation_names_no_cuda():
    """No dependency brings CUDA or another torch, except torch itself, whose CPU build is any version from 2.10 on."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    names = {re.match(r"[\w-]+", line)[0] for line in config["options"]["install_requires"].split("\n") if line}
    assert names == {
        *("torch", "einops", "sentencepiece", "beautifulsoup4", "ftfy", "safetensors", "numpy", "av", "pillow", "tqdm"),
        "PyYAML",
    }
    torch_line = [line for line in config["options"]["install_requires"].split("\n") if line.startswith("torch")]
    assert torch_line == ["torch>=2.10"]  # a bound that a +cpu build satisfies


SOME_USES = ("sentencepiece", "ftfy", "bs4", "matplotlib", "tensorboard", "wandb", "trackio", "huggingface_hub")
SOME_USES += ("gradio",)


def test_modules_load_no_other_implementations_or_optional_packages():
    """Nor does sampling from a class model; a prompt without markup loads no markup parser."""
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in SOURCES]
    code = f"""
import sys, {", ".join(names)}
loaded = lambda: print([name for name in ("diffusers", "transformers", *{SOME_USES}) if name in sys.modules])
loaded()
latte.LattePipeline.from_pretrained("shapes")(class_labels=0, num_inference_steps=1, guidance_scale=1, progress=False)
loaded()
latte.LattePipeline.from_pretrained("shapes-t2v", transformer=None, vae=None).encode_prompt("a red star")
loaded()
"""
    result = run("-W", "ignore", "-c", code)
    assert result.stdout.splitlines() == ["[]", "[]", "['sentencepiece', 'ftfy']"], result.stderr


@pytest.mark.parametrize(
    "former, name, home",
    [
        ("caption", "clean", "text.caption"),
        ("checkpoint", "BUNDLED", "weights.shared_parts"),
        ("checkpoint", "load_model", "weights.load"),
        ("convert", "state_for_original", "weights.convert_latte"),
    ],
)
def test_former_module_names_give_the_same_objects(former, name, home):
    assert getattr(import_module(f"latte.{former}"), name) is getattr(import_module(f"latte.{home}"), name)
