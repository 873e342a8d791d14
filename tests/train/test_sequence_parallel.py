"""Training in groups of processes that share each clip, on any mesh of weights, matches one process."""

import json
from functools import partial

import pytest
import torch
from forks import together
from small_runs import run, small, small_t2v, tensors
from torch.distributed.tensor import DTensor

from latte.parallel.layout import training_meshes
from latte.processes import Ranks, processes
from latte.train import checkpoint
from latte.train.parallel import micro_batches
from latte.train.run import Run

MESHES = {  # number of processes: (clips at once x processes per clip, how the weights are split)
    2: {"1x2": ["sequence_parallel=2"]},
    4: {
        "2x2": ["sequence_parallel=2"],
        "2x2-hsdp": ["sequence_parallel=2", "shard=true", "shard_group=2"],
        "1x4-fsdp": ["sequence_parallel=4", "shard=true"],
    },
}
STEP = Run.step


def far(a, b):
    """The largest difference between tensors of the same name."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def checked_step(run_, number):
    """A step; before it, every process holds the part of each weight that the settings specify."""
    config, ranks = run_.config, run_.ranks
    for parameter in run_.network.parameters():
        assert isinstance(parameter, DTensor) == config.shard
        assert not config.shard or parameter.device_mesh.size(-1) == (config.shard_group or ranks.size)
    return STEP(run_, number)


def train_all(make, meshes, folder):
    torch.set_num_threads(1)
    Run.step = checked_step
    with processes(torch.device("cpu")):
        for name, words in meshes.items():
            if name == "2x2-hsdp":  # continues from a step on another mesh
                run(make("steps=1", "sequence_parallel=4"), folder / name)
            run(make(*words), folder / name)


@pytest.mark.parametrize(("size", "kind"), [(2, "t2v"), (4, "latte")])
def test_groups_sharing_clips_learn_the_same_as_one_process(size, kind, vae, tmp_path):
    images = ["num_images=1", "gradient_checkpointing=true"] if size == 4 else []
    words = ["steps=2", "warmup=1", "schedule=constant", "clips=4", "micro_batch_size=1", *images]
    make = partial(small if kind == "latte" else small_t2v, vae, *words)
    run(make(), tmp_path / "alone")
    together(size, lambda: train_all(make, MESHES[size], tmp_path), tmp_path / "log")
    read = lambda name: tensors(checkpoint.latest(tmp_path / name))
    lines = lambda name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    for name in MESHES[size]:
        # Adam's first step is 1.5e-3 wherever the gradient is not 0, so rounding is amplified where it is nearly 0
        assert far(read(name), read("alone")) < 1e-4, name
        for ours, theirs in zip(lines(name), lines("alone"), strict=True):
            assert all(ours[key] == pytest.approx(theirs[key], rel=1e-5) for key in ("loss", "mse", "grad_norm"))


def test_meshes_that_do_not_fit_are_refused_in_one_line(vae, tmp_path):
    ranks = [Ranks(rank, 4) for rank in range(4)]
    shared = small(vae, "global_batch_size=8", "micro_batch_size=2", "sequence_parallel=2")
    assert [micro_batches(shared, r)[0] for r in ranks] == [range(0, 2), range(0, 2), range(2, 4), range(2, 4)]
    with pytest.raises(ValueError, match=r"4 processes \(2 per clip\) in micro-batches of 3: make it a multiple of 6"):
        micro_batches(small(vae, "global_batch_size=9", "micro_batch_size=3", "sequence_parallel=2"), ranks[0])
    for words, say in (
        (["sequence_parallel=5"], "a clip has only 4 frames to share"),
        (["sequence_parallel=2", "deterministic_reduce=true", "micro_batch_size=1"], "needs sequence_parallel=1"),
        (["shard_group=2"], "shard_group does nothing with shard=False"),
    ):
        with pytest.raises(ValueError, match=say):
            small(vae, *words)
    with pytest.raises(ValueError, match="sequence_parallel splits the work over processes: start them with torchrun"):
        run(small(vae, "sequence_parallel=2"), tmp_path / "run")

    for words in ((3, 0), (1, 3)):
        name = "sequence_parallel" if words[0] == 3 else "shard_group"
        with pytest.raises(ValueError, match=f"{name} is 3; it must divide the number of processes, 4"):
            training_meshes("cpu", 4, *words)
