"""`latte demo`: a page in the browser to make and compare videos, and to view results."""

import tempfile
from argparse import Namespace
from pathlib import Path

from latte.demo.demo_page import DemoPage, import_gradio
from latte.demo.opened_models import OpenedModels
from latte.demo.sample_settings import Opening


def main(args: Namespace) -> None:
    """Open the first model, and serve the page until Ctrl-C."""
    for path in args.results:
        if not path.exists():
            raise FileNotFoundError(f"--results {path}: there is no such file or folder")
    with tempfile.TemporaryDirectory(prefix="latte-demo-") as folder:
        gradio = import_gradio(Path(folder))
        models = OpenedModels(args.models, Opening(args.vae, args.dtype, args.device), not args.download)
        DemoPage(gradio, models, args.results, Path(folder)).serve(args.host, args.port)
