"""The forms for a GPU in `latte bench speed`, computed on a CPU: 8 bits in float32, graphs by repeating operations."""

import copy
from types import SimpleNamespace

import pytest
import torch
from awake_models import awake_pipeline
from recorded_graph import record

from latte import network_forms
from latte.cli import main
from latte.eval.bench import gpu_forms
from latte.eval.bench.candidates import caches, exact_candidates
from latte.eval.bench.forward_speed import measure_forward
from latte.eval.bench.gpu_forms import GPU_FORMS, gpu_candidates, recorded_caches
from latte.eval.bench.sampling_speed import job_of, measure_sampling
from latte.fast.float8_products import Float8Linear
from latte.fast.graph_run import GraphRun
from latte.fast.temporal_attention import pack_frames

pytestmark = pytest.mark.usefixtures("short")


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Let graphs be recorded on a CPU, by repeating PyTorch's operations; the networks that were recorded."""
    recorded = []

    def graph_run(pipe, network, condition, plan, cache):
        if not pipe.cuda_graphs:
            return network_forms.fast_run(pipe, network, condition, plan, cache)
        pack_frames(network)
        recorded.append(network)
        return GraphRun(network, condition, plan, capture=record)

    for module in ("text_conditioning", "class_conditioning"):
        monkeypatch.setattr(f"latte.{module}.fast_run", graph_run)
    return recorded


def forms_of(pipe, monkeypatch, dtype="float32", forms=tuple(GPU_FORMS)):
    """Candidates, made as if the pipeline were on a GPU that has everything."""
    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "device", SimpleNamespace(type="cuda"))
        for name in ("runs_kernels", "multiplies_in_float8"):
            patch.setattr(gpu_forms, name, lambda device: True)
        return gpu_candidates(pipe, forms, dtype)


def packs(network):
    """Whether temporal attention packs frames."""
    return any("attend" in vars(layer) for layer in network.modules())


def test_every_form_is_a_row_beside_the_exact_ones(t2v, as_on_cuda, monkeypatch):
    own, listed = t2v.transformer, forms_of(t2v, monkeypatch)
    rows = measure_forward(t2v, exact_candidates(t2v, ["float32"], False) + listed, [], 3, 32, 5, 1)["rows"]
    packed, graphs, eight, both = (rows[form.name] for form in GPU_FORMS.values())
    assert graphs["error"] == packed["error"] == rows["fast"]["error"] < 1e-5
    assert 1e-3 < eight["error"] == both["error"] < 0.1
    assert eight["flops"] == rows["fast"]["flops"] and graphs["flops"] == rows["readable"]["flops"]
    assert graphs["peak_mb"] is None and eight["peak_mb"] > 0
    assert "fast, first, 8-bit products" in rows and len(rows) == 10  # graphs are not recorded anew in each step
    assert t2v.transformer is own and not t2v.cuda_graphs
    assert len({id(network) for network in as_on_cuda}) == 2  # with and without 8 bits
    assert not packs(own) and not any(isinstance(layer, Float8Linear) for layer in own.modules())
    networks = [each.set_up.args[0] for each in listed]
    assert [packs(network) for network in networks] == [True, True, False, True] and networks[0] is networks[1]


def test_sampling_compares_them_too(as_on_cuda, monkeypatch):
    pipe = awake_pipeline(3)
    settings = dict(num_inference_steps="4", guidance_scale=4.0, eta=0.0, seed=0, batch_size=2)
    job, first = (job_of(pipe, count, {}, 0, settings, exam=False) for count in (3, 2))
    listed = exact_candidates(pipe, ["float32"], False) + forms_of(pipe, monkeypatch)
    rows = measure_sampling(job, first, listed, [], 1, None)["rows"]
    packed, graphs, eight, both = (rows[form.name] for form in GPU_FORMS.values())
    assert len(rows) == 6 and graphs["error"] == packed["error"] == rows["fast"]["error"]
    assert eight["error"] == both["error"] > 1e-3 and eight["psnr"] < rows["fast"]["psnr"]


def test_caches_are_sampled_in_graphs_too(as_on_cuda, monkeypatch):
    pipe = awake_pipeline(3)
    settings = dict(num_inference_steps="6", guidance_scale=4.0, eta=0.0, seed=0, batch_size=2)
    job = job_of(pipe, 2, {}, 0, settings, exam=False)
    forms = exact_candidates(pipe, ["float32"], False) + forms_of(pipe, monkeypatch, forms=["packed", "graphs"])
    inexact = caches(["2/3"], ["network:3"], "float32")
    both = recorded_caches(forms, inexact)
    assert [each.name for each in both] == [f"{each.name}, {GPU_FORMS['graphs'].name}" for each in inexact]
    rows = measure_sampling(job, job, [*forms, *inexact, *both], [], 1, None)["rows"]
    for cache, recorded in zip(inexact, both):
        assert rows[recorded.name]["error"] == pytest.approx(rows[cache.name]["error"], rel=1e-3) and recorded.recorded
        assert rows[recorded.name]["error"] > 1e-3  # so it is the cache's
    assert not pipe.cuda_graphs and len(as_on_cuda) >= 3


def test_the_weaker_network_of_autoguidance_is_packed_in_graphs_alone(as_on_cuda, monkeypatch):
    pipe = awake_pipeline(3)
    weaker = copy.deepcopy(pipe.transformer)
    pipe.enable_autoguidance(weaker, scale=2)
    listed = exact_candidates(pipe, ["float32"], False) + forms_of(pipe, monkeypatch, forms=["graphs", "graphs"])
    rows = measure_forward(pipe, listed, [], 3, 32, 0, 1)["rows"]
    assert rows[GPU_FORMS["graphs"].name]["error"] < 1e-5 and len(rows) == 5
    assert pipe.weaker is weaker and not packs(weaker)
    assert len(as_on_cuda) >= 2 and all(packs(network) for network in as_on_cuda)


def test_forms_have_the_precision_of_the_first_rows(t2v, monkeypatch):
    listed = forms_of(t2v, monkeypatch, "bfloat16")
    assert {each.dtype for each in listed} == {"bfloat16"} and next(t2v.transformer.parameters()).dtype == torch.float32
    assert {next(each.set_up.args[0].parameters()).dtype for each in listed} == {torch.bfloat16}


def test_they_need_a_gpu_that_has_them(t2v, monkeypatch, capsys):
    with pytest.raises(ValueError, match="--gpu-forms needs a model on CUDA, not on cpu: leave it out"):
        gpu_candidates(t2v, ["graphs"], "float32")
    assert gpu_candidates(t2v, [], "float32") == []
    assert main(["bench", "speed", "shapes", "--device", "cpu", "--gpu-forms", "graphs"]) == 2
    error = capsys.readouterr().err
    assert "--gpu-forms needs a model on CUDA" in error and error.count("\n") == 1
    monkeypatch.setattr(type(t2v), "device", SimpleNamespace(type="cuda"))
    monkeypatch.setattr(gpu_forms, "runs_kernels", lambda device: False)
    monkeypatch.setattr(gpu_forms, "multiplies_in_float8", lambda device: False)
    with pytest.raises(ValueError, match="need Triton"):
        gpu_candidates(t2v, ["packed"], "float32")
    with pytest.raises(ValueError, match="need a GPU of compute capability 9"):
        gpu_candidates(t2v, ["float8"], "float32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(t2v, dtype):
    t2v.to("cuda")
    forms = [form for form in GPU_FORMS if "float8" not in form or gpu_forms.multiplies_in_float8(t2v.device)]
    listed = exact_candidates(t2v, [dtype], False) + gpu_candidates(t2v, forms, dtype)
    for frames in (3, 2):
        rows = measure_forward(t2v, listed, [], frames, 32, 5, 1)["rows"]
        usual = 1e-4 if dtype == "float32" else 3e-2
        assert max(rows[GPU_FORMS[form].name]["error"] for form in ("packed", "graphs")) < usual
        assert rows["fast"]["flops"] > 0.7 * rows["readable"]["flops"]
        assert all(row["error"] < 0.1 for row in rows.values() if row["error"] is not None)
