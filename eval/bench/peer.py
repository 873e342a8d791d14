"""diffusers' Latte and VAEs on our weights, in a child process with its own interpreter, timed in turn with ours."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latte.eval.bench import peer_program, resources
from latte.files import one_line, write_json
from latte.models.latte_t2v import LatteT2V
from latte.models.vae import AutoencoderKL
from latte.weights.convert_t2v import t2v_state_for_diffusers
from latte.weights.published_export import published_config
from latte.weights.tensors import write_tensors

KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # as latte.allocator sets it


class Peer:
    """A child process that computes with diffusers.

    Attributes:
        name: The name of its rows.
        versions: The versions of diffusers and of its PyTorch.
    """

    def __init__(self, name: str, python: Path, folder: Path, device: torch.device, keeps_memory: bool):
        self.name, self.folder = name, folder
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  open for as long as the process
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MALLOC_"))}
        program = [python, folder / "peer_program.py", folder, str(device), str(torch.get_num_threads())]
        try:
            self.process = subprocess.Popen(
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                env=inherited | (KEEPING if keeps_memory else {}),
            )  # fmt: skip
        except OSError as error:
            self.errors.close()
            raise ValueError(f"--peer-python {python} cannot be run: {error.strerror}") from error
        self.python = python
        self.versions: dict[str, str] = self.answer()

    def answer(self) -> dict[str, Any]:
        """Its next answer. Raises ValueError if it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = [text for text in self.errors.read().splitlines() if text.strip()] or ["it said nothing"]
            raise ValueError(f"--peer-python {self.python} cannot run diffusers: {one_line(said[-1])}")
        return json.loads(line)

    def ask(self, do: str, call: str, **request: Any) -> dict[str, Any]:
        """Send a request: see peer_program.serve."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # answer() says why it ended
            print(json.dumps({"do": do, "call": call, **request}), file=self.process.stdin, flush=True)
        return self.answer()

    def prepare(
        self, call: str, work: str, inputs: dict[str, Tensor], dtype: str, compiled: bool = False, **request: Any
    ) -> None:
        """Name a call to time: a key of peer_program.WORK, on these inputs."""
        request |= {"work": work, "dtype": dtype, "compiled": compiled}
        path = self.folder / f"{self.process.pid}.safetensors"
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in inputs.items()}, path)
        self.ask("prepare", call, inputs=str(path), **request)

    def time(self, call: str, least: float) -> float:
        """The seconds of a call: see resources.seconds_of."""
        return self.ask("time", call, least=least)["seconds"]

    def inspect(self, call: str, compiled: bool) -> tuple[Tensor, int | None, int | None]:
        """A call's output, operations and peak memory; the last two are unknown for a compiled network."""
        path = self.folder / f"{self.process.pid}-out.safetensors"
        found = self.ask("inspect", call, out=str(path), compiled=compiled)
        return load_file(path)["out"], found["flops"], found["peak"]

    def close(self) -> None:
        """End the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.terminate()
        self.process.wait()
        self.errors.close()


@contextmanager
def peers(python: Path | None, networks: Mapping[str, nn.Module], device: torch.device) -> Iterator[list[Peer]]:
    """diffusers as it comes and, on a CPU, with freed memory kept; empty if no interpreter is given.

    Args:
        python: The interpreter.
        networks: The networks whose weights it takes: "transformer" and "vae", or one of them.
        device: Where it computes.

    Raises:
        ValueError: diffusers does not have such a network, or the interpreter does not have diffusers.
    """
    if python is None:
        yield []
        return
    if not all(isinstance(network, LatteT2V | AutoencoderKL) for network in networks.values()):
        words = "leave it out, or time --parts decoding alone"
        raise ValueError(f"--peer-python: diffusers has no class-conditional Latte to compare with: {words}")
    started: list[Peer] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for module in (peer_program, resources):
            shutil.copy(str(module.__file__), folder)
        for part, network in networks.items():
            write_json(folder / part / "config.json", published_config(network))  # rejects what diffusers lacks
            own = not isinstance(network, LatteT2V)  # our autoencoders have diffusers' names
            state = network.state_dict() if own else t2v_state_for_diffusers(network)
            write_tensors(folder / part / "weights.safetensors", state)
        names = {"diffusers": False, **({"diffusers, memory kept": True} if device.type == "cpu" else {})}
        try:
            for name, keeps_memory in names.items():
                started.append(Peer(name, python, folder, device, keeps_memory))
            yield started
        finally:
            for peer in started:
                peer.close()
