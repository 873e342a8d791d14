"""The program of the child process: diffusers' Latte on our weights, timed on request.

It runs in another interpreter, in a folder that holds a copy of resources.py, the network's config.json and its
weights. A request is one line of JSON on standard input, and its answer one line on standard output.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TextIO


def load(folder: str, dtype: str, compiled: bool, frames: int, device: str):
    """The network with the weights of a folder; it only takes the number of frames that it was made for."""
    import torch
    from diffusers import LatteTransformer3DModel
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json")) as file:
        network = LatteTransformer3DModel.from_config(json.load(file), video_length=frames)
    network.load_state_dict(load_file(os.path.join(folder, "weights.safetensors")))
    network = network.eval().requires_grad_(False).to(device, getattr(torch, dtype))
    return torch.compile(network) if compiled else network


def evaluation(network, inputs: dict) -> Callable:
    """One evaluation of the network: x (2, c, f, h, w), text (2, l, d) and t (2,); 1 in place of 2 without guidance."""
    x, text = (inputs[name].to(next(network.parameters()).dtype) for name in ("x", "text"))
    return lambda: network(x, encoder_hidden_states=text, timestep=inputs["t"], return_dict=False)[0]


def sampling(network, inputs: dict, request: dict) -> Callable:
    """A run of DDIM, with guidance, from x (n, c, f, h, w) and the embeddings text and negative (n, l, d)."""
    import torch
    from diffusers import DDIMScheduler

    kind = next(network.parameters()).dtype

    def batch(start: int) -> torch.Tensor:
        rows = slice(start, start + request["batch_size"])
        x, halves = inputs["x"][rows], [inputs[name][rows] for name in ("negative", "text") if name in inputs]
        text = torch.cat(halves).to(kind)
        scheduler = DDIMScheduler.from_config(request["scheduler"])
        scheduler.set_timesteps(request["steps"], device=x.device)
        for t in scheduler.timesteps:
            out = torch.cat([x] * len(halves)).to(kind)
            out = network(out, encoder_hidden_states=text, timestep=t.expand(len(out)), return_dict=False)[0]
            out = out[:, : x.shape[1]].float()
            if len(halves) > 1:
                low, high = out.chunk(2)
                out = low + request["guidance"] * (high - low)
            x = scheduler.step(out, t, x, return_dict=False)[0]
        return x

    return lambda: torch.cat([batch(start) for start in range(0, len(inputs["x"]), request["batch_size"])])


def serve(folder: str, device: str, threads: int, requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests, line by line, until they end."""
    import diffusers
    import torch
    from diffusers import LatteTransformer3DModel  # noqa: F401  an old diffusers has none
    from resources import OperationCount, seconds_of, working_memory
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    where, networks, calls = torch.device(device), {}, {}
    answer = {"diffusers": diffusers.__version__, "torch": torch.__version__}
    print(json.dumps(answer), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        answer = {}
        if request["do"] == "prepare":
            key = (request["dtype"], request["compiled"], request["frames"])
            if key not in networks:
                networks[key] = load(folder, *key, device)
            inputs = {name: value.to(where) for name, value in load_file(request["inputs"]).items()}
            if "steps" in request:
                calls[request["call"]] = sampling(networks[key], inputs, request)
            else:
                calls[request["call"]] = evaluation(networks[key], inputs)
        elif request["do"] == "time":
            answer["seconds"] = seconds_of(calls[request["call"]], where, request["least"])
        elif request["do"] == "inspect":
            work, kept = calls[request["call"]], []
            answer["peak"] = None if request["compiled"] else working_memory(work, where)
            with OperationCount() as count:
                kept.append(work())
            answer["flops"] = None if request["compiled"] else count.total
            save_file({"out": kept[0].float().contiguous()}, request["out"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that a library's output does not mix with answers
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.stdin, answers)
