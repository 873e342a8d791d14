"""`latte eval VAE --reference VIDEOS`: how far a VAE's reconstructions are from the videos."""

import json
import shutil

import numpy as np
import pytest
import torch

from latte.cli import main
from latte.eval import compare_reconstructions, psnr, ssim
from latte.shapes.draw import make_clip
from latte.video.pixels import from_uint8, resize_and_crop, to_uint8
from latte.weights.find_models import find_model
from latte.weights.manifest import digest
from latte.weights.vae_folder import load_vae

VAE = "shapes/vae"
CLIPS = np.stack([make_clip(7, i, frames=20, size=48).video for i in range(3)])  # longer than a clip of 16 frames


@pytest.fixture
def folder(tmp_path):
    """Three videos of 20 frames, 48 x 48."""
    for i, clip in enumerate(CLIPS):
        np.savez(tmp_path / f"videos-{i}.npz", clip)
    return tmp_path


def reconstructed(videos: torch.Tensor) -> torch.Tensor:
    vae = load_vae(find_model(VAE))
    with torch.no_grad():
        return to_uint8(vae.decode(vae.encode(from_uint8(videos))).clamp(-1, 1))


def test_it_compares_each_video_with_its_reconstruction(folder):
    videos = torch.from_numpy(CLIPS)
    copies = reconstructed(videos)
    found = compare_reconstructions(find_model(VAE), folder)
    assert found.pairs == 3 and set(found.means) == {"psnr", "ssim", "flicker", "reference_flicker"}
    assert found.means["psnr"] == pytest.approx(psnr(copies, videos), abs=1e-3) and 30 < found.means["psnr"] < 60
    assert found.means["ssim"] == pytest.approx(ssim(copies, videos), abs=1e-6)


def test_frames_are_cropped_as_in_training(folder):
    videos = torch.stack([resize_and_crop(torch.from_numpy(clip), 32) for clip in CLIPS])
    found = compare_reconstructions(find_model(VAE), folder, crop=32)
    assert found.means["psnr"] == pytest.approx(psnr(reconstructed(videos), videos), abs=1e-3)
    assert found.means["psnr"] != pytest.approx(compare_reconstructions(find_model(VAE), folder).means["psnr"], abs=0.1)


def test_the_command_records_the_vae(folder, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["eval", VAE, "--reference", str(folder), "--real-crop", "32", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert f"3 pairs; psnr {result['psnr']:.4f}" in capsys.readouterr().out
    weights = find_model(VAE) / "model.safetensors"
    assert result["vae_sha256"] == {"model.safetensors": digest(weights)} and result["reference"] == str(folder)


def test_wrong_arguments_are_named(folder, capsys):
    cases = {
        "real_crop is 0; it must be a whole number, from 1": [VAE, "--real-crop", "0"],
        "real_crop is -5; it must be": [VAE, "--real-crop=-5"],
        "frames have a side of 30 pixels; this VAE encodes multiples of 8; crop": [VAE, "--real-crop", "30"],
        "but shapes is neither: name its VAE, shapes/vae, or videos": ["shapes"],
        "but shapes-features is neither: name a VAE or videos": ["shapes-features"],
        "--real-crop does nothing with --reference: leave it out": [str(folder), "--real-crop", "32"],
        "--frames does nothing with --reference: leave it out": [VAE, "--frames", "16"],
        "no model at nothing; give a path": ["nothing"],
        "no model at shapes/vea: did you mean shapes/vae?": ["shapes/vea"],
    }
    for say, words in cases.items():
        assert main(["eval", *words[:1], "--reference", str(folder), *words[1:]]) == 2
        assert say in capsys.readouterr().err, words
    assert main(["eval", VAE, "--reference", str(folder / "missing")]) == 2
    assert "no folder of videos at" in capsys.readouterr().err


def test_a_run_and_a_folder_with_the_name_of_a_model_are_what_they_are(folder, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(find_model(VAE), run / "final")
    (run / "checkpoints").mkdir()
    out = tmp_path / "out.json"
    assert main(["eval", str(run), "--reference", str(folder), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["vae_sha256"]
    shutil.copytree(folder, tmp_path / "here/shapes", ignore=shutil.ignore_patterns("run", "here", "out.json"))
    monkeypatch.chdir(tmp_path / "here")
    assert main(["eval", "shapes", "--reference", "shapes", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["psnr"] == 100


def test_a_damaged_video_is_left_out(folder, capsys):
    wanted = compare_reconstructions(find_model(VAE), folder)
    (folder / "damaged.npz").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        found = compare_reconstructions(find_model(VAE), folder)
    assert found.means == wanted.means and list(found.unreadable) == [str(folder / "damaged.npz")]
    for i in range(3):
        (folder / f"videos-{i}.npz").write_bytes(b"")
    assert main(["eval", VAE, "--reference", str(folder)]) == 2
    assert f"{folder}: " in capsys.readouterr().err.splitlines()[-1]
