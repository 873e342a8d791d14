"""The program of the child process: diffusers' Latte and VAEs on our weights, timed on request.

It runs in another interpreter, in a folder that holds a copy of resources.py and, in the folders transformer and vae,
config.json and weights. A request is one line of JSON on standard input, and its answer one line on standard output.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TextIO


def load(folder: str, part: str, dtype: str, compiled: bool, frames: int | None, device: str):
    """A network with the weights of a folder; a transformer only takes the number of frames that it was made for."""
    import diffusers
    import torch
    from safetensors.torch import load_file

    with open(os.path.join(folder, part, "config.json")) as file:
        config = json.load(file)
    made_for = {} if frames is None else {"video_length": frames}
    network = getattr(diffusers, config["_class_name"]).from_config(config, **made_for)
    network.load_state_dict(load_file(os.path.join(folder, part, "weights.safetensors")))
    network = network.eval().requires_grad_(False).to(device, getattr(torch, dtype))
    return torch.compile(network) if compiled else network


def evaluation(network, inputs: dict, request: dict) -> Callable:
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


def decoding(network, inputs: dict, request: dict) -> Callable:
    """Decoding of a clip's latents z (f, c, h, w), which are not scaled, some frames at once."""
    import torch

    parts = inputs["z"].to(next(network.parameters()).dtype).split(request["at_once"])
    clip = lambda part: {"num_frames": len(part)} if request["temporal"] else {}
    return lambda: torch.cat([network.decode(part, return_dict=False, **clip(part))[0] for part in parts])


WORK = {  # what can be asked for: the network that it needs, and what makes a function of its inputs
    "evaluation": ("transformer", evaluation),
    "sampling": ("transformer", sampling),
    "decoding": ("vae", decoding),
}


def prepared(request: dict, folder: str, device: str, networks: dict) -> Callable:
    """The function that a request describes; networks that were loaded before are used again."""
    import torch
    from safetensors.torch import load_file

    part, make = WORK[request["work"]]
    inputs = {name: value.to(device) for name, value in load_file(request["inputs"]).items()}
    key = (part, request["dtype"], request["compiled"], inputs["x"].shape[2] if part == "transformer" else None)
    if key not in networks:
        networks[key] = load(folder, *key, device)
    if request["compiled"]:
        torch.compiler.reset()  # as candidates.compare does on our side
    return make(networks[key], inputs, request)


def serve(folder: str, device: str, threads: int, requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests, line by line, until they end."""
    import diffusers
    import torch
    from diffusers import LatteTransformer3DModel  # noqa: F401  an old diffusers has none
    from resources import OperationCount, seconds_of, working_memory
    from safetensors.torch import save_file

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    where, networks, calls = torch.device(device), {}, {}
    answer = {"diffusers": diffusers.__version__, "torch": torch.__version__}
    print(json.dumps(answer), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        answer = {}
        if request["do"] == "prepare":
            calls[request["call"]] = prepared(request, folder, device, networks)
        elif request["do"] == "time":
            answer["seconds"] = seconds_of(calls[request["call"]], where, request["least"])
        elif request["do"] == "inspect":
            work, answer = calls[request["call"]], {"peak": None, "flops": None}
            if request["compiled"]:  # counters would keep it from running the compiled code
                out = work()
            else:
                answer["peak"] = working_memory(work, where)
                with OperationCount() as count:
                    out = work()
                answer["flops"] = count.total
            save_file({"out": out.float().contiguous()}, request["out"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that a library's output does not mix with answers
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.stdin, answers)
