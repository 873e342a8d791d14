"""Writing text-to-video folders: in our layout, and in the published one, against a folder written by diffusers."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from goldens import FOLDER
from published import PROMPTS, QUICK, SHARDS
from safetensors import safe_open
from safetensors.torch import load_file

from latte import LattePipeline
from latte.cli import main
from latte.files import read_json
from latte.models.latte_t2v import LatteT2V
from latte.models.vae_config import VAEConfig
from latte.sampling_settings import Guidance, Sampling
from latte.scheduler import PUBLISHED, Scheduler
from latte.weights.eight_bits import in_eight_bits
from latte.weights.find_models import PARTS
from latte.weights.manifest import CONFIG, damage
from latte.weights.published import load_scheduler, load_t2v, load_t5, part_files, readers
from latte.weights.published_export import MODEL_INDEX, save_published, scheduler_config, vae_config
from latte.weights.sampling_defaults import load_sampling
from latte.weights.t2v_folder import save_text_to_video
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import load_vae

IGNORED = {  # entries of the recorded configurations that tell how they were made, or that inference does not read
    "transformer": {"_diffusers_version"},
    "vae": {"_diffusers_version", "latents_mean", "latents_std", "mid_block_add_attention", "sample_size"}
    | {"shift_factor", "use_post_quant_conv", "use_quant_conv"},  # all at AutoencoderKL's defaults
    "vae_temporal_decoder": {"_diffusers_version", "sample_size"},
    "text_encoder": {"classifier_dropout", "dtype", "initializer_factor", "is_decoder", "num_decoder_layers"}
    | {"scale_decoder_outputs", "tie_word_embeddings", "transformers_version"},
    "scheduler": {"_diffusers_version", "clip_sample_range", "dynamic_thresholding_ratio", "rescale_betas_zero_snr"}
    | {"sample_max_value", "thresholding", "trained_betas"},
}


@pytest.fixture(scope="module")
def written(published, tmp_path_factory):
    """The published folder, read and rewritten in the published layout."""
    read = readers(published)
    parts = {name: read[name]() for name in (*PARTS, "vae_temporal_decoder")}
    return save_published(tmp_path_factory.mktemp("written") / "Latte-1", parts)


def only(parts, *names):
    """Parts of which only these are present and the others None, as in a pipeline that left them out."""
    return {name: part if name in names else None for name, part in parts.items()}


def same(one, other):
    """Whether two networks have the same configuration and bits."""
    state = other.state_dict()
    equal = all(torch.equal(tensor, state.pop(name)) for name, tensor in one.state_dict().items())
    return equal and not state and one.config == other.config


def test_the_published_layout_is_reproduced(published, written):
    with safe_open(FOLDER / "tiny_latte_1.safetensors", "pt") as file:
        recorded = {name: json.loads(file.metadata()[f"{name}.config"]) for name in IGNORED}
    for name, config in recorded.items():
        path = written / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        ours = read_json(path)
        expected = {key: value for key, value in config.items() if key not in IGNORED[name]}
        assert {key: ours.get(key) for key in expected} == expected
        assert not ours.keys() - config.keys()
    for name in ("transformer", "vae", "vae_temporal_decoder"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        ours, theirs = load_file(written / file), load_file(published / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key].float()) for key in theirs)
    theirs = {key: t for shard in SHARDS for key, t in load_file(published / "text_encoder" / shard).items()}
    ours = load_file(written / "text_encoder/model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key].float()) for key in theirs)
    assert (written / "tokenizer/spiece.model").read_bytes() == (published / "tokenizer/spiece.model").read_bytes()
    assert read_json(written / "tokenizer/tokenizer_config.json") == {
        **{"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        **{"extra_ids": 100, "model_max_length": 512},
    }
    assert read_json(written / MODEL_INDEX) == {
        "_class_name": "LattePipeline",
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "LatteTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def test_a_rewritten_folder_reads_back_bit_exactly(published, written, pipe):
    before, after = readers(published), readers(written)
    for name in ("transformer", "text_encoder"):
        assert same(after[name](), before[name]())
    for name in ("vae", "vae_temporal_decoder"):
        assert same(after[name]().model, before[name]().model)
    assert after["tokenizer"]().vocabulary == before["tokenizer"]().vocabulary
    assert after["scheduler"]() == before["scheduler"]()
    again = LattePipeline.from_pretrained(written)
    assert torch.equal(again(PROMPTS[0], **QUICK).frames, pipe(PROMPTS[0], **QUICK).frames)


def test_converting_between_layouts_round_trips(tmp_path, parts):
    defaults = Sampling(Guidance(3.0, (100, 900)), 20)
    ours = save_text_to_video(tmp_path / "ours", parts, defaults)
    assert load_sampling(ours, 7.5) == defaults and same(load_t2v(ours / "transformer"), parts["transformer"])
    assert same(load_vae(ours / "vae").model, parts["vae"].model)
    assert main(["convert", str(ours), str(tmp_path / "theirs"), "--to", "diffusers"]) == 0
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "back")]) == 0
    files = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*") if path.is_file()
    )
    assert all((ours / file).read_bytes() == (tmp_path / "back" / file).read_bytes() for file in files)


def test_parts_that_are_left_out(tmp_path, parts):
    folder = save_published(tmp_path / "a", only(parts, "transformer"))
    index = read_json(folder / MODEL_INDEX)
    assert index["transformer"] == ["diffusers", "LatteTransformer3DModel"]
    assert all(index[name] == [None, None] for name in ("vae", "text_encoder", "tokenizer", "scheduler"))
    assert sorted(path.name for path in folder.iterdir()) == [MODEL_INDEX, "transformer"]
    ours = save_text_to_video(tmp_path / "b", only(parts, "transformer"))
    assert [path.name for path in ours.iterdir()] == ["transformer"]


def test_half_precision_keeps_t5s_wo_in_float32(tmp_path, parts):
    folder = save_published(tmp_path / "a", parts, torch.bfloat16)
    for name, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        assert tensor.dtype == (torch.float32 if ".wo." in name else torch.bfloat16)
    assert {t.dtype for t in load_file(folder / "vae/diffusion_pytorch_model.safetensors").values()} == {torch.bfloat16}


def test_only_a_folder_written_here_is_replaced(tmp_path, published, parts):
    small = only(parts, "transformer")
    folder = save_published(tmp_path / "a", parts)
    save_published(folder, small)
    assert not (folder / "vae").exists() and damage(folder / "transformer") is None
    (folder / "transformer/notes.txt").write_text("mine")
    for target in (folder, published, save_text_to_video(tmp_path / "ours", parts)):
        before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
        with pytest.raises(CheckpointError, match="is not empty and not a published folder written here"):
            save_published(target, small)
        assert before == {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    ours = tmp_path / "ours"
    before = {path: path.stat().st_mtime_ns for path in ours.rglob("*")}
    for name in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        with pytest.raises(CheckpointError, match=f"holds {name}, which this model does not have; choose a new folder"):
            save_text_to_video(ours, {**parts, name: None})
    assert before == {path: path.stat().st_mtime_ns for path in ours.rglob("*")}
    for name in ("sampling.json", "vae_temporal_decoder"):
        (ours / name).mkdir()
        with pytest.raises(CheckpointError, match=f"holds {name}, which this model does not have"):
            save_text_to_video(ours, parts)
        (ours / name).rmdir()
    (tmp_path / "theirs/tokenizer").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="tokenizer exists and was not written here"):
        save_text_to_video(tmp_path / "theirs", parts)


def test_v_prediction_is_published_in_the_scheduler(tmp_path, parts):
    config = replace(parts["transformer"].config, prediction="v")
    model = LatteT2V(config)
    model.load_state_dict(parts["transformer"].state_dict())
    folder = save_published(tmp_path / "a", {"transformer": model, "scheduler": Scheduler()})
    assert read_json(folder / "scheduler/scheduler_config.json")["prediction_type"] == "v_prediction"
    assert load_t2v(folder / "transformer").config == config and load_scheduler(folder / "scheduler") == Scheduler()
    (folder / "transformer" / CONFIG).write_text("{}")  # the scheduler alone does not make a network predict v
    with pytest.raises(CheckpointError, match="prediction_type is 'v_prediction'"):
        load_scheduler(folder / "scheduler")


@pytest.mark.parametrize(("name", "sampler"), PUBLISHED.items())
def test_every_scheduler_comes_back(name, sampler):
    for spacing in ("linspace",) if sampler == "dpm_singlestep" else ("leading", "trailing", "linspace"):
        scheduler = Scheduler(sampler, spacing, beta_start=0.001)
        config = scheduler_config(scheduler, "eps")
        assert config["_class_name"] == name and "variance_type" not in config
        assert Scheduler.from_config(config) == replace(scheduler, set_alpha_to_one=True)


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae", "vae_temporal_decoder"])
def test_a_part_with_missing_files_is_rejected(part, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "copy")
    files = part_files(folder, part)
    assert all(file.is_file() for file in files)
    files[-1].unlink()
    with pytest.raises(CheckpointError, match=rf"there is no such file, so .* has no complete {part}|holds no weights"):
        part_files(folder, part)


def test_unsupported_forms_cannot_be_published(tmp_path, published, parts, capsys):
    with pytest.raises(ValueError, match="DPMSolverSinglestepScheduler has no timestep_spacing 'leading'"):
        scheduler_config(Scheduler("dpm_singlestep"), "eps")
    with pytest.raises(ValueError, match="norm_num_groups is 8; diffusers' temporal decoder has 32"):
        vae_config(VAEConfig(block_out_channels=(32, 32), norm_num_groups=8, temporal_decoder=True))
    encoder = in_eight_bits(load_t5(published / "text_encoder"))
    with pytest.raises(ValueError, match="the text encoder is in 8 bits"):
        save_published(tmp_path / "a", {**parts, "text_encoder": encoder})
    assert list(tmp_path.iterdir()) == []
    for source, say in (("shapes", "is a Latte, which diffusers has no class for"), ("shapes/vae", "has no format")):
        assert main(["convert", source, str(tmp_path / "a"), "--to", "diffusers"]) == 2
        assert say in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_the_command_writes_the_published_layout(published, tmp_path, capsys, written):
    assert main(["convert", str(published), str(tmp_path / "a"), "--to", "diffusers"]) == 0
    said = capsys.readouterr().out
    assert "46,904 parameters" in said and f"{tmp_path / 'a'}: text-to-video for diffusers, float32" in said
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all((written / file).read_bytes() == (tmp_path / "a" / file).read_bytes() for file in files)
    again = ["convert", str(published), str(tmp_path / "a"), "--to", "diffusers"]
    assert main(again) == 2 and "a holds a model already" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    (tmp_path / "a/mine.txt").write_text("mine")
    assert main([*again, "--overwrite"]) == 2
    assert "choose a new folder" in capsys.readouterr().err


def test_a_vocabulary_of_our_own_has_no_more_sentinels_than_rows(tmp_path):
    parts = LattePipeline.from_pretrained("shapes-t2v").components
    transformer = LatteT2V(replace(parts["transformer"].config, self_condition=False))
    folder = save_published(tmp_path / "a", {**parts, "transformer": transformer})
    spare = parts["text_encoder"].config.vocab_size - len(parts["tokenizer"])
    assert read_json(folder / "tokenizer/tokenizer_config.json")["extra_ids"] == min(100, spare)


def test_autoencoder_configurations_round_trip():
    for temporal in (False, True):
        config = VAEConfig(block_out_channels=(32, 32), temporal_decoder=temporal)
        assert VAEConfig.from_dict(json.loads(json.dumps(vae_config(config)))) == config


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_diffusers_has_no_free_stride(sampler):
    assert scheduler_config(Scheduler(sampler, "trailing"), "eps")["timestep_spacing"] == "trailing"
    with pytest.raises(ValueError, match="has no fixed_stride=False"):
        scheduler_config(Scheduler(sampler, "trailing", fixed_stride=False), "eps")
