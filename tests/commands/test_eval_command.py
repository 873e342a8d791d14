"""`latte eval` without real videos: the examiner's report, and invalid options."""

import json

import pytest
import torch
from awake_models import awake_pipeline, write_model
from published import write_published

from latte import LattePipeline
from latte.cli import main
from latte.commands import eval as command
from latte.commands.options.evaluating import eval_parser
from latte.eval.exam import knows_shapes_alone
from latte.models.latte import Latte, LatteConfig
from latte.plans.plan_file import write_plan
from latte.plans.rules import repeat
from latte.shapes.draw import COLOURS, MOTIONS, SHAPES
from latte.text.tokenizer import Tokenizer, train_vocabulary
from latte.weights.find_models import find_model
from latte.weights.load import save_model
from latte.weights.manifest import digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained model of the built-in shapes, without a VAE."""
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=8, in_channels=6, num_classes=8)
    folder = save_model(Latte(config), tmp_path_factory.mktemp("model"))
    (folder / "classes.json").write_text(json.dumps({"names": list(MOTIONS)}))
    return folder


WORDS = ["--num-videos", "1", "--num-sampling-steps", "1", "--device", "cpu"]


def test_report_records_all_that_the_scores_depend_on(folder, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    assert main(["eval", str(folder), "--vae", "shapes/vae", "--out", str(out), *WORDS]) == 0
    report = json.loads(out.read_text(), parse_constant=pytest.fail)  # called for NaN
    files = (folder / "model.safetensors", find_model("shapes/vae") / "model.safetensors")
    assert report["weights"] == "ema"
    assert report["sha256"] == {f"{file.parent.name}/{file.name}": digest(file) for file in files}
    assert report["device"].startswith("cpu ") and report["torch"] == torch.__version__
    assert set(report["scores"]) == {"real clips", "VAE reconstructions", "samples"}
    assert report["scores"]["real clips"]["by_motion"] == {"left": 1.0}
    said = capsys.readouterr().out
    assert "motion_accuracy" in said and "  left" in said and "shape_constancy" in said and "  magenta" in said


def test_pab_and_plans_apply_to_the_evaluated_samples(tmp_path, monkeypatch, capsys):
    """The evaluated samples use --pab or --plan, and the report records it."""
    made = []

    def score(pipe, count, **settings):
        made.append(pipe(class_labels=[0] * count, output_type="latent", progress=False, **settings).frames)
        return {}

    monkeypatch.setattr(command, "score_model", score)
    monkeypatch.setattr(command, "score_table", str)
    folder = write_model(awake_pipeline(8, list(MOTIONS)), tmp_path / "model")
    pipe, exact = LattePipeline.from_pretrained(folder), []
    pipe.enable_plan(lambda plan: exact.append(plan) or plan)
    pipe(class_labels=[0], num_inference_steps="8", output_type="latent", progress=False)
    write_plan(repeat(exact[0], 4), tmp_path / "plan.json")
    words = ["eval", str(folder), *WORDS, "--num-sampling-steps", "8", "--out", str(tmp_path / "scores.json")]
    reports = []
    for reuse in ([], ["--pab", "spatial=2"], ["--plan", str(tmp_path / "plan.json")]):
        assert main([*words, *reuse]) == 0
        reports.append(json.loads((tmp_path / "scores.json").read_text()))
    assert not any(torch.equal(made[i], made[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert [report.get("pab") for report in reports] == [None, ["spatial=2"], None]
    assert [bool(report.get("plan")) for report in reports] == [False, False, True]
    capsys.readouterr()
    assert main(["eval", "--compare", "a.json", "b.json", "--plan", "fast"]) == 2
    assert "--plan does nothing with --compare" in capsys.readouterr().err


def test_bad_options_are_rejected_before_any_work(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    vae = ["--vae", "shapes/vae"]
    for model, words, say in (
        ("shapes", ["--out", str(tmp_path)], f"--out {tmp_path} is not a file"),
        ("shapes", ["--out", "/proc/x/scores.json"], "--out /proc/x/scores.json is not a file"),
        ("shapes", ["--out", str(tmp_path / "new.txt")], f"is not a .json file: name one, such as {tmp_path}/new.j"),
        ("shapes", ["--out", str(tmp_path / "file" / "scores.json")], "is not a file"),
        (str(folder), [*vae, "--num-videos", "0"], "--num-videos is 0"),
        (str(folder), [*vae, "--batch-size", "0"], "--batch-size is 0"),
        (str(folder), [], "no VAE to decode with: name its folder with --vae (in Python: vae"),
        (str(tmp_path), [], "name what to compare them with, such as --real FOLDER"),
    ):
        assert main(["eval", model, *WORDS, *words]) == 2
        assert say in capsys.readouterr().err.splitlines()[-1]


def test_the_help_says_what_each_option_does():
    text = " ".join(eval_parser().format_help().split())
    assert "--real-crop SIZE resize and centre-crop real frames" in text
    assert "--sets SET [SET ...] other sets of the same model" in text


def test_models_of_other_captions_are_not_examined(tmp_path, capsys):
    """Neither a run trained on other data, nor a model whose vocabulary holds other words."""
    refused = lambda *words: main(["eval", *words, *WORDS]) == 2 and capsys.readouterr().err.splitlines()[-1]
    published = write_published(tmp_path / "published")
    assert "built-in shapes (compare others with real videos, --real); this one learned other" in refused(
        str(published)
    )
    own = tmp_path / "run/final"
    own.parent.mkdir()
    (tmp_path / "published").rename(own)
    (tmp_path / "run/config.yaml").write_text("kind: t2v\ndata: clips\nvae: x\n")
    assert f"{tmp_path / 'run'} learned from clips: the examiner judges" in refused(str(tmp_path / "run"))
    shapes = [f"a {colour} {shape} growing" for colour in COLOURS for shape in SHAPES]
    assert knows_shapes_alone(Tokenizer(train_vocabulary(shapes)))
    assert knows_shapes_alone(LattePipeline.from_pretrained("shapes-t2v", transformer=None, vae=None).tokenizer)
    assert not knows_shapes_alone(Tokenizer(train_vocabulary([*shapes, "a dog jumps"])))
