"""Latents that are encoded once are kept in the run, in parts."""

import json
import os
import shutil
import signal

import pytest
import torch
from forks import fork, status, together
from small_runs import run, same, small, tensors

from latte.diffusion.randomness import generator
from latte.fast import onednn
from latte.train.checkpoint import latest
from latte.train.data import kept_latents, latents
from latte.train.data.clip_order import Draw
from latte.train.data.kept_latents import KEPT_LATENTS, KEPT_TOGETHER, EncodedClips, KeptLatents, digest_tensors
from latte.train.data.latents import EncodedOnce, open_data, scaled_posterior
from latte.video.write import write_video
from latte.weights.tensors import write_tensors
from latte.weights.vae_folder import load_vae

PARTS = [f"part-0000{i}.safetensors" for i in range(3)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(kept_latents, "CLIPS_OF_A_PART", 5)  # of the 12 clips of a small run


@pytest.fixture
def encoded(monkeypatch):
    """The numbers of the clips that this process encodes."""
    numbers, one = [], EncodedOnce.encode_clip
    monkeypatch.setattr(EncodedOnce, "encode_clip", lambda self, i: numbers.append(i) or one(self, i))
    return numbers


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / KEPT_LATENTS).iterdir()}


def test_a_resumed_run_encodes_nothing_and_is_bit_exact(vae, encoded, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(small(vae, "steps=3", "sample_latents=true"), whole)
    run(small(vae, "steps=1", "sample_latents=true"), parts)
    before = contents(parts)
    assert encoded == [*range(12), *range(12)] and sorted(before) == PARTS and before == contents(whole)
    run(small(vae, "steps=2", "sample_latents=true"), parts)
    assert len(encoded) == 24
    damaged = before[PARTS[1]]
    (parts / KEPT_LATENTS / PARTS[1]).write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    shutil.copy(parts / KEPT_LATENTS / PARTS[1], parts / KEPT_LATENTS / PARTS[2])  # a part of other clips
    with pytest.warns(UserWarning, match=f"{PARTS[1]} is damaged; its clips are encoded again") as warned:
        run(small(vae, "steps=3", "sample_latents=true"), parts)
    assert len(warned) == 1 and encoded[24:] == [*range(5, 12)] and contents(parts) == before
    assert same(tensors(latest(whole)), tensors(latest(parts)))


def test_a_window_is_encoded_once_however_many_clips_take_it(vae, tmp_path, monkeypatch):
    for name in "ab":
        write_video(torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), tmp_path / f"videos/{name}.mkv")
    config = small(vae, f"data={tmp_path / 'videos'}", "motion_frames=0", "frame_interval=1", "clips=40")
    clips, network, seen = open_data(config), load_vae(vae), []
    counting = lambda network, video: seen.append(video) or scaled_posterior(network, video)
    monkeypatch.setattr(latents, "scaled_posterior", counting)
    source = EncodedOnce(network, clips, config)
    source.prepare([], 0)
    assert len(seen) == len(clips.videos) * 3  # windows of 4 of 6 frames
    for i in range(40):
        video = clips.clip(i, generator(config.seed, i, Draw.WINDOW)).video
        mean, deviation = scaled_posterior(network, video[None])
        assert torch.equal(source.mean[i], mean[0]) and torch.equal(source.deviation[i], deviation[0])


def test_a_run_killed_while_encoding_encodes_only_the_rest(vae, encoded, tmp_path, monkeypatch):
    config, counted = small(vae, "steps=1"), EncodedOnce.encode_clip
    run(config, tmp_path / "whole")
    killing = lambda self, i: os.kill(os.getpid(), signal.SIGKILL) if i == 7 else counted(self, i)
    monkeypatch.setattr(EncodedOnce, "encode_clip", killing)
    assert status(fork(lambda: run(config, tmp_path / "killed"), tmp_path / "log")) == -signal.SIGKILL
    assert sorted(contents(tmp_path / "killed")) == PARTS[:1]
    monkeypatch.setattr(EncodedOnce, "encode_clip", counted)
    del encoded[:]
    run(config, tmp_path / "killed")
    assert encoded == [*range(5, 12)] and contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert same(tensors(latest(tmp_path / "whole")), tensors(latest(tmp_path / "killed")))


def test_latents_of_another_library_are_encoded_again_unless_the_run_has_begun(vae, encoded, tmp_path, monkeypatch):
    faster = lambda yes: monkeypatch.setattr(onednn, "measured_faster", lambda: yes)
    config, one = small(vae, "steps=1"), EncodedOnce.encode_clip
    killing = lambda self, i: os.kill(os.getpid(), signal.SIGKILL) if i == 7 else one(self, i)
    faster(True)
    monkeypatch.setattr(EncodedOnce, "encode_clip", killing)
    assert status(fork(lambda: run(config, tmp_path / "killed"), tmp_path / "log")) == -signal.SIGKILL
    monkeypatch.setattr(EncodedOnce, "encode_clip", one)
    faster(False)
    run(config, tmp_path / "killed")
    assert encoded == [*range(12)]
    run(config, tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    del encoded[:]
    faster(True)
    run(small(vae, "steps=2"), tmp_path / "killed")
    assert not encoded


def test_two_processes_encode_half_each_and_again_if_one_lacks_a_part(vae, tmp_path, monkeypatch):
    alone, both, noted, one = tmp_path / "alone", tmp_path / "both", tmp_path / "noted", EncodedOnce.encode_clip

    def note(self, i):
        with noted.open("a") as file:
            file.write(f"{self.ranks.rank} {i}\n")
        return one(self, i)

    monkeypatch.setattr(EncodedOnce, "encode_clip", note)
    run(small(vae, "steps=1"), alone)
    noted.unlink()
    together(2, lambda: run(small(vae, "steps=1"), both), tmp_path / "log")
    expected = sorted([i % 5 % 2, i] for i in range(12))
    lines = lambda: sorted([int(word) for word in line.split()] for line in noted.read_text().splitlines())
    assert lines() == expected and contents(both) == contents(alone)
    noted.unlink()
    read = KeptLatents.read
    lacking = lambda self, numbers: read(self, numbers) if self.writes or numbers.start != 5 else None
    monkeypatch.setattr(KeptLatents, "read", lacking)
    together(2, lambda: run(small(vae, "steps=2"), both), tmp_path / "log")
    assert lines() == [pair for pair in expected if 5 <= pair[1] < 10] and contents(both) == contents(alone)


def test_the_single_file_of_earlier_versions_is_read(vae, encoded, tmp_path, monkeypatch):
    folder, made = tmp_path / "run", []
    own = KeptLatents.write
    monkeypatch.setattr(KeptLatents, "write", lambda self, *part: made.append((self, part[1])) or own(self, *part))
    run(small(vae, "steps=1"), folder)
    shutil.rmtree(folder / KEPT_LATENTS)
    values = {name: torch.cat([getattr(part, name) for _, part in made]) for name in ("mean", "deviation")}
    notes = {name: [z for _, part in made for z in getattr(part, name)] for name in ("labels", "captions")}
    notes = {"made_from": made[0][0].made_from, **notes}
    notes["sha256"] = digest_tensors(values, notes)
    write_tensors(folder / KEPT_TOGETHER, values, {"latte": json.dumps(notes)})
    del encoded[:]
    run(small(vae, "steps=2"), folder)
    assert not encoded and not (folder / KEPT_LATENTS).exists()
    (folder / KEPT_TOGETHER).write_bytes((folder / KEPT_TOGETHER).read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{KEPT_TOGETHER} is damaged; its clips are encoded again"):
        run(small(vae, "steps=3"), folder)
    assert encoded == [*range(12)] and sorted(contents(folder)) == PARTS
    run(small(vae, "steps=4"), folder)  # the damaged file is not looked at again
    assert len(encoded) == 12


def test_kept_latents_of_another_origin_are_not_used(tmp_path, monkeypatch, recwarn):
    clips = EncodedClips(torch.randn(2, 3, 4, 2, 2), torch.rand(2, 3, 4, 2, 2), [1, 0], ["a", "b"])
    kept, numbers = KeptLatents(tmp_path, "this", True), range(2)
    assert kept.read(numbers) is None
    kept._replace(writes=False).write(numbers, clips)
    assert kept.read(numbers) is None  # another process writes
    kept.write(numbers, clips)
    found = kept.read(numbers)
    assert torch.equal(found.mean, clips.mean) and torch.equal(found.deviation, clips.deviation)
    assert found[2:] == clips[2:] and kept._replace(made_from="that").read(numbers) is None and not recwarn
    assert kept.read(range(3)) is None  # a part of another number of clips

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_latents, "write_tensors", full)
    message = "latents lacks parts, so a resumed run encodes their clips again: No space left on device"
    with pytest.warns(UserWarning, match=message):
        kept.write(numbers, clips)
