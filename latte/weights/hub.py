"""Models by name on the Hugging Face hub: from the cache on this machine, or downloaded on request."""

import difflib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from latte.files import CheckpointError
from latte.weights.find_models import PARTS, bundled_models, find_model, nearest_path
from latte.weights.manifest import CONFIG
from latte.weights.shared_parts import part_folder
from latte.weights.state_files import ENDS, STEMS, variant_of

PIPELINE_FILES = (f"transformer/{CONFIG}", CONFIG)  # a snapshot with one of them can be a pipeline
NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"  # of a repository
ADDRESS = re.compile(rf"https?://(?:www\.)?huggingface\.co/({NAME})/(?:blob|resolve)/main/([^?#]+)")
ASK_SECONDS = 5.0  # time limit for the first answer of the hub; its package would try for half a minute
SMALL = (".json", ".model", ".txt", ".md")  # suffixes of the files that a pipeline reads besides weights
WEIGHT_FILE = re.compile(rf"(?:{'|'.join(STEMS)})(?:[.-][\w.-]+)?\.(?:{'|'.join(ENDS)})")


def find_pipeline(name: str | Path, local_files_only: bool = True, variant: str | None = None) -> Path:
    """Find a model by path, by the name of a bundled one, or by its name on the hub.

    Args:
        name: The path or name.
        local_files_only: Look up a name on the hub in the cache only. False downloads missing files.
        variant: The variant of the weight files to download, see latte.weights.state_files.

    Returns:
        What find_model returns, or the model's snapshot in the Hugging Face cache.

    Raises:
        CheckpointError: It was not found. For a name on the hub, the message says what to download.
    """
    needed = ", ".join(f"{part}/" for part in PARTS)
    return find_cached(name, PIPELINE_FILES, needed, local_files_only, variant)


def find_vae(name: str | Path, path: Path, local_files_only: bool = True) -> Path:
    """Find a VAE: a subfolder of the model at `path`, such as "vae_temporal_decoder", or else as find_pipeline does."""
    if Path(name).name == str(name) and os.path.isdir(inside := part_folder(path, str(name))):
        return inside
    return find_cached(name, (CONFIG,), f"{CONFIG} and diffusion_pytorch_model.safetensors", local_files_only)


def find_cached(
    name: str | Path, files: tuple[str, ...], needed: str, local_files_only: bool = True, variant: str | None = None
) -> Path:
    """Find a model, also in the Hugging Face cache: the snapshot of its main revision, or else the newest one.

    Args:
        name: A path, the name of a bundled model, or "owner/name" on the hub.
        files: A snapshot is used if it holds one of them.
        needed: The files to download, for the message.
        local_files_only, variant: See find_pipeline.

    Raises:
        CheckpointError: It was not found, or cannot be downloaded.
    """
    if not re.fullmatch(NAME, str(name)) or os.path.exists(name) or str(name) in bundled_models():
        return find_model(name)
    snapshot = cached_snapshot(str(name), files)
    if not local_files_only:
        wanted = lambda hub, all_files: hub.snapshot_download(name, allow_patterns=wanted_files(all_files, variant))
        return downloaded(str(name), snapshot, wanted)
    if snapshot is not None:
        return snapshot
    alike, folder = difflib.get_close_matches(str(name), bundled_models(), 1, 0.8), Path(name).parent
    near = alike[0] if alike else nearest_path(Path(name))
    advice = "add --download (in Python: local_files_only=False)"
    if near:
        found = f"did you mean {near}?"
    elif folder.is_dir():
        found = f"{folder} holds no such folder"
    else:
        found = f"there is no folder {folder} here"
        fetched = f"{needed} by --download (in Python: local_files_only=False) or `hf download {name}`"
        advice = f"fetch {fetched}, as {cache_folder()} does not hold it"
    raise CheckpointError(f"no model at {name}: {found}; if it is a name on the Hugging Face hub, {advice}")


def find_file(path: str | Path, local_files_only: bool = True) -> Path:
    """Find a single file of weights: by path, or on the hub by its address or as "owner/name/file".

    Raises:
        CheckpointError: It was not found, it is a folder, or it cannot be downloaded.
    """
    if os.path.isfile(path):
        return Path(path)
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder, but from_single_file reads a file: use from_pretrained")
    text = str(path)
    named = ADDRESS.fullmatch(text) or re.fullmatch(rf"({NAME})/([\w-].*\.\w+)", text)
    if named is None or ".." in PurePosixPath(named[2]).parts:
        raise CheckpointError(f"no file at {path}; give a path, or OWNER/NAME/FILE on the Hugging Face hub")
    name, file = named[1], named[2]
    snapshot = cached_snapshot(name, (file,))
    found = None if snapshot is None else snapshot / file
    if not local_files_only:
        return downloaded(name, found, lambda hub, _: hub.hf_hub_download(name, file))
    if found is None:
        how = f"fetch it with local_files_only=False (or hf download {name} {file})"
        raise CheckpointError(f"{file} of {name} is neither here nor in {cache_folder()}: {how}")
    return found


def cached_snapshot(name: str, files: tuple[str, ...]) -> Path | None:
    """The snapshot of a repository in the cache that holds one of the files; None if there is none."""
    stored = cache_folder() / f"models--{name.replace('/', '--')}"
    main = stored / "refs/main"  # holds the name of a snapshot
    newest = sorted(stored.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True)
    named = [stored / "snapshots" / main.read_text(errors="replace").strip()] if main.is_file() else []
    return next((each for each in named + newest if any(os.path.isfile(each / file) for file in files)), None)


def cache_folder() -> Path:
    """Return the folder of the Hugging Face cache, which four environment variables can move."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = f"{os.environ.get('HF_HOME', f'{caches}/huggingface')}/hub"
    return Path(os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE", hub))).expanduser()


def hub_package() -> Any:
    """The package huggingface_hub; raises CheckpointError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError("the hub needs the package huggingface_hub: pip install 'latte-video[hub]'") from error
    return huggingface_hub


def downloaded(name: str, cached: Path | None, fetch: Callable[[Any, list[str]], str]) -> Path:
    """Download from the hub; if that fails, use what the cache already holds, with a warning.

    Args:
        name: The repository.
        cached: What the cache holds of it.
        fetch: Downloads, given the package huggingface_hub and the names of all files of the repository.

    Raises:
        CheckpointError: It cannot be downloaded, and the cache does not hold it.
    """
    hub, files = hub_package(), None
    try:
        with errors_only():
            files = [file.rfilename for file in hub.HfApi().model_info(name, timeout=ASK_SECONDS).siblings]
            return Path(fetch(hub, files))
    except Exception as error:  # from the network, the hub, the account or the disk, without a documented common base
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        answered = files is not None or getattr(error, "response", None) is not None
        if cached is not None:
            warnings.warn(f"{name}: cannot check huggingface.co, using the cache: {said}", stacklevel=4)
            return cached
        near = nearest_path(Path(name))
        hint = f"; did you mean the folder {near}?" if near else ""
        if answered:
            raise CheckpointError(f"{name} cannot be downloaded from huggingface.co: {said}{hint}") from error
        words = f"huggingface.co cannot be reached ({said}), and {name} is not in {cache_folder()}"
        advice = "try again with a network, or give the path of a folder that holds the model"
        raise CheckpointError(f"{words}: {advice}{hint}") from error


@contextmanager
def errors_only() -> Iterator[None]:
    """Within the context, huggingface_hub logs no warnings: the error message contains what matters."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def wanted_files(files: list[str], variant: str | None) -> list[str]:
    """The files of a repository that a pipeline reads: all small ones, and one form of each part's weights.

    Safetensors are preferred to pickles, and the variant to the plain files. For a part without them, all its weight
    files are taken.
    """
    wanted = [file for file in files if file.endswith(SMALL)]
    weights = [file for file in files if WEIGHT_FILE.fullmatch(PurePosixPath(file).name)]
    for folder in sorted({PurePosixPath(file).parent for file in weights}):
        here = [file for file in weights if PurePosixPath(file).parent == folder]
        here = [file for file in here if file.endswith(".safetensors")] or here
        of = lambda word: [file for file in here if variant_of(PurePosixPath(file).name) == word]  # noqa: B023
        wanted += (of(variant) if variant else []) or of("") or here
    return wanted


def upload(folder: Path, name: str, message: str, private: bool | None, token: str | None, create_pr: bool) -> str:
    """Upload a folder to a repository on the hub, which is created if it does not exist; returns the commit's address.

    Raises:
        CheckpointError: The package is not installed, or the upload failed.
    """
    api = hub_package().HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, create_pr=create_pr)
    except Exception as error:  # as in `downloaded`
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{name} cannot be uploaded to huggingface.co: {said}") from error
    return str(commit.commit_url)
