"""Benchmarks: their measurements against closed forms, and their reports on small models."""

import json
from itertools import product

import pytest
import torch
from goldens import Golden
from small_runs import TINY, run, small_t2v

from latte import LattePipeline
from latte.cli import main
from latte.commands import info
from latte.eval.bench import train_speed
from latte.eval.bench.memory_need import without_values, working_bytes
from latte.eval.bench.pab_cost import counting
from latte.eval.bench.read_speed import choose_windows, readers
from latte.eval.bench.resources import LiveTensors, timed, weight_bytes
from latte.eval.bench.train_speed import SOURCES, step_flops, with_existing_vae
from latte.eval.fidelity import psnr, ssim
from latte.eval.reporting import machine_record, markdown_table
from latte.files import read_json
from latte.models.latte import LatteConfig
from latte.models.latte_t2v import LatteT2V
from latte.models.vae import AutoencoderKL, VAEConfig
from latte.shapes.draw import make_clip
from latte.train.config import LatteTrainConfig
from latte.train.resolve import resolve
from latte.video.write import write_video
from latte.weights.convert_t2v import t2v_config, t2v_state
from latte.weights.vae_folder import load_vae


def test_psnr_and_ssim_of_flat_frames_have_a_closed_form():
    a, b = torch.full((2, 3, 3, 16, 16), 100, dtype=torch.uint8), torch.full((2, 3, 3, 16, 16), 110, dtype=torch.uint8)
    assert psnr(a, b) == pytest.approx(28.1308, abs=1e-4)  # 20 log10(25.5)
    x, y, c = 100 / 255, 110 / 255, 0.01**2
    assert ssim(a, b) == pytest.approx((2 * x * y + c) / (x * x + y * y + c), abs=1e-5)
    assert psnr(a, a) == 100 and ssim(a, a) == pytest.approx(1)
    b[1] = a[1]
    assert psnr(a, b) == pytest.approx((28.1308 + 100) / 2, abs=1e-4)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(a[..., :8], b[..., :8])


def test_timing_calls_as_often_as_asked():
    calls = []
    seconds = timed(lambda: calls.append(1), torch.device("cpu"), 3)
    assert len(calls) == len(seconds) == 3


def test_a_markdown_table_has_a_line_per_row():
    table = markdown_table(["", "clips/s"], [["ours", "2.00"], ["plain", "1.00"]])
    assert table == "|  | clips/s |\n|---|---|\n| ours | 2.00 |\n| plain | 1.00 |"


def test_speeds_are_reported_with_the_machine():
    record = machine_record(torch.device("cpu"))
    assert record["device"].startswith("cpu ") and record["threads"] == torch.get_num_threads()
    assert record["torch"] == torch.__version__


def test_peak_of_live_tensors():
    before = torch.ones(1000)
    with LiveTensors() as memory:
        a = torch.zeros(1000)  # 4,000 bytes
        part = a[:10]  # takes no new memory but keeps all of a alive
        b = a + before
        del a
        assert (memory.live, memory.peak) == (8000, 8000)
        b.add_(1)
        del part
        assert (memory.live, memory.peak) == (4000, 8000)
        c = torch.cat([b, b, b])
        assert (memory.live, memory.peak) == (16000, 16000)
    del b, c
    assert (memory.live, memory.peak) == (0, 16000)
    assert weight_bytes([torch.nn.Linear(3, 5).half(), torch.nn.BatchNorm1d(2)]) == 2 * 20 + 4 * 8 + 8


def test_counted_layer_calls_match_diffusers():
    """With ranges 2, 3 and 5: 33, 27 and 23 of 50 evaluations; see test_pab_schedules."""
    weights, golden = Golden("t2v_transformer"), Golden("t2v_pipeline")
    config = t2v_config(weights.config)
    model = LatteT2V(config)
    model.load_state_dict(t2v_state(weights.weights, config))
    pipe = LattePipeline(model)
    inputs = {name: golden.inputs[name] for name in ("prompt_embeds", "negative_prompt_embeds", "latents")}
    pipe.enable_pyramid_attention_broadcast(2, 3, 5)
    with counting(model) as counts:
        pipe(**inputs, output_type="latent", progress=False)
    assert counts == {"model": 50, "spatial": 33, "temporal": 27, "cross": 23, "mlp": 50}
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_pab_benchmark_reports_its_cost(vae, tmp_path, capsys):
    model = run(small_t2v(vae, "steps=1", "image_size=64", "model.patch_size=1"), tmp_path / "run")
    words = ["bench", "pab", str(model), "--num-videos", "2", "--num-sampling-steps", "10", "--device", "cpu"]
    assert main([*words, "--ranges", "1/1/1", "2/3/5/2", "--out", str(tmp_path / "cost.json")]) == 0
    report = json.loads((tmp_path / "cost.json").read_text())
    exact, same, less = (report["results"][name] for name in ("exact", "1/1/1", "2/3/5/2"))
    for result in (exact, same):
        assert set(result["computed"].values()) == {1.0}
        assert (result["psnr"], result["speedup"] > 0) == (100, True) and result["ssim"] == pytest.approx(1)
    # t is 900, 800, ..., 0; of evaluations 2 to 7 in the window, the even ones compute, or 3 and 6, or 5
    assert less["computed"] == {"spatial": 0.7, "temporal": 0.6, "cross": 0.5, "mlp": 0.7}
    assert less["peak_mb"] > exact["peak_mb"] > report["weights_mb"] and same["peak_mb"] == exact["peak_mb"]
    out = capsys.readouterr().out
    assert "| 2/3/5/2 | 70 % | 60 % | 50 % | 70 % |" in out and "all right" in out


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["sped"], "invalid choice: 'sped'"),
        (["pab", "shapes", "--ranges", "2/3/5"], "no 'cross' layers"),
        (["pab", "shapes", "--ranges", "2/x"], "broadcast ranges 2/x: expected whole numbers"),
        (["pab", "shapes", "--ranges", "2/3/5/2/2"], "there are 4 kinds"),
        (["pab", "shapes", "--out", "."], "is not a file"),
    ],
)
def test_wrong_options_get_one_line(words, say, capsys):
    try:
        status = main(["bench", *words])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and say in capsys.readouterr().err


def test_fake_tensors_have_the_same_memory_peak():
    """A small decoder has the same peak with fake tensors as with real ones."""
    config = VAEConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)

    def decode():
        model = AutoencoderKL(config)
        z = torch.zeros(2, 4, 8, 8)
        return working_bytes(lambda: model.decode(z))

    with without_values(torch.float32):
        fake = decode()
    assert fake == decode() > 2 * 3 * 16 * 16 * 4
    assert torch.get_default_dtype() == torch.float32


def test_the_video_benchmark_reports_reading_speed(tmp_path, capsys):
    write_video(make_clip(0, 0, frames=6, size=32).video, tmp_path / "a.mkv")
    words = ["bench", "video", str(tmp_path), "--clips", "2", "--repeats", "1", "--out", str(tmp_path / "a.json")]
    assert main([*words, "--frames", "4"]) == 0
    found = read_json(tmp_path / "a.json")["milliseconds"]
    assert {"read_video", "PyAV"} <= found.keys() and min(found.values()) > 0
    assert f"| PyAV | {found['PyAV']:.1f} |" in capsys.readouterr().out
    window = choose_windows([tmp_path / "a.mkv"], 1, 4)[0]
    assert 0 <= window.start <= 2 and {read(window) for read in readers().values()} == {4}
    assert main([*words, "--frames", "6"]) == 2
    assert "no video of more than 6 frames" in capsys.readouterr().err


def test_the_memory_benchmark_on_latte_1(capsys):
    assert main(["bench", "memory", "--num-frames", "4"]) == 0
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = {name.strip(): (float(weights), float(peak)) for name, weights, peak in rows[1:]}
    plain, kept = cells["transformer"], cells["transformer, outputs kept (PAB)"]
    assert plain[0] == 2.11 and cells["T5 encoder"][0] == 11.54 and cells["T5 encoder, 8 bits"][0] == 4.9
    # the outputs of 84 layers, for 8 frames of 1024 tokens and 1152 channels, in half precision
    assert kept[1] - plain[1] == pytest.approx(84 * 8 * 1024 * 1152 * 2 / 1e9, abs=0.02)
    assert cells["VAE, 1 of 4 frames at a time"][1] < 0.3 * cells["VAE, 4 of 4 frames at a time"][1]
    temporal = [cells[f"temporal VAE, {chunk} of 4 frames at a time"][1] for chunk in (1, 4)]
    assert temporal[0] < 0.95 * temporal[1]
    assert main(["bench", "memory", "--height", "500"]) == 2
    assert "--height is 500" in capsys.readouterr().err


def test_speed_of_training(vae, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_speed, "SIDES", {"cpu": 64})
    words = [*TINY, f"vae={vae}", "--steps", "1", "--warmup", "0", "--device", "cpu", "--out", str(tmp_path / "a.json")]
    assert main(["bench", "train", "--config", "shapes", *words, "--precisions", "fp32", "bf16"]) == 0
    out, written = capsys.readouterr().out, read_json(tmp_path / "a.json")
    assert [(row["precision"], row["source"]) for row in written["rows"]] == list(product(("fp32", "bf16"), SOURCES))
    for row in written["rows"]:
        assert row["clips_per_second"] == pytest.approx(4 / row["seconds"])
        assert row["share_of_matmul"] > 0 and row["tflops"] > 0 and f"{row['seconds']:8.3f}" in out
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4, num_classes=8)
    assert step_flops(config, 0) == 3 * 2 * info.count_cost(config).macs > 0
    assert step_flops(config, 2) > step_flops(config, 0)
    larger = LatteConfig(depth=4, hidden_size=16, num_heads=2, input_size=8, num_frames=4, num_classes=8)
    routed = LatteTrainConfig(vae="any", route_share=0.5, route_start=1, route_end=3)
    assert 0.7 < step_flops(larger, 0, routed) / step_flops(larger, 0) < 0.8  # half of the tokens in half of the blocks
    for wrong, say in (
        (["--steps", "0"], "at least one step"),
        (["--config", "shapes-vae"], "the benchmark needs kind=latte"),
    ):
        assert main(["bench", "train", *wrong, "--device", "cpu"]) == 2
        assert say in capsys.readouterr().err


def test_a_vae_that_is_missing_is_replaced_by_random_weights(tmp_path):
    with pytest.warns(UserWarning, match="using one of Stable Diffusion's shape instead"):
        config = with_existing_vae(resolve("ffs", []), tmp_path)
    assert load_vae(config.vae).config == VAEConfig()
    assert with_existing_vae(resolve("shapes", []), tmp_path) == resolve("shapes", [])
