"""`latte encode`: stored latents give training what it would compute at each step."""

import json
import os
import shlex
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from forks import fork, status
from goldens import relative_error
from published import SHARDS
from safetensors.torch import load_file, save_file
from small_runs import SMALL, TINY, TINY_T2V, run, same, small, small_t2v, tensors

from latte import LattePipeline
from latte.cli import main
from latte.fast import onednn
from latte.files import read_json, write_json
from latte.shapes.draw import make_clip
from latte.train import checkpoint
from latte.train.data import encode_latents
from latte.train.data.folders import open_clips
from latte.train.data.latent_files import open_latent_folder
from latte.train.data.latents import EncodedEachStep, ReadFromFolder, open_data, open_latent_source
from latte.train.loop import train
from latte.train.presets import PRESETS
from latte.video.write import write_video
from latte.weights.convert_t2v import t2v_config
from latte.weights.manifest import digest, digest_folder
from latte.weights.vae_folder import load_vae


def source(config, vae):
    """The source of latents, opened as in training."""
    return open_latent_source(load_vae(vae), digest_folder(vae), open_data(config), config)


@pytest.mark.parametrize("changes", [["flip=true", "num_images=2"], ["selection=linspace", "transform=ffs"]])
def test_stored_latents_match_those_encoded_at_each_step(changes, vae, videos, tmp_path):
    words = [f"data={videos}", "frame_interval=2", *changes]
    config = small(vae, *words)
    words = [*TINY, *words, f"vae={vae}", "--dtype", "float32", "--shard-size", "2", "--device", "cpu"]
    assert main(["encode", "--config", "shapes", *words, "--out", str(tmp_path / "latents")]) == 0
    assert len(list((tmp_path / "latents").glob("*.safetensors"))) == 2
    fresh = source(replace(config, latents="step"), vae)
    files = source(replace(config, latents=str(tmp_path / "latents")), vae)
    assert isinstance(fresh, EncodedEachStep) and isinstance(files, ReadFromFolder)
    seen = set()
    for step in range(6):
        a, b = (each.batch(step, range(4)) for each in (fresh, files))
        assert relative_error(b.mean, a.mean) < 1e-5 and relative_error(b.deviation, a.deviation) < 1e-5
        assert torch.equal(a.labels, b.labels) and a.captions == b.captions
        seen |= {tuple(row.flatten().tolist()) for row in a.mean}
    assert len(seen) > 6  # windows are drawn anew


def test_training_on_stored_latents_equals_encoding_in_each_step(vae, tmp_path):
    words = [*TINY, f"vae={vae}", "--out", str(tmp_path / "latents"), "--dtype", "float32"]
    assert main(["encode", "--config", "shapes", *words]) == 0
    ends = []
    for name, latents in (("once", "once"), ("step", "step"), ("files", tmp_path / "latents")):
        run_words = [
            "train",
            "--config",
            "shapes",
            "--run",
            str(tmp_path / name),
            *TINY,
            f"vae={vae}",
            f"latents={latents}",
            "steps=3",
        ]
        assert main([*run_words, "--device", "cpu"]) == 0
        ends.append(tensors(checkpoint.latest(tmp_path / name)))
    for other in ends[1:]:
        assert max(float((ends[0][name] - other[name]).abs().max()) for name in other) < 1e-4


def test_worker_processes_do_not_change_the_result(vae, videos, tmp_path):
    words = [f"data={videos}", "latents=step", "steps=4", "micro_batch_size=2", "num_images=1", "flip=true"]
    for workers in (0, 2):
        run(small(vae, *words, f"num_workers={workers}"), tmp_path / str(workers))
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in "02"))
    run(small(vae, *words, "latents=once"), tmp_path / "once")
    assert not same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("0", "once")))


def test_a_stopped_encoding_resumes(vae, videos, tmp_path, monkeypatch):
    config = small(vae, f"data={videos}")
    write, out = encode_latents.write_shard, tmp_path / "latents"

    def killed_at_the_second(path, *rest):
        if "00001" in path.name:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *rest)

    monkeypatch.setattr(encode_latents, "write_shard", killed_at_the_second)
    killed = fork(
        lambda: encode_latents.encode_data_set(config, open_clips(config), out, shard_size=1), tmp_path / "log"
    )
    assert status(killed) == -signal.SIGKILL and [path.name for path in out.iterdir()] == ["shard-00000.safetensors"]
    with pytest.raises(FileNotFoundError, match="which writes it last"):
        open_latent_folder(out)
    first = (out / "shard-00000.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(encode_latents, "write_shard", write)
    began = onednn.onednn_is_faster()
    with monkeypatch.context() as patch:
        patch.setattr(onednn, "measured_faster", lambda: not began)  # the folder is completed as it was begun
        encode_latents.encode_data_set(config, open_clips(config), out, shard_size=1)
    encode_latents.encode_data_set(config, open_clips(config), tmp_path / "unbroken", shard_size=1)
    assert {encode_latents.read_notes(path)["onednn"] for path in out.glob("shard-*")} == {began}
    assert (out / "shard-00000.safetensors").stat().st_mtime_ns == first
    assert (out / "index.json").read_text() == (tmp_path / "unbroken/index.json").read_text()


def test_latents_that_do_not_fit_the_run_are_rejected(vae, videos, tmp_path, capsys):
    out, words = tmp_path / "latents", [*TINY, f"data={videos}", f"vae={vae}"]
    assert main(["encode", *words, "--config", "shapes", "--out", str(out)]) == 0
    other = shutil.copytree(vae, tmp_path / "vae")
    state = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, other / "model.safetensors")
    (other / "manifest.json").unlink()
    train = ["train", "--config", "shapes", "--run", str(tmp_path / "run"), "--device", "cpu", *words]
    for command, message in (
        ([*train, f"latents={out}", "image_size=32"], "encoded with image_size=16, but the run has 32: encode again"),
        ([*train, f"latents={out}", "flip=true"], "encoded with flip=False, but the run has True"),
        (
            [*train, f"latents={out}", "num_frames=13"],
            "3 videos have fewer than the 13 frames of a clip, the first is 0",
        ),
        ([*train, f"latents={out}", "transform=ffs"], "encoded with transform='ours', but the run has 'ffs'"),
        (
            [*train, f"latents={out}", f"vae={other}"],
            f"not encoded with the VAE at {other}: give vae={vae}, or encode again",
        ),
        ([*train, f"latents={out}", "num_workers=2"], "num_workers does nothing with latents="),
        ([*train, f"latents={tmp_path / 'no'}"], "run `latte encode`"),
        (["encode", "--config", "shapes", *words, "image_size=32", "--out", str(out)], "another folder for --out"),
        (["encode", "--config", "shapes-vae", "--out", str(out)], "kind=vae trains on pixels, so there are no latents"),
        (["encode", "--config", "shapes-features", "--out", str(out)], "kind=features trains on pixels"),
        (
            ["encode", *words, "--text-encoder", "x", "--out", str(out)],
            "--text-encoder has no effect on class-conditional training",
        ),
        (["encode", *words, "--shard-size", "0", "--out", str(out)], "--shard-size is 0"),
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert message in capsys.readouterr().err
    moved = replace(open_latent_folder(out), vae=str(other))
    with pytest.raises(ValueError, match=f"the VAE at {other} has changed since it encoded these latents"):
        moved.require_match(small(other, f"data={videos}"), digest_folder(other))
    values = read_json(out / "index.json")
    del values["vae_path"]  # as in earlier versions
    write_json(out / "index.json", values)
    capsys.readouterr()
    assert main([*train, f"latents={out}", f"vae={other}"]) == 2
    assert f"VAE at {other}: give the one that was used, vae=..., or encode again" in capsys.readouterr().err
    shard = next(out.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is missing or has changed"):
        open_latent_folder(out)


def test_a_video_that_cannot_be_read_is_left_out(vae, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write_video(make_clip(2, 5, frames=40, size=32).video, tmp_path / f"data/{name}.mp4")
    monkeypatch.setattr("latte.train.data.decoded_cache.CACHE_BYTES", 0)
    config = small(vae, f"data={tmp_path / 'data'}")
    clips = open_clips(config)
    content = bytearray((tmp_path / "data/b.mp4").read_bytes())
    content[len(content) // 2 : 3 * len(content) // 4] = bytes(3 * len(content) // 4 - len(content) // 2)
    (tmp_path / "data/b.mp4").write_bytes(content)
    with pytest.warns(UserWarning, match=r"left out: .*b\.mp4"):
        latents = encode_latents.encode_data_set(config, clips, tmp_path / "latents")
    assert [video.name for video in latents.videos] == ["0", "2"]
    assert list(clips.failures.reasons) == [tmp_path / "data/b.mp4"]


def encode_with_captions(published, vae, out) -> list[str]:
    """Store latents and embeddings of captions in a folder. Returns the command's words."""
    words = [*TINY_T2V[:-1], f"vae={vae}", "steps=4"]
    encoding = ["encode", "--config", "shapes-t2v", *words, "--text-encoder", str(published), "--out", str(out)]
    encoding += ["--device", "cpu"]
    assert main(encoding) == 0
    return encoding


def test_training_on_stored_caption_embeddings(published, vae, tmp_path, monkeypatch, capsys):
    """A LatteT2V trains on them with the printed command, without training its text encoder."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "latents"
    encoding = encode_with_captions(published, vae, out)
    latents = open_latent_folder(out)
    assert latents.has_text and len(latents.embeddings) == len(latents.captions) + 1
    printed = capsys.readouterr().out.splitlines()[-1].removeprefix("to train on these latents: ")
    assert printed.startswith("latte train --config shapes-t2v --run runs/latents --device cpu ")
    assert "steps=4" in printed
    assert main(shlex.split(printed)[1:]) == 0
    said = capsys.readouterr().out
    assert f"; captions embedded by {published.name}\n" in said
    assert f"next: latte sample runs/latents --text-encoder {published} --prompt '" in said
    assert main(encoding) == 0 and " --run runs/latents-2 " in capsys.readouterr().out  # the name is taken
    (tmp_path / "runs/latents").rename("run")
    encoder = {"name": published.name, "path": str(published), "sha256": digest_folder(published / "text_encoder")}
    assert read_json(out / "index.json")["text_encoder"] == encoder
    card = (tmp_path / "run/final/README.md").read_text()
    assert f"| text encoder | {encoder['name']}, sha256 {encoder['sha256']} |" in card
    assert str(published) not in card  # nobody else has that folder
    final = tmp_path / "run/final"
    recorded = {"text_encoder": encoder["name"], "text_encoder_sha256": encoder["sha256"]}
    assert read_json(final / "trained.json") == {"steps": 4, **recorded}
    names = {"README.md", "sampling.json", "scheduler", "trained.json", "transformer", "vae"}
    assert {path.name for path in final.iterdir()} == names
    parts = {"text_encoder": None, "tokenizer": None}
    checkpoint = LattePipeline.from_pretrained(tmp_path / "run/checkpoints/step-0000004", **parts)
    ended = LattePipeline.from_pretrained(final, **parts)
    assert same(checkpoint.transformer.state_dict(), ended.transformer.state_dict())
    asked = ["sample", "run", "--prompt", "a red star", "--steps", "2", "--out", "made", "--device", "cpu"]
    assert main(asked) == 2
    assert f"no text encoder: name the one that it was trained with, {published.name} (" in capsys.readouterr().err
    assert main([*asked, "--text-encoder", str(published)]) == 0
    said = capsys.readouterr().out
    assert f"--text-encoder {published}" in said and digest(published / "text_encoder" / SHARDS[0]) in said
    apart = ["--text-encoder", f"{published}/text_encoder", "--tokenizer", f"{published}/tokenizer"]
    first = (tmp_path / "made/000-a-red-star.mp4").read_bytes()
    assert main([*asked, *apart, "--overwrite"]) == 0 and (tmp_path / "made/000-a-red-star.mp4").read_bytes() == first
    assert (
        main([*asked, "--overwrite", *apart[2:]]) == 2 and "nothing without --text-encoder" in capsys.readouterr().err
    )
    assert main([*asked, "--overwrite", "--text-encoder", str(vae), *apart[2:]]) == 2
    assert f"error: {vae} is a VAE, not a T5 encoder\n" in capsys.readouterr().err


def test_presets_train_on_stored_caption_embeddings(published, pipe, vae, tmp_path, monkeypatch):
    """The presets for the published model do, and dropped captions change what is learned."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "latents"
    encode_with_captions(published, vae, out)
    tuned = t2v_config(read_json(published / "transformer/config.json"))
    shape = {name: getattr(tuned, name) for name in PRESETS["t2v"].model}
    less = ["data=shapes", "frame_interval=1", "steps=1", f"vae={vae}", f"latents={out}", f"model={json.dumps(shape)}"]
    for preset in ("t2v", "t2v-finetune"):
        changes = [*SMALL, *less, *([f"init={published}"] if PRESETS[preset].init else [])]
        assert main(["train", "--config", preset, "--run", preset, "--device", "cpu", *changes]) == 0
        trained = load_file(tmp_path / preset / "final/transformer/model.safetensors")
        assert {k: z.shape for k, z in trained.items()} == {
            k: z.shape for k, z in pipe.transformer.state_dict().items()
        }
    plain = small_t2v(vae, "steps=4", f"latents={out}")
    with pytest.raises(ValueError, match="text_encoder does nothing with stored embeddings"):
        run(plain, tmp_path / "no")
    kept = replace(plain, text_encoder={})
    run(kept, tmp_path / "kept")
    run(replace(kept, caption_dropout=1.0), tmp_path / "dropped")
    one, other = (load_file(tmp_path / name / "final/transformer/model.safetensors") for name in ("kept", "dropped"))
    assert not same(one, other)


def test_videos_of_stored_latents_may_move(vae, videos, tmp_path, monkeypatch):
    """They are identified by content; they need not exist under the path that was encoded."""
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(videos, tmp_path / "data")
    config = small(vae, "data=data")
    encode_latents.encode_data_set(config, open_clips(config), tmp_path / "latents")
    stored = lambda data: replace(config, data=str(data), latents=str(tmp_path / "latents"))
    for path in (data, "data/"):
        assert source(stored(path), vae).clips.num_videos == 3
    data.rename("moved")
    for path in ("moved", "data"):
        assert source(stored(path), vae).clips.num_videos == 3
    before = {path.name: path.read_bytes() for path in (tmp_path / "latents").glob("shard*")}
    moved = small(vae, "data=moved")
    encode_latents.encode_data_set(moved, open_clips(moved), tmp_path / "latents")
    assert {path.name: path.read_bytes() for path in (tmp_path / "latents").glob("shard*")} == before
    shutil.copytree("moved", "other")
    (tmp_path / "other/a/x.mkv").unlink()
    for path, reason in (("other", "they are of other videos"), ("nowhere", "nowhere")):
        with pytest.raises(ValueError, match=rf"with data='moved', but the run has '{path}': .*{reason}.*; give"):
            source(stored(path), vae)
    with pytest.raises(ValueError, match="encoded with data='moved', but the run has 'shapes': encode again"):
        source(stored("shapes"), vae)


def test_latents_and_clips_are_not_confused(vae, videos, tmp_path):
    config = small(vae, f"data={videos}")
    encode_latents.encode_data_set(config, open_clips(config), tmp_path / "latents")
    stored = replace(config, latents=str(tmp_path / "latents"))
    with pytest.raises(ValueError, match="needs a folder of latents, not a FolderClips"):
        train(stored, tmp_path / "run", open_clips(stored))
    with pytest.raises(ValueError, match="latents=once needs clips, not a LatentFolder"):
        train(config, tmp_path / "run", open_data(stored))
    assert not (tmp_path / "run").exists()


def flip(path, place=-9):
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_shard_is_refused_by_training_and_encoded_anew_by_encode(vae, videos, tmp_path):
    """`latte encode` must not record the checksum of a damaged shard, which would make it look valid."""
    config, out = small(vae, f"data={videos}", "steps=1"), tmp_path / "latents"
    encode = lambda: encode_latents.encode_data_set(config, open_clips(config), out, shard_size=1)
    encode()
    index, shard, sound = (out / "index.json").read_bytes(), out / "shard-00001.safetensors", None
    stored = replace(config, latents=str(out))
    for place in (-9, 40):  # in the numbers, and in the shard's own metadata
        sound = shard.read_bytes()
        flip(shard, place)
        with pytest.raises(ValueError, match=r"shard-00001\.safetensors is damaged: run `latte encode` again"):
            run(stored, tmp_path / "run")
        with pytest.warns(UserWarning, match=r"shard-00001\.safetensors is damaged or was not finished"):
            encode()
        assert shard.read_bytes() == sound and (out / "index.json").read_bytes() == index
    (out / "index.json").unlink()
    flip(shard)
    with pytest.warns(UserWarning, match="damaged"):
        encode()
    assert (out / "index.json").read_bytes() == index
    source(stored, vae).prepare([range(4)], 0)


def test_latents_of_earlier_versions(vae, videos, tmp_path):
    """Their shards have no digest and identify the data by names and sizes. Finished ones stay as they are."""
    config, out = small(vae, f"data={videos}"), tmp_path / "latents"
    clips = open_clips(config)
    clips.fingerprint, content = clips.former_fingerprint, clips.fingerprint
    encode_latents.encode_data_set(config, clips, out, shard_size=1)
    for shard in out.glob("shard-*"):
        notes = encode_latents.read_notes(shard)
        del notes["sha256"]
        save_file(load_file(shard), shard, metadata={"latte": json.dumps(notes)})
    index = json.loads((out / "index.json").read_text())
    index["files"] = {shard.name: encode_latents.about(shard) for shard in sorted(out.glob("shard-*"))}
    (out / "index.json").write_text(json.dumps(index))
    encode_latents.encode_data_set(config, open_clips(config), out, shard_size=1)
    assert json.loads((out / "index.json").read_text()) == index and index["source"] != content
    (out / "index.json").unlink()
    with pytest.warns(UserWarning, match="is damaged or was not finished"):
        encode_latents.encode_data_set(config, open_clips(config), out, shard_size=1)
    assert json.loads((out / "index.json").read_text())["files"] != index["files"]
