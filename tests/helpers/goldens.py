"""Reads the recorded golden values and compares with them."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import latte

FOLDER = Path(__file__).parent.parent / "goldens"


class Golden:
    """One file: `weights`, `inputs` and `outputs` by the reference's names, and its `config`."""

    def __init__(self, name: str):
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.config = json.loads(file.metadata()["config"])
        for group in ("weights", "inputs", "outputs"):
            start = group + "."
            setattr(self, group, {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})

    def write_weights(self, folder: Path) -> Path:
        """The reference's own weight file, as it would be published."""
        save_file(self.weights, folder / "original.safetensors")
        return folder / "original.safetensors"


def out_of(model, golden: Golden) -> Tensor:
    """The output of a Latte for the recorded inputs."""
    return model(golden.inputs["x"], golden.inputs["t"], golden.inputs["y"])


def relative_error(out: Tensor, reference: Tensor) -> float:
    """||out - reference|| / ||reference||, in float64; shapes must agree."""
    assert out.shape == reference.shape, f"{tuple(out.shape)} instead of {tuple(reference.shape)}"
    out, reference = out.detach().double(), reference.double()
    return ((out - reference).norm() / reference.norm()).item()


def load(golden: Golden, folder, **options):
    """The golden's weights as a model."""
    return latte.load_model(golden.write_weights(folder), num_heads=golden.config["num_heads"], **options)
