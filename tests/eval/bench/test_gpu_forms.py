"""The forms for a GPU in `latte bench speed`, computed on a CPU: 8 bits in float32, graphs by repeating operations."""

import pytest
import torch
from awake_models import awake_pipeline
from recorded_graph import record

from latte import conditioning
from latte.cli import main
from latte.eval.bench.candidates import exact_candidates
from latte.eval.bench.forward_speed import measure_forward
from latte.eval.bench.gpu_forms import GPU_FORMS, gpu_candidates
from latte.eval.bench.sampling_speed import job_of, measure_sampling
from latte.fast.float8_products import Float8Linear
from latte.fast.graph_run import GraphRun
from latte.fast.temporal_attention import pack_frames

pytestmark = pytest.mark.usefixtures("short")


class OnCuda:
    """A device that says that it is a GPU."""

    type = "cuda"


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Let graphs be recorded on a CPU, by repeating PyTorch's operations; the networks that were recorded."""
    recorded = []

    def graph_run(pipe, network, condition, plan, cache):
        if not pipe.cuda_graphs:
            return conditioning.fast_run(pipe, network, condition, plan, cache)
        pack_frames(network)
        recorded.append(network)
        return GraphRun(network, condition, plan, capture=record)

    for module in ("text_conditioning", "class_conditioning"):
        monkeypatch.setattr(f"latte.{module}.fast_run", graph_run)
    return recorded


def forms_of(pipe, monkeypatch):
    """All candidates, made as if the pipeline were on CUDA."""
    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "device", OnCuda())
        return gpu_candidates(pipe, list(GPU_FORMS))


def test_every_form_is_a_row_beside_the_exact_ones(t2v, as_on_cuda, monkeypatch):
    own, listed = t2v.transformer, forms_of(t2v, monkeypatch)
    rows = measure_forward(t2v, exact_candidates(t2v, ["float32"], False) + listed, [], 3, 32, 5, 1)["rows"]
    packed, graphs, eight, both = (rows[name] for name in GPU_FORMS.values())
    assert graphs["error"] == packed["error"] == rows["fast"]["error"] < 1e-5
    assert 1e-3 < eight["error"] == both["error"] < 0.1
    assert eight["flops"] == rows["fast"]["flops"] and graphs["flops"] == rows["readable"]["flops"]
    assert graphs["peak_mb"] is None and eight["peak_mb"] > 0
    assert "fast, first, 8-bit products" in rows and "fast, first, CUDA graphs" not in rows
    assert t2v.transformer is own and not t2v.cuda_graphs
    assert len({id(network) for network in as_on_cuda}) == 2  # one copy for each form with graphs
    assert not any(isinstance(layer, Float8Linear) or "attend" in vars(layer) for layer in own.modules())
    packing = [any("attend" in vars(layer) for layer in each.set_up.args[0].modules()) for each in listed]
    assert packing == [True, True, False, True]


def test_sampling_compares_them_too(as_on_cuda, monkeypatch):
    pipe = awake_pipeline(3)
    settings = dict(num_inference_steps="4", guidance_scale=4.0, eta=0.0, seed=0, batch_size=2)
    job, first = (job_of(pipe, count, {}, 0, settings, exam=False) for count in (3, 2))
    listed = exact_candidates(pipe, ["float32"], False) + forms_of(pipe, monkeypatch)
    rows = measure_sampling(job, first, listed, [], 1, None)["rows"]
    assert list(rows) == ["readable", "fast", *GPU_FORMS.values()]
    assert rows["fast, CUDA graphs"]["error"] == rows["fast"]["error"]
    assert rows["fast, 8-bit products"]["error"] == rows["fast, CUDA graphs, 8-bit products"]["error"] > 1e-3
    assert rows["fast, 8-bit products"]["psnr"] < rows["fast"]["psnr"]


def test_they_need_a_gpu(t2v, capsys):
    with pytest.raises(ValueError, match="--gpu-forms needs a model on CUDA, not on cpu: leave it out"):
        gpu_candidates(t2v, ["graphs"])
    assert gpu_candidates(t2v, []) == []
    assert main(["bench", "speed", "shapes", "--device", "cpu", "--gpu-forms", "graphs"]) == 2
    error = capsys.readouterr().err
    assert "--gpu-forms needs a model on CUDA" in error and error.count("\n") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(t2v):
    t2v.to("cuda")
    listed = exact_candidates(t2v, ["float32"], False) + gpu_candidates(t2v, ["packed", "graphs"])
    rows = measure_forward(t2v, listed, [], 3, 32, 5, 1)["rows"]
    assert max(rows[GPU_FORMS[form]]["error"] for form in ("packed", "graphs")) < 1e-4
