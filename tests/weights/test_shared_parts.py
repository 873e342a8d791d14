"""Models that take parts from a bundled model: `latte convert --share`, and shared.json."""

import json
import shutil

import pytest
import torch

from latte import LattePipeline
from latte.cli import main
from latte.models.latte import Latte, LatteConfig
from latte.train.student import student_config
from latte.weights.find_models import find_model
from latte.weights.load import save_model
from latte.weights.manifest import digest_folder
from latte.weights.shared_parts import BUNDLED, SHARED_FILE, part_folder, shared_parts
from latte.weights.tensors import CheckpointError


@pytest.fixture
def of_class(tmp_path):
    """A small class model with random weights and the VAE of `shapes`."""
    source = tmp_path / "classes"
    shape = dict(depth=2, hidden_size=24, num_heads=2, patch_size=4, in_channels=6, input_size=8, num_classes=8)
    model = Latte(LatteConfig(**shape, prediction="v"))
    model.init_weights()
    save_model(model, source)
    shutil.copytree(BUNDLED / "shapes/vae", source / "vae")
    return source


@pytest.fixture
def of_text(tmp_path):
    """The transformer and the VAE of `shapes-t2v`, as a run on stored embeddings of its text encoder leaves them."""
    source = tmp_path / "text"
    for part in ("transformer", "scheduler", "vae"):
        shutil.copytree(BUNDLED / "shapes-t2v" / part, source / part)
    made = {"text_encoder": "shapes-t2v", "text_encoder_sha256": digest_folder(BUNDLED / "shapes-t2v/text_encoder")}
    (source / "trained.json").write_text(json.dumps({"steps": 1, **made}))
    return source


def videos(folder, **call):
    pipe = LattePipeline.from_pretrained(folder)
    return pipe(num_inference_steps=1, guidance_scale=1, eta=0, seed=3, output_type="pt", progress=False, **call).frames


def test_a_shared_vae_is_not_written_and_decodes_the_same(of_class, tmp_path):
    out = tmp_path / "out"
    assert main(["convert", str(of_class), str(out), "--share", "shapes"]) == 0
    entry = {"model": "shapes", "sha256": digest_folder(BUNDLED / "shapes/vae")}
    assert json.loads((out / SHARED_FILE).read_text()) == {"vae": entry} and not (out / "vae").exists()
    assert torch.equal(videos(out, class_labels=[1, 2]), videos(of_class, class_labels=[1, 2]))


def test_text_encoder_and_vocabulary_of_the_stored_embeddings_are_shared(of_text, tmp_path):
    out = tmp_path / "out"
    assert main(["convert", str(of_text), str(out), "--share", "shapes-t2v", "--dtype", "float16"]) == 0
    assert shared_parts(out) == {part: BUNDLED / "shapes-t2v" / part for part in ("vae", "text_encoder", "tokenizer")}
    assert sorted(path.name for path in out.iterdir()) == ["scheduler", SHARED_FILE, "transformer"]
    assert torch.equal(videos(out, prompt="a red circle"), videos("shapes-t2v", prompt="a red circle"))
    assert main(["sample", str(out), "--prompt", "a red circle", "--steps", "1", "--out", str(tmp_path / "made")]) == 0


def test_a_text_encoder_is_only_shared_with_the_model_that_made_the_embeddings(of_text, tmp_path, capsys):
    made = {"text_encoder": "shapes-t2v", "text_encoder_sha256": "0" * 64}  # the same name, but another encoder
    (of_text / "trained.json").write_text(json.dumps({"steps": 1, **made}))
    assert main(["convert", str(of_text), str(tmp_path / "out"), "--share", "shapes-t2v"]) == 2
    assert "has no text encoder: name the one that it was trained with, shapes-t2v" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_part_that_differs_is_not_shared(of_class, tmp_path, capsys):
    config = of_class / "vae/config.json"
    config.write_text(config.read_text().replace("1.43227", "1.5"))
    for model, said in (
        ("shapes", f"no part of {of_class} is equal to that of shapes; leave it out\n"),
        ("..", "no bundled model has this name; they are shapes, shapes-features, shapes-four, shapes-t2v"),
    ):
        assert main(["convert", str(of_class), str(tmp_path / "out"), "--share", model]) == 2
        assert f"--share {model}: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_own_parts_come_first_and_saving_writes_every_part(of_class, tmp_path, capsys):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main(["convert", str(of_class), str(out), "--share", "shapes"]) == 0
    LattePipeline.from_pretrained(out).save_pretrained(whole)
    assert (whole / "vae/config.json").is_file() and not (whole / SHARED_FILE).exists()
    assert part_folder(out, "vae") == BUNDLED / "shapes/vae"
    shutil.copytree(whole / "vae", out / "vae")
    assert part_folder(out, "vae") == out / "vae"
    shutil.rmtree(out / "vae")
    assert main(["convert", str(of_class), str(out), "--overwrite"]) == 2
    assert f"{out} holds {SHARED_FILE}, which this model does not have" in capsys.readouterr().err
    assert main(["convert", str(of_class), str(out), "--overwrite", "--share", "shapes", "--dtype", "float16"]) == 0


ENTRY = '{"model": "shapes", "sha256": "1234"}'


@pytest.mark.parametrize(
    "text, said",
    [
        (f'{{"scheduler": {ENTRY}}}', "'scheduler' cannot be shared; the parts that can are vae, text_encoder, tok"),
        (f'{{"vae": {ENTRY}}}', "the vae of shapes is not the one that was shared: give another one"),
        (f'{{"vae": {ENTRY.replace("shapes", "../..")}}}', "no bundled model '../..' has the part 'vae'"),
        ('{"vae": {"model": [], "sha256": "1234"}}', "no bundled model [] has the part 'vae'"),
        (f'{{"text_encoder": {ENTRY}}}', "no bundled model 'shapes' has the part 'text_encoder'"),
        ('{"vae": "shapes"}', "'vae' needs the name of a bundled model and a sha256"),
        ("[]", SHARED_FILE),
        ("{", SHARED_FILE),
    ],
)
def test_a_wrong_shared_file_is_an_error(text, said, of_class):
    shutil.rmtree(of_class / "vae")
    (of_class / SHARED_FILE).write_text(text)
    with pytest.raises(CheckpointError) as error:
        LattePipeline.from_pretrained(of_class)
    assert said in str(error.value) and str(of_class / SHARED_FILE) in str(error.value)


def test_options_that_share_does_not_go_with(of_class, tmp_path, capsys):
    for more in (("--to", "original"), ("--autoguidance", "none")):
        assert main(["convert", str(of_class), str(tmp_path / "out.pt"), "--share", "shapes", *more]) == 2
        assert "--share needs --to latte and no --autoguidance" in capsys.readouterr().err


def test_a_shared_vae_is_found_under_its_own_name(of_class, tmp_path, capsys):
    out = tmp_path / "out"
    main(["convert", str(of_class), str(out), "--share", "shapes"])
    assert main(["info", str(out)]) == 0
    assert "  vae         that of shapes\n" in capsys.readouterr().out
    assert student_config(str(out), 4, ["data=shapes"]).vae == "shapes/vae"
    assert find_model(out / "vae") == find_model("shapes-four/vae") == BUNDLED / "shapes/vae"
    for vae in ("vae", "shapes-four/vae"):
        assert LattePipeline.from_pretrained(out, vae=vae).vae is not None
    assert main(["info", "shapes-t2v-four/text_encoder"]) == 0
    assert "189 k parameters" in capsys.readouterr().out
