"""`latte bench speed`: operation counts worked out by hand, the report's structure, and invalid arguments."""

import json
import os
import sys

import pytest
import torch
from awake_models import awake_pipeline
from speed_models import SHAPE, text_pipeline
from torch._dynamo.testing import CompileCounter

from latte import LattePipeline
from latte.cli import main
from latte.commands.options.benchmarks import RANDOM_VAES
from latte.eval.bench.candidates import Entry, caches, compare, exact_candidates, interleaved
from latte.eval.bench.forward_speed import FLOOR, Evaluation, measure_forward
from latte.eval.bench.products import Products
from latte.eval.bench.resources import OperationCount
from latte.eval.bench.sampling_speed import job_of, measure_sampling
from latte.eval.bench.speed_plots import grouped, plot_speed
from latte.eval.bench.speed_report import FORWARD, speed_table
from latte.eval.bench.vae_speed import measure_decoding
from latte.fast.switch import fast_paths
from latte.models.vae import AutoencoderKL
from latte.models.vae_config import VAEConfig

WORDS = ["bench", "speed", "random", *(f"{name}={value}" for name, value in SHAPE.items()), "--device", "cpu"]
pytestmark = pytest.mark.usefixtures("short")


def operations(pipe: LattePipeline, fast: bool) -> list[int]:
    """Operation counts of a run's first step and of the next."""
    counts = []
    with fast_paths(fast):
        evaluation = Evaluation(pipe, frames=3, size=32, tokens=5)
        network = evaluation.network()
        for _ in range(2):
            with OperationCount() as count:
                evaluation.compute(network)
            counts.append(count.total)
    return counts


def test_operation_counts_match_hand_computed_numbers(t2v):
    d, b, f, s, words, captions = 16, 2, 3, 4, 5, 24
    n = b * f * s  # tokens
    patches = 2 * n * 16 * d + 2 * n * d * 32
    spatial = 2 * n * d * 4 * d + 4 * b * f * s * s * d
    temporal = 2 * n * d * 4 * d + 4 * b * s * f * f * d
    cross = 2 * n * d * 2 * d + 4 * n * words * d
    mlps = 2 * (2 * n * d * 8 * d)
    time, text = 2 * (256 * d + d * d + d * 6 * d), 2 * b * words * (captions * d + d * d + d * 2 * d)
    step = patches + spatial + temporal + cross + mlps
    assert operations(t2v, fast=False) == [step + b * time + text] * 2
    # what depends only on the timestep or the text is computed once, and both halves share what precedes the text
    step -= spatial // 2 + n * 16 * d
    assert operations(t2v, fast=True) == [step + time + text, step]


def test_replayed_matrix_products_match_the_networks_flops(t2v):
    with fast_paths(False):
        evaluation = Evaluation(t2v, frames=3, size=32, tokens=5)
        with Products() as recorded:
            evaluation.compute(evaluation.network())
    with OperationCount() as count:
        for function, args, kwargs in recorded.calls:
            function(*args, **kwargs)
    assert count.total == operations(t2v, fast=False)[0]


def test_products_that_end_in_something_are_counted():
    """Those of the fast form on CUDA, which PyTorch's own counter leaves out."""
    bias, x, weight, residual = torch.randn(4), torch.randn(5, 3), torch.randn(3, 4), torch.randn(5, 4)
    for work in (lambda: torch._addmm_activation(bias, x, weight), lambda: residual.addmm_(x, weight)):
        with OperationCount() as count:
            work()
        assert count.total == 2 * 5 * 3 * 4


def test_rounds_alternate_direction_after_a_warm_up():
    called = []
    work = {name: lambda name=name: called.append(name) or len(called) for name in "abc"}
    assert interleaved(work, 2, warm_up=True) == {"a": [4, 9], "b": [5, 8], "c": [6, 7]}
    assert "".join(called) == "cbaabccba"


def test_rows_hold_ratios_of_their_fastest_rounds():
    times = {"plain": iter((4.0, 2.0)), "peer": iter((6.0, 5.0))}
    outputs = {"plain": torch.ones(4), "peer": torch.tensor([1.0, 1, 1, 3])}
    entries = [
        Entry(name, "float32", False, times[name].__next__, lambda n=name: (outputs[n], 100, 2_000_000), name == "peer")
        for name in times
    ]
    rows, given = compare(entries, torch.device("cpu"), 2, warm_up=False)
    plain, other = rows["plain"], rows["peer"]
    assert (plain["min"], plain["median"], plain["seconds"]) == (2, 3, [4, 2]) and given == outputs
    assert (other["ratio"], other["over_peer"], plain["over_peer"]) == (0.4, {"peer": 1}, {"peer": 2.5})
    assert (plain["error"], other["error"], other["peak_mb"]) == (0, 1, 2)
    assert plain["share"] == pytest.approx(100 / 2 / (plain["matmul_gflops"] * 1e9))
    table = speed_table(rows, FORWARD).splitlines()
    assert table[0].startswith("|  | s | median | GFLOP | of matmul | peak MB | error | ratio | over peer |")
    assert table[2].startswith("| plain | 2 | 3 |") and table[2].endswith("| 1.00 | 2.50 |")


def test_blocks_are_compiled_one_by_one_and_their_first_call_is_timed(monkeypatch):
    counter, asked, compile = CompileCounter(), [], torch.compile
    counted = lambda function, **options: asked.append(options) or compile(function, backend=counter, **options)
    monkeypatch.setattr(torch, "compile", counted)
    pipe = text_pipeline(num_layers=2)
    exact = exact_candidates(pipe, ["float32"], compiled=True)
    assert [(each.name, each.compiled) for each in exact] == [("readable", False), ("fast", False), ("compiled", True)]
    for frames in (3, 2):
        counter.clear()
        rows = measure_forward(pipe, exact, [], frames, 32, 5, 1)["rows"]
        assert counter.frame_count == 2  # a spatial and a temporal block, for this size
        assert rows["compiled"]["error"] < 1e-5 and rows["compiled"]["first_seconds"] > rows["compiled"]["min"]
        assert [rows[name]["first_seconds"] for name in ("readable", FLOOR, "fast")] == [None] * 3
    assert asked == [{"fullgraph": True}] * 4
    assert "| first s |" in speed_table(rows, FORWARD)
    plain = measure_forward(pipe, exact[:2], [], 2, 32, 5, 1)["rows"]
    assert "first s" not in speed_table(plain, FORWARD)


def test_accelerated_sampling_is_compared_with_exact_sampling():
    pipe = awake_pipeline(3)
    settings = dict(num_inference_steps="4", guidance_scale=4.0, eta=0.0, seed=0, batch_size=2)
    listed = [*exact_candidates(pipe, ["float32", "bfloat16"], False), *caches(["1/1", "2/3"], [], "float32")]
    job, first = (job_of(pipe, count, {}, 0, settings, exam=False) for count in (3, 2))
    own = pipe.transformer
    result = measure_sampling(job, first, listed, [], 1, None)
    rows = result["rows"]
    assert list(rows) == ["readable", "fast", "readable, bfloat16", "fast, bfloat16", "PAB 1/1", "PAB 2/3"]
    exact, fast, all_computed, broadcast = (rows[name] for name in ("readable", "fast", "PAB 1/1", "PAB 2/3"))
    assert (exact["error"], exact["psnr"], exact["ssim"]) == (0, 100, pytest.approx(1)) and exact["lpips"] is None
    assert fast["error"] < 1e-5 < rows["fast, bfloat16"]["error"] and fast["psnr"] > 50
    assert (all_computed["error"], all_computed["flops"]) == (fast["error"], fast["flops"])
    assert broadcast["error"] > fast["error"] and broadcast["flops"] < fast["flops"]
    assert rows["fast, bfloat16"]["dtype"] == "bfloat16" and result["steps"] == 4
    assert all(row["per_step"] == row["min"] / 4 and row["peak_mb"] > 0 for row in rows.values())
    assert pipe.transformer is own and pipe._broadcast is None
    decoding = measure_decoding(pipe, [], 2, 32, 1)["rows"]
    assert list(decoding) == ["readable", "fast"] and decoding["fast"]["error"] < 1e-5
    assert decoding["readable"]["flops"] > 0 and not decoding["readable"]["error"]
    with pytest.raises(ValueError, match="the examiner judges"):
        job_of(pipe, 1, {}, 0, settings, exam=True)


def test_the_command_writes_its_report_and_plots(tmp_path, capsys):
    out, words = tmp_path / "speed.json", ["--frames", "2", "3", "--text-tokens", "4", "--num-sampling-steps", "2"]
    more = ["--rounds", "1", "--ranges", "2/2/2", "--plans", "network:1", "tea-cache:0.1,polynomial=1/0"]
    more += ["--sizes", "32", "--out", str(out), "--plots", str(tmp_path)]
    before = torch.get_num_threads()
    assert main([*WORDS, *words, *more]) == 0 and torch.get_num_threads() == before
    report = json.loads(out.read_text())
    assert [(case["frames"], case["size"]) for case in report["forward"]] == [(2, 32), (3, 32)]
    for case in report["forward"]:
        rows = case["rows"]
        assert list(rows) == ["readable", FLOOR, "fast", "fast, first"]
        assert rows[FLOOR]["over_floor"] == 1 and rows["readable"]["ratio"] == 1
        assert rows["readable"]["flops"] == rows[FLOOR]["flops"] > rows["fast"]["flops"]
        assert max(rows["fast"]["error"], rows["fast, first"]["error"]) < 1e-5
    cached = ["PAB 2/2/2", "plan network:1", "plan tea-cache:0.1,polynomial=1/0"]
    assert list(report["sampling"]["rows"]) == ["readable", "fast", *cached]
    flops = {name: row["flops"] for name, row in report["sampling"]["rows"].items()}
    assert flops["plan network:1"] < 0.7 * flops["fast"]  # one of two evaluations
    assert report["sampling"]["rows"]["fast"]["psnr"] is None  # no VAE
    assert (report["threads"], report["processor"] != "", report["seed"]) == (1, True, 0)
    assert {path.name for path in tmp_path.glob("*.png")} == {"flops.png", "cost.png"}
    assert "| matmul + sdpa only |" in capsys.readouterr().out
    report["forward"] = []
    report["sampling"]["rows"] = {name: row | {"psnr": 30.0, "ssim": 0.9} for name, row in rows.items()}
    assert [path.name for path in plot_speed(report, tmp_path)] == ["quality.png", "flops.png"]


def test_plots_join_the_settings_of_one_rule():
    names = (
        "readable",
        "PAB 2/3",
        "PAB 4/6",
        "plan network:50%",
        "plan network:25%",
        "plan network:50%+gate:40%",
        "plan fast",
    )
    rows = {name: {"min": float(-i)} for i, name in enumerate(names)}
    groups = {group: [-row["min"] for row in found] for group, found in grouped(rows).items()}
    alone = {"readable": [0], "plan network:50%+gate:40%": [5], "plan fast": [6]}
    assert groups == {"PAB": [2, 1], "plan network": [4, 3], **alone}


def test_a_model_with_random_weights_decodes_by_the_vae_that_is_named(vae, tmp_path, monkeypatch, capsys):
    small = VAEConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4)
    monkeypatch.setattr("latte.commands.bench_speed.RANDOM_VAES", {"random": small})
    out = tmp_path / "speed.json"
    words = [*WORDS, "--parts", "decoding", "--frames", "1", "2", "--sizes", "16", "--rounds", "1", "--out", str(out)]
    flops = {}
    for name in ("random", str(vae)):
        assert main([*words, "--vae", name]) == 0
        report = json.loads(out.read_text())
        one, two = report["decoding"]
        assert report["vae"] == name and report["forward"] == [] and report["sampling"] is None
        assert [(case["frames"], case["size"], list(case["rows"])) for case in (one, two)] == [
            (1, 16, ["readable", "fast"]),
            (2, 16, ["readable", "fast"]),
        ]
        flops[name] = one["rows"]["readable"]["flops"]
        assert two["rows"]["readable"]["flops"] == 2 * flops[name]
    assert flops["random"] != flops[str(vae)]
    assert "decoding of one video: 2 frames of 16 x 16" in capsys.readouterr().out


def test_random_vaes_have_the_published_sizes():
    """Stable Diffusion's VAE, and the one with SVD's temporal decoder."""
    with torch.device("meta"):
        counts = [sum(p.numel() for p in AutoencoderKL(config).parameters()) for config in RANDOM_VAES.values()]
    assert counts == [83_653_863, 97_742_847]


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["shapes", "depth=2"], "depth=2 changes the shape of random"),
        (["random", "depth=2"], "depth=2: expected key=NUMBER; the keys are num_layers"),
        (["random", "num_layers=x"], "num_layers=x: expected key=NUMBER"),
        ([*WORDS[2:], "--sizes", "100"], "height is 100"),
        ([*WORDS[2:], "--rounds", "0"], "--rounds"),
        ([*WORDS[2:], "--ranges", "2/x"], "broadcast ranges 2/x"),
        ([*WORDS[2:], "--exam"], "no VAE"),
        ([*WORDS[2:], "--parts", "sampling", "decoding", "forward"], "--parts decoding: random has no VAE: add --vae"),
        ([*WORDS[2:], "--parts", "forward", "sampling", "decoding"], "--parts decoding: random has no VAE: add --vae"),
        ([*WORDS[2:], "--vae", "nowhere"], "VAEs with random weights are random and random-temporal"),
        (["shapes", "--vae", "random-temporal"], "--vae random-temporal is for random or random-latte: give shapes"),
        (["shapes-t2v", "--parts", "forward", "--peer-python", "/bin/false"], "Latte has no self-conditioning"),
        ([*WORDS[2:], "--plans", "network:51"], "plan network:51: the number of computed evaluations is 51"),
        ([*WORDS[2:], "--plans", "slow"], "there is no plan 'slow'"),
        ([*WORDS[2:], "--alexnet", "nowhere.pth"], "nowhere.pth: there is no such file"),
        (["shapes", "--peer-python", "nowhere"], "--peer-python nowhere: there is no such interpreter"),
        (["shapes", "--peer-python", sys.executable], "diffusers has no class-conditional Latte"),
        (["shapes", "--parts", "decoding", "--peer-python", "/bin/false"], "cannot run diffusers: it said nothing"),
        ([*WORDS[2:], "--peer-python", __file__], "cannot be run"),
        ([*WORDS[2:], "--peer-python", "/bin/false"], "cannot run diffusers: it said nothing"),
        ([*WORDS[2:], "--plots", os.devnull], "is not a folder"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(words, say, capsys):
    assert main(["bench", "speed", *words]) == 2
    error = capsys.readouterr().err
    assert say in error and error.count("\n") == 1
