"""The command line before any network is loaded: help texts, choices, and errors in options and settings."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from latte import pab, scheduler
from latte.cli import COMMANDS, main
from latte.commands import bench, convert, encode
from latte.commands.options import OPTIONS, choices
from latte.commands.options.benchmarks import BENCHMARKS
from latte.diffusion import guidance_methods, guidance_options
from latte.eval import manifold, protocol, video_inception_score
from latte.eval.ablate import definitions
from latte.eval.bench import gpu_forms, guidance_variety, train_speed
from latte.eval.networks import i3d, shape_features
from latte.train import config, precision
from latte.train.data import frame_list, layouts, prepare_videos, transforms, windows
from latte.video import write
from latte.video.damage import WhenDamaged
from latte.weights import tensors

ROOT = Path(__file__).parents[2]


def run(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **options)


# commands that print only help, find an error in the options, or need no network
QUICK = [
    "--help",
    *(f"{name} --help" for name in COMMANDS),
    *(f"{name} --no-such-option" for name in COMMANDS),
    *(f"bench {name} --help" for name in BENCHMARKS),
    *("prepare folder --help", "sample --n 0", "sample --pab space=2", "sample --fps 0", "ablate --parallel 0"),
    *("sample nosuch", "eval nosuch", "plan runs/nosuch", "calibrate nosuch", "convert nosuch/x y", "info nosuch"),
    *("distill nosuch --run x", "bench pab nosuch", "bench guidance nosuch", "bench speed nosuch", "demo nosuch"),
    *("sample shapes --steps x", "plan shapes --steps ddim50,10", "sample nosuch --prompt x --steps 10,y"),
    *("sample shapes --steps 0", "sample shapes --eta 2", "sample shapes --sampler euler --eta 1"),
    *("sample shapes --pab temporal=0", "sample shapes --cfg-interval 500 100", "sample shapes --num-frames 0"),
    *("sample shapes --height 70000", "sample shapes --plan netwrk:17", "sample shapes --plan network:17,oder=1"),
    *("eval shapes --plan network", "eval --steps -1", "plan --eta 2", "calibrate --cfg-interval 500 100"),
    *("bench speed shapes --plans fast tea-cache:x", "bench speed shapes --eta 2", "bench pab --steps 0"),
    *("bench guidance --steps 0", "bench speed random num_layers=x", "ablate nosuch"),
    *(
        "bench train --steps 0",
        "bench memory --height 500",
        "encode --out x --shard-size 0",
        "plot run --smooth 0",
        "info",
    ),
]
SLOW_MODULES = ("torch", "numpy", "av", "PIL", "einops", "sentencepiece", "ftfy", "bs4", "matplotlib")


def test_help_and_option_errors_do_not_load_torch():
    code = f"""
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from latte.cli import main
for line in {QUICK!r}:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main(line.split())
        except SystemExit:
            pass
    said = out.getvalue() + err.getvalue()
    assert "unexpected" not in said and len(said) > 40, (line, said)
    loaded = [name for name in {SLOW_MODULES!r} if name in sys.modules]
    assert not loaded, f"{{line}} loads {{loaded}}"
"""
    result = run("-c", code)
    assert result.returncode == 0, result.stderr


def test_wrong_settings_are_named_without_torch(tmp_path):
    """In a run that exists, too, where no configuration is named."""
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    low = "learning_rate is -1.0; it must be 0 or more"
    expected = {
        f"train --run {run_folder} learning_rate=-1": low,
        f"train --run {run_folder} optimizer=3": "optimizer is '3', not 'adamw' or 'muon'",
        f"train --run {run_folder} stepz=3": "unknown key 'stepz', did you mean 'steps'?",
        f"train --run {run_folder} kind=lattte": "kind is 'lattte', not 'latte'",
        f"train --run {run_folder} text_encoder.d_modle=3": "did you mean 'text_encoder.d_model'?",
        "train --run nosuch": "there is no run at nosuch",
        "train --run x --config no": "no preset and no file is called 'no'",
        "train --run x --config shapes model.depth=7": "depth is 7; variants 1 and 2 pair their blocks",
        "train --run x --config shapes-t2v text_encoder.d_model=x": "d_model is 'x'; it must be of type int",
        "train --run x --config shapes schedule=cosine cooldown=0.5": "cooldown does nothing with schedule=cosine",
        "distill shapes --run x learning_rate=-1": low,
        "distill shapes --run x model.deph=3": "unknown key 'deph', did you mean 'model.depth'?",
        "encode --out x learning_rate=-1": low,
        "bench train learning_rate=-1": low,
        "bench memory --config ffs learning_rate=-1": low,
        "ablate learning_rate=-1": low,
    }
    code = f"""
import sys
from contextlib import redirect_stderr
from io import StringIO
from latte.cli import main
for line, said in {expected!r}.items():
    with redirect_stderr(StringIO()) as err:
        assert main(line.split()) == 2
    assert said in err.getvalue() and err.getvalue().count("\\n") == 1, (line, err.getvalue())
    loaded = [name for name in {SLOW_MODULES!r} if name in sys.modules]
    assert not loaded, f"{{line}} loads {{loaded}}"
"""
    result = run("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_settings_that_are_not_needed_are_not_checked():
    """Encoding makes no network; an empty --config is none."""
    assert OPTIONS["encode"](["--config", "shapes-plain", "--out", "x", "kind=t2v"]).changes == ["kind=t2v"]
    assert OPTIONS["train"](["--config", "", "--run", str(ROOT), "steps=3"]).config == ""


def test_option_choices_match_the_package():
    defined = {
        "SAMPLERS": tuple(scheduler.ALL),
        "DTYPES": tuple(tensors.DTYPES),
        "STORED_DTYPES": tuple(convert.STORED_DTYPES),
        "LATENT_DTYPES": tuple(encode.LATENT_DTYPES),
        "BROADCAST_KINDS": pab.KINDS,
        "FPS_RANGE": write.FPS_RANGE,
        "LAYOUTS": {name: layout.description for name, layout in layouts.LAYOUTS.items()},
        "SELECTIONS": tuple(windows.SELECTIONS),
        "WHEN_DAMAGED": get_args(WhenDamaged),
        "DRAWN_BY_DEFAULT": prepare_videos.DRAWN_BY_DEFAULT,
        "ORIGINAL_SIZE": frame_list.ORIGINAL_SIZE,
        "PROTOCOLS": tuple(protocol.PROTOCOLS),
        "DEFAULT_SCORE": video_inception_score.DEFAULT_SCORE,
        "SCORE_PROTOCOLS": tuple(video_inception_score.SCORE_PROTOCOLS),
        "SCALE_STEPS": {name: scale.settings["steps"] for name, scale in definitions.SCALES.items()},
        "ABLATIONS": tuple(definitions.ABLATIONS),
        "GUIDANCE_WAYS": tuple(guidance_variety.WAYS),
        "LEAST_MANIFOLD": manifold.NEIGHBOURS + 1,
        "SOURCES": train_speed.SOURCES,
        "BLOCKS": train_speed.BLOCKS,
        "LEAST_FRAMES": i3d.LEAST_FRAMES,
        "SHAPE_FEATURES": shape_features.SHIPPED,
        "GPU_FORMS": tuple(gpu_forms.GPU_FORMS),
    }
    assert {name: value for name, value in vars(choices).items() if name.isupper()} == defined
    assert set(BENCHMARKS) == set(bench.BENCHMARKS) and set(OPTIONS) == set(COMMANDS)


def test_names_that_are_known_without_torch_are_those_of_the_code_behind_them():
    assert set(guidance_methods.METHODS) == set(guidance_options.OPTIONS)
    for name, known in (("transform", transforms.TRANSFORMS), ("precision", [*precision.COMPUTE_DTYPES, "auto"])):
        assert config.SETTINGS[name].metadata["choices"] == tuple(known)
    assert config.SETTINGS["damaged"].metadata["choices"] == get_args(WhenDamaged)


def test_every_command_has_help_and_suggests_the_closest_word(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        with pytest.raises(SystemExit) as stopped:
            main([name, "--no-such-option"])
        assert stopped.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["smaple"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'smaple'" in said and said.endswith("did you mean sample?\n") and said.count("\n") == 1
    for wrong, hint in (
        ("--steps", "settings are written key=value; see latte bench memory --help"),
        ("--confg", "did you mean --config?"),
    ):
        with pytest.raises(SystemExit):
            main(["bench", "memory", "--config", "ucf101", wrong, "5"])
        assert capsys.readouterr().err.endswith(f"; {hint}\n")
    with pytest.raises(SystemExit):
        main(["bench", "train", "--sources", "latents", "steps=3"])
    assert capsys.readouterr().err.endswith("; write settings key=value before --sources, which takes several words\n")
    for wrong, hint in (("--size", "see latte sample --help"), ("--sampelr", "did you mean --sampler?")):
        with pytest.raises(SystemExit):
            main(["sample", wrong, "100"])
        assert capsys.readouterr().err.endswith(f"; {hint}\n")  # an option of that name, not a choice of another one
    for wrong, hint in (("every", "see latte eval --help"), ("latt", "did you mean latte?")):
        with pytest.raises(SystemExit):
            main(["eval", "fakes", "--protocol", wrong])
        assert capsys.readouterr().err.endswith(f"{hint}\n")  # a choice of that option, not of another


def test_a_reader_that_closes_early_is_not_an_error():
    code = "import sys; from latte.cli import main; sys.exit(main(['info', '--sizes', 'S']))"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() in (0, 141)


def test_info_matches_the_papers_counts(capsys):
    assert main(["info", "--sizes", "XL"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Latte-XL/2")]
    assert [row[3] for row in rows] == ["673.68", "673.68", "676.36", "676.36"]
    # 5572.69 G in the paper: 3 clips x 1857.03 G, minus modulation, which is evaluated here once per clip
    assert all(abs(float(row[5]) - 1826.89) < 0.01 for row in rows[:2])


def test_warnings_take_one_line(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/broken.mp4").write_text("no")
    words = ["train", "--config", "folder-vae", "--run", str(tmp_path / "run"), f"data={tmp_path / 'data'}"]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].startswith("latte train: warning: left out: ") and "broken.mp4" in said[0]
    assert said[1].startswith("latte train: error: ") and "holds no video" in said[1]


@pytest.mark.parametrize(
    "words",
    [
        ["sample", ""],
        ["eval", "", "--real", "x"],
        ["sample", "--out", ""],
        ["encode", "--out", ""],
        ["convert", "x", ""],
    ],
)
def test_an_empty_argument_is_not_the_working_folder(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "the value is empty; if it comes from a shell variable" in capsys.readouterr().err


def test_an_empty_prompt_is_allowed():
    assert OPTIONS["sample"](["--prompt", ""]).prompt == [""]


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["prepare", "ucf101", "source", "--split", "source"], "source is a folder, but a text file is needed"),
        (["convert", "shapes", "setup.cfg"], "setup.cfg is a file, but the model is written as a folder"),
    ],
)
def test_a_folder_and_a_file_are_not_confused(words, say, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source/a").mkdir(parents=True)
    (tmp_path / "source/a/x.avi").touch()
    (tmp_path / "setup.cfg").touch()
    more = ["--out", "list"] if words[0] == "prepare" else []
    assert main([*words, *more]) == 2 and say in capsys.readouterr().err


def test_errors_of_a_benchmark_name_it(tmp_path, capsys):
    assert main(["bench", "guidance", str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err.startswith("latte bench guidance: error: no model at ")
