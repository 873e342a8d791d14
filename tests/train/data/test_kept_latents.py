"""Latents that are encoded once are kept in the run."""

import pytest
import torch
from forks import together
from small_runs import run, same, small, tensors

from latte.train.checkpoint import latest
from latte.train.data import kept_latents
from latte.train.data.kept_latents import KEPT_LATENTS, EncodedClips, KeptLatents
from latte.train.data.latents import EncodedOnce


def test_a_resumed_run_encodes_nothing_and_is_bit_exact(vae, tmp_path, monkeypatch):
    counted, encode = [], EncodedOnce.encode
    monkeypatch.setattr(EncodedOnce, "encode", lambda self: counted.append(1) or encode(self))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(small(vae, "steps=3", "sample_latents=true"), whole)
    run(small(vae, "steps=1", "sample_latents=true"), parts)
    before = (parts / KEPT_LATENTS).read_bytes()
    assert len(counted) == 2 and before == (whole / KEPT_LATENTS).read_bytes()
    run(small(vae, "steps=2", "sample_latents=true"), parts)
    assert len(counted) == 2
    (parts / KEPT_LATENTS).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.warns(UserWarning, match=f"{KEPT_LATENTS} is damaged; the clips are encoded again"):
        run(small(vae, "steps=3", "sample_latents=true"), parts)
    assert len(counted) == 3 and (parts / KEPT_LATENTS).read_bytes() == before
    assert same(tensors(latest(whole)), tensors(latest(parts)))


def test_two_processes_encode_half_each_and_again_if_one_lacks_the_file(vae, tmp_path, monkeypatch):
    alone, both, encoded, one = tmp_path / "alone", tmp_path / "both", tmp_path / "encoded", EncodedOnce.encode_clip

    def noted(self, i):
        with encoded.open("a") as file:
            file.write(f"{self.ranks.rank} {i}\n")
        return one(self, i)

    monkeypatch.setattr(EncodedOnce, "encode_clip", noted)
    run(small(vae, "steps=1"), alone)
    clips = len(encoded.read_text().split("\n")) - 1
    encoded.unlink()
    together(2, lambda: run(small(vae, "steps=1"), both), tmp_path / "log")
    expected = sorted([i % 2, i] for i in range(clips))
    assert sorted([int(word) for word in line.split()] for line in encoded.read_text().splitlines()) == expected
    assert (both / KEPT_LATENTS).read_bytes() == (alone / KEPT_LATENTS).read_bytes()
    encoded.unlink()
    read = KeptLatents.read
    monkeypatch.setattr(KeptLatents, "read", lambda self: read(self) if self.writes else None)
    together(2, lambda: run(small(vae, "steps=2"), both), tmp_path / "log")
    assert len(encoded.read_text().splitlines()) == clips


def test_kept_latents_of_another_origin_are_not_used(tmp_path, monkeypatch, recwarn):
    clips = EncodedClips(torch.randn(2, 3, 4, 2, 2), torch.rand(2, 3, 4, 2, 2), [1, 0], ["a", "b"])
    kept = KeptLatents(tmp_path / KEPT_LATENTS, "this", True)
    assert kept.read() is None
    kept._replace(writes=False).write(clips)
    assert kept.read() is None  # another process writes
    kept.write(clips)
    found = kept.read()
    assert torch.equal(found.mean, clips.mean) and torch.equal(found.deviation, clips.deviation)
    assert found[2:] == clips[2:] and kept._replace(made_from="that").read() is None and not recwarn

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_latents, "write_tensors", full)
    with pytest.warns(UserWarning, match="is not written, so a resumed run encodes again"):
        kept.write(clips)
