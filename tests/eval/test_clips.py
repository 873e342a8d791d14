"""Which clips a protocol selects from which videos, how they are read, and where their features are cached."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_detector import CALLS, DETECTOR, sketch
from PIL import Image

from latte.commands.sample import show
from latte.eval import features as features_module
from latte.eval.clip_sets import choose_clips
from latte.eval.features import UNIT, Detector, Store, features_of, fill
from latte.eval.protocol import PROTOCOLS, adjusted
from latte.eval.video_pairs import match_pairs
from latte.shapes.draw import make_clip
from latte.video.pixels import resize_and_crop
from latte.video.write import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve losslessly stored videos of 50 frames, and one of 10."""
    root = tmp_path_factory.mktemp("clips")
    for i in range(12):
        write_video(make_clip(5, i, frames=50, size=24).video, root / f"class-{i % 2}" / f"{i}.mkv")
    write_video(make_clip(5, 12, frames=10, size=24).video, root / "short.mkv")
    return root


def test_protocol_settings_match_their_sources():
    assert [(p.frames, p.real_stride, p.generated_stride) for p in PROTOCOLS.values()] == [
        (16, 1, 1),
        (16, 1, 1),
        (128, 1, 1),
        (16, 8, 8),
        (16, 3, 1),
        (16, 6, 1),
        (16, 1, 1),
        (16, 1, 1),
        (16, 3, 1),
    ]
    assert PROTOCOLS["tf"].unbiased and PROTOCOLS["tf"].resize == "squash-tf1"
    assert {p.clips for p in PROTOCOLS.values()} == {2048} and PROTOCOLS["cd-fvd"].eps == 1e-5
    assert {p.eps for name, p in PROTOCOLS.items() if name != "cd-fvd"} == {1e-3}
    far = PROTOCOLS["far"]  # showlab/FAR, far/data/ucf_dataset.py, far/metrics/fvd.py (numpy.cov), FAR_XL's settings
    assert (far.order, far.real_crop, far.unbiased, far.real_start) == ("class", 256, True, "zero")
    assert [far.stride_in("real", frames) for frames in (15, 16, 45, 46)] == [0, 1, 1, 3]
    assert [PROTOCOLS["latte"].stride_in("real", frames) for frames in (47, 48)] == [0, 3]
    assert [far.stride_in("generated", frames) for frames in (15, 16)] == [0, 1]


def test_far_uses_stride_1_for_short_videos_and_bilinear_resizing(tmp_path):
    """Like showlab/FAR's UCFDataset with torchvision's Resize, which is PyTorch's interpolation."""
    drawn = {name: make_clip(5, 0, frames=frames, size=24).video for name, frames in (("a/x", 40), ("b/y", 46))}
    for name, video in drawn.items():
        write_video(video, tmp_path / f"{name}.mkv")
    chosen = choose_clips(tmp_path, adjusted("far", real_crop=40), "real", 0)
    assert {clip.name: clip.stride for clip in chosen.clips} == {"a/x.mkv": 1, "b/y.mkv": 3} and not chosen.short
    for clip, frames in zip(chosen.clips, chosen.stream(chosen.clips)):
        video = torch.as_tensor(drawn[clip.name.removesuffix(".mkv")])[:: clip.stride][:16]
        wanted = F.interpolate(video.float(), (40, 40), mode="bilinear", antialias=True)
        assert (frames - wanted).abs().max() < 0.501 and not torch.equal(frames, resize_and_crop(video, 40))
    far = PROTOCOLS["far"]
    bicubic = replace(far, real_crop=40, crop_filter="bicubic")
    assert chosen.fingerprint != choose_clips(tmp_path, bicubic, "real", 0).fingerprint
    assert far.record["crop_filter"] == "bilinear" and not {"crop_filter", "short_real"} & PROTOCOLS["tf"].record.keys()


def test_a_modified_protocol_is_named_accordingly():
    assert adjusted("latte") == PROTOCOLS["latte"] == adjusted("latte", clips=2048)
    changed = adjusted("latte", clips=64, eps=1e-5)
    assert changed.name == "latte, clips 64, eps 1e-05" and (changed.clips, changed.eps) == (64, 1e-5)
    with pytest.raises(ValueError, match="no protocol is called 'lattte'"):
        adjusted("lattte")
    with pytest.raises(ValueError, match="clips is 0; it must be more than 0"):
        adjusted("latte", clips=0)


def test_clips_are_chosen_by_name_and_seed_alone(folder, tmp_path):
    latte = adjusted("latte", clips=5)
    real = choose_clips(folder, latte, "real", 0)
    assert real == choose_clips(folder, latte, "real", 0) and len(real.clips) == 5
    assert {clip.stride for clip in real.clips} == {3}
    assert {clip.stride for clip in choose_clips(folder, latte, "generated", 0).clips} == {1}
    other = choose_clips(folder, latte, "real", 1)
    assert [clip.name for clip in other.clips] != [clip.name for clip in real.clips]
    everything = choose_clips(folder, PROTOCOLS["latte"], "real", 0)
    assert everything.short == ("short.mkv",)
    # adding a video leaves the clips of the others unchanged
    for path in sorted(folder.rglob("*.mkv"))[:8]:
        (tmp_path / path.relative_to(folder)).parent.mkdir(exist_ok=True)
        (tmp_path / path.relative_to(folder)).write_bytes(path.read_bytes())
    fewer = choose_clips(tmp_path, PROTOCOLS["latte"], "real", 0)
    assert set(fewer.clips) < set(everything.clips)


def test_order_and_starts_follow_the_protocol(folder):
    stylegan = choose_clips(folder, adjusted("stylegan-v", clips=4), "real", 0)
    assert [clip.name for clip in stylegan.clips] == [f"class-0/{i}.mkv" for i in (0, 10, 2, 4)]  # in string order
    assert any(clip.start for clip in stylegan.clips)
    assert not any(clip.start for clip in choose_clips(folder, PROTOCOLS["stylegan-v"], "generated", 0).clips)
    exact = choose_clips(folder, PROTOCOLS["exact"], "generated", 0)
    assert any(clip.start for clip in exact.clips) and exact.codecs == {"ffv1": 12}
    starts = {
        clip.start
        for seed in range(30)
        for clip in choose_clips(folder, adjusted("exact", frames=49), "real", seed).clips
    }
    assert starts == {0, 1}  # every start of 49 frames in 50, including the last


def test_unmeasurable_folders_are_rejected(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no video of 128 frames or more.*: 13 videos"):
        choose_clips(folder, PROTOCOLS["stylegan-v-128f"], "real", 0)
    with pytest.raises(FileNotFoundError, match="no folder of videos"):
        choose_clips(tmp_path / "none", PROTOCOLS["exact"], "real", 0)
    write_video(make_clip(5, 0, size=64).video, tmp_path / "a.mp4")
    assert choose_clips(tmp_path, PROTOCOLS["exact"], "real", 0).codecs == {"h264": 1}
    with pytest.raises(ValueError, match="h264, which may lose"):
        choose_clips(tmp_path, PROTOCOLS["exact"], "generated", 0)
    assert choose_clips(tmp_path, PROTOCOLS["latte"], "generated", 0).clips


def test_clips_are_read_in_order_with_their_stride(folder):
    chosen = choose_clips(folder, PROTOCOLS["stylegan-v"], "generated", 0)
    wide = tuple(replace(clip, stride=2) for clip in chosen.clips)
    for clip, video in zip(wide, chosen.stream(wide, workers=2)):
        drawn = make_clip(5, int(Path(clip.name).stem), frames=50, size=24).video
        assert np.array_equal(video.numpy(), drawn[:32:2])


def test_real_frames_are_cut_as_in_training(tmp_path):
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 3, 24, 40), np.uint8))
    write_video(video, tmp_path / "wide.mkv")
    chosen = lambda side, **change: choose_clips(tmp_path, adjusted("exact", **change), side, 0)
    plain, cut = chosen("real"), chosen("real", real_crop=12)
    read = lambda clips: next(clips.stream(clips.clips))
    assert torch.equal(read(cut), resize_and_crop(video, 12)) and torch.equal(read(plain), video)
    assert (plain.sizes, cut.sizes) == ({"40x24": 1}, {"12x12": 1}) and plain.fingerprint != cut.fingerprint
    assert torch.equal(read(chosen("generated", real_crop=12)), video)
    assert adjusted("exact", real_crop=12).name == "exact, cropped to 12 x 12"
    for size, say in ((-1, "more than 0"), (5000, "4096 or less")):
        with pytest.raises(ValueError, match=f"real_crop is {size}; it must be {say}"):
            adjusted("exact", real_crop=size)


def test_features_are_computed_once_and_cached_per_clip_set(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "UNIT", 16)
    clips = choose_clips(folder, PROTOCOLS["exact"], "real", 0)
    many = replace(clips, clips=clips.clips * 2)  # 24: two units
    store = Store(tmp_path, many, DETECTOR)
    assert len(store.units) == 2 and UNIT == 64
    fill([store], rank=1, size=2)
    assert store.missing() == [0]
    fill([store], rank=0, size=2)
    found = store.all()
    CALLS.clear()
    fill([Store(tmp_path, many, DETECTOR)])
    assert not CALLS and Store(tmp_path, many, DETECTOR).all().equal(found)
    memory = Store(None, many, DETECTOR)
    fill([memory])
    assert memory.all().equal(found) and set(CALLS) == {8}  # the last batch is padded
    assert found[:12].equal(features_of([DETECTOR], map(clips.read, clips.clips), 16)[0])
    other = Detector({**DETECTOR.record, "eps": 1e-5}, sketch)
    moved = replace(many, clips=tuple(replace(clip, sha256="0") for clip in many.clips))
    assert Store(tmp_path, many, other).missing() == Store(tmp_path, moved, DETECTOR).missing() == [0, 1]


def test_processes_share_units_in_any_order(folder, tmp_path, monkeypatch):
    """The second process lists the missing units after the first is done: none is left out."""
    monkeypatch.setattr(features_module, "UNIT", 8)
    clips = choose_clips(folder, PROTOCOLS["exact"], "real", 0)
    many = replace(clips, clips=clips.clips * 4)  # 48: six units
    for rank in (0, 1, 2):
        fill([Store(tmp_path, many, DETECTOR)], rank, 3)
    assert Store(tmp_path, many, DETECTOR).missing() == []


def test_videos_of_one_name_and_size_are_told_apart(tmp_path):
    for name, value in (("a", 0), ("b", 9)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "0.npz", video=np.full((16, 8, 8, 3), value, np.uint8))
    a, b = (choose_clips(tmp_path / name, PROTOCOLS["exact"], "real", 0) for name in "ab")
    assert a.clips[0].name == b.clips[0].name and a.fingerprint != b.fingerprint
    stores = [Store(tmp_path / "features", clips, DETECTOR) for clips in (a, b)]
    fill(stores[:1])
    assert stores[0].missing() == [] and stores[1].missing() == [0]
    assert a.sizes == {"8x8": 1} and a.codecs == {"npz": 1}


def test_generated_clip_starts_follow_each_protocol():
    """Latte's own tool, like StyleGAN-V's, takes the first frames: Vchitect/Latte, frechet_video_distance.py."""
    having = lambda field, value: {name for name, protocol in PROTOCOLS.items() if getattr(protocol, field) == value}
    assert having("generated_start", "seed") == {"exact", "cd-fvd"} and having("real_start", "zero") == {"tf", "far"}
    assert having("order", "seed") == {"exact", "latte", "latte-taichi", "cd-fvd"} and having("order", "class") == {
        "far"
    }


def test_preview_grids_are_not_evaluated_as_samples(tmp_path):
    videos = torch.from_numpy(np.stack([make_clip(5, i, size=16).video for i in range(2)]))
    show(videos, ["a", "b"], tmp_path, 8, {})
    assert [clip.name for clip in choose_clips(tmp_path, PROTOCOLS["latte"], "generated", 0).clips] == sorted(
        path.name for path in tmp_path.glob("*.mp4")
    )
    assert len(match_pairs(tmp_path, tmp_path)) == 2


def test_pairs_with_similar_names_are_kept_apart(tmp_path):
    for name in ("clip.1", "clip.2"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "0.png")
    assert len(match_pairs(tmp_path, tmp_path)) == 2
    for suffix in ("mp4", "mkv"):
        write_video(make_clip(5, 1, size=16).video, tmp_path / f"twice.{suffix}")
    with pytest.raises(ValueError, match="have the same name: rename one"):
        match_pairs(tmp_path, tmp_path)


def test_set_descriptions_list_the_videos_left_out(folder):
    found = choose_clips(folder, PROTOCOLS["exact"], "real", 0).about
    assert (found["videos"], found["clips"], found["too_short"], found["first_too_short"]) == (13, 12, 1, "short.mkv")
