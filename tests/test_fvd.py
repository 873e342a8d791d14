"""Clips, protocols, stored features and results: what `latte eval --real` rests on."""

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latte.cli import main
from latte.eval.clips import choose_clips
from latte.eval.features import UNIT, Detector, Store, features_of, fill
from latte.eval.frechet import Moments, distance
from latte.eval.fvd import Side, check_comparable, compared, measure
from latte.eval.pairs import paired
from latte.eval.protocol import PROTOCOLS, adjusted
from latte.eval.statistics import read_statistics
from latte.sample import show
from latte.shapes import make_clip
from latte.tensors import CheckpointError
from latte.train.transforms import resize_and_crop
from latte.video import write_video

CALLS = []


def sketch(clips) -> torch.Tensor:
    """Features of clips without a network: each channel's mean and spread of the first and of the last frame."""
    CALLS.append(len(clips))
    return torch.stack(
        [torch.cat([part.float().mean((1, 2)) for part in (c[0], c[-1], c.float().std(0))]) for c in clips]
    )


DETECTOR = Detector({"metric": "sketch", "name": "sketch", "network": "none"}, sketch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve videos of 50 frames without loss, and one of 10."""
    root = tmp_path_factory.mktemp("clips")
    for i in range(12):
        write_video(make_clip(5, i, frames=50, size=24).video, root / f"class-{i % 2}" / f"{i}.mkv")
    write_video(make_clip(5, 12, frames=10, size=24).video, root / "short.mkv")
    return root


def test_the_rows_of_the_table_are_what_their_sources_say():
    assert [(p.frames, p.real_stride, p.generated_stride) for p in PROTOCOLS.values()] == [
        (16, 1, 1),
        (16, 1, 1),
        (128, 1, 1),
        (16, 8, 8),
        (16, 3, 1),
        (16, 6, 1),
        (16, 1, 1),
    ]
    assert PROTOCOLS["tf"].unbiased and PROTOCOLS["tf"].resize == "squash-tf1"
    assert {p.clips for p in PROTOCOLS.values()} == {2048} and {p.eps for p in PROTOCOLS.values()} == {1e-3}


def test_a_changed_protocol_says_so():
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
    # a video more changes none of the others' clips
    for path in sorted(folder.rglob("*.mkv"))[:8]:
        (tmp_path / path.relative_to(folder)).parent.mkdir(exist_ok=True)
        (tmp_path / path.relative_to(folder)).write_bytes(path.read_bytes())
    fewer = choose_clips(tmp_path, PROTOCOLS["latte"], "real", 0)
    assert set(fewer.clips) < set(everything.clips)


def test_order_and_starts_follow_the_protocol(folder):
    stylegan = choose_clips(folder, adjusted("stylegan-v", clips=4), "real", 0)
    assert [clip.name for clip in stylegan.clips] == [f"class-0/{i}.mkv" for i in (0, 10, 2, 4)]  # as strings
    assert any(clip.start for clip in stylegan.clips)
    assert not any(clip.start for clip in choose_clips(folder, PROTOCOLS["stylegan-v"], "generated", 0).clips)
    exact = choose_clips(folder, PROTOCOLS["exact"], "generated", 0)
    assert any(clip.start for clip in exact.clips) and exact.codecs == {"ffv1": 12}
    starts = {
        clip.start
        for seed in range(30)
        for clip in choose_clips(folder, adjusted("exact", frames=49), "real", seed).clips
    }
    assert starts == {0, 1}  # every place of 49 frames in 50, the last too


def test_what_cannot_be_measured_is_refused(folder, tmp_path):
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
    assert adjusted("exact", real_crop=12).name == "exact, real_crop 12"
    for size, say in ((-1, "more than 0"), (5000, "4096 or less")):
        with pytest.raises(ValueError, match=f"real_crop is {size}; it must be {say}"):
            adjusted("exact", real_crop=size)


def test_stored_features_are_computed_once_and_belong_to_clips(folder, tmp_path):
    clips = choose_clips(folder, PROTOCOLS["exact"], "real", 0)
    many = replace(clips, clips=clips.clips * 8)  # 96: two units
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
    assert memory.all().equal(found) and set(CALLS) == {8}  # the last batch is filled up
    assert found[:12].equal(features_of([DETECTOR], map(clips.read, clips.clips), 16)[0])
    other = Detector({**DETECTOR.record, "eps": 1e-5}, sketch)
    moved = replace(many, clips=tuple(replace(clip, sha256="0") for clip in many.clips))
    assert Store(tmp_path, many, other).missing() == Store(tmp_path, moved, DETECTOR).missing() == [0, 1]


def test_processes_share_units_whoever_comes_first(folder, tmp_path):
    """The second lists what is missing when the first is done: no unit is left out."""
    clips = choose_clips(folder, PROTOCOLS["exact"], "real", 0)
    many = replace(clips, clips=clips.clips * 27)  # 324: six units
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


def side(seed: int, count: int = 200, scale: float = 1.0) -> Side:
    noise = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return Side({"clips": count, "codecs": {"ffv1": count}, "fingerprint": "same"}, noise * scale)


def test_a_result_holds_the_number_its_doubt_and_its_origin():
    protocol = adjusted("exact", clips=200)
    result = json.loads(json.dumps(measure(side(0), side(1, scale=1.5), protocol, DETECTOR)))
    assert result["distance"] == distance(Moments.of(side(0).features), Moments.of(side(1, scale=1.5).features))
    assert result["infinite"]["low"] < 6 * 0.5**2 < result["infinite"]["high"]
    assert 0 < result["floor"]["value"] < 0.3 < result["distance"]
    assert result["protocol"] == asdict(protocol) and result["detector"]["metric"] == "sketch"
    assert result["caveats"] == ["real from other real is of 100 against 100 clips, scaled to the numbers compared"]
    tf = measure(side(0), side(1, scale=1.5), adjusted("tf", clips=200), DETECTOR)
    assert tf["distance"] != result["distance"] and tf["distance"] == pytest.approx(result["distance"], rel=0.05)


def test_caveats_name_what_is_wrong():
    few = measure(side(0), side(1, 5), PROTOCOLS["exact"], DETECTOR)
    assert "infinite" not in few
    assert [caveat.split(" clips")[0] for caveat in few["caveats"]] == [
        "200 real",
        "5 generated",
        "5",
        "200 real against 5 generated",
    ]
    assert few["caveats"][2] == "5 clips are too few to extrapolate from: 40 or more are needed"
    lossy = side(1)
    lossy.about["codecs"] = {"h264": 200}
    for real in (side(0), Side({**side(0).about, "codecs": {"h264": 1}}, side(0).features)):
        found = measure(real, lossy, adjusted("latte", clips=200), DETECTOR)["caveats"]
        assert len(found) == 2 and "stored in h264" in found[1]
    unequal = side(1)
    unequal.about["sizes"] = {"64x64": 200}
    real = side(0)
    real.about["sizes"] = {"320x240": 200}
    sized = measure(real, unequal, adjusted("latte", clips=200), DETECTOR)["caveats"]
    assert sized[1:] == ["frames differ in size: real 320x240, generated 64x64"]
    uncounted = Side({"clips": 0}, replace(Moments.of(side(0).features), count=0))
    said = measure(uncounted, side(1), adjusted("latte", clips=200), DETECTOR)["caveats"]
    assert not any("against" in caveat for caveat in said) and "not known from statistics" in said[1]
    given = Side({"clips": 200}, Moments.of(side(0).features))
    result = measure(given, side(1), adjusted("latte", clips=200), DETECTOR)
    assert "floor" not in result and "infinite" in result and "taken as given" in result["caveats"][0]


def test_results_of_different_protocols_refuse_to_be_compared():
    protocol = adjusted("exact", clips=200)
    good, bad = (measure(side(0), side(1, scale=scale), protocol, DETECTOR) for scale in (1.1, 3.0))
    assert compared({"a": bad, "b": good}).startswith(f"b ({good['infinite']['value']:.2f}) is lower than a (")
    assert "lie apart" in compared({"a": bad, "b": good})
    assert "overlap" in compared({"a": good, "b": good})
    for name, change in {
        "protocol, real_stride": {"protocol": {**asdict(protocol), "real_stride": 3}},
        "detector, eps": {"detector": {**good["detector"], "eps": 1e-5}, "metric": "sketch"},
        "metric": {"metric": "fvd"},
        "real clips, same and other": {"real": {**good["real"], "fingerprint": "other"}},
        "seed": {"seed": 1},
        "codecs that lose something": {"generated": {**good["generated"], "codecs": {"h264": 200}}},
        "sizes of generated frames": {"generated": {**good["generated"], "sizes": {"8x8": 200}}},
    }.items():
        with pytest.raises(ValueError, match=f"differ in {name}"):
            check_comparable(
                {**good, **({"detector": {**good["detector"], "eps": 1e-3}} if "eps" in name else {})},
                {**good, **change},
            )
    with pytest.raises(ValueError, match="differ in clips, 200 and 100"):
        check_comparable(good, {**good, "generated": {"clips": 100}})
    with pytest.raises(ValueError, match="metric is missing"):
        check_comparable(good, {"scores": {}})


def test_what_is_lower_for_endlessly_many_clips_is_the_better_one():
    """The bias of a plain distance belongs to the model: of these clips the other one is lower."""
    protocol = adjusted("exact", clips=200)
    one, other = (measure(side(0), side(1), protocol, DETECTOR) for _ in range(2))
    one |= {"distance": 19.2, "infinite": {"value": 13.7, "low": 12.2, "high": 15.3}}
    other |= {"distance": 19.0, "infinite": {"value": 16.4, "low": 15.5, "high": 17.3}}
    said = compared({"other": other, "one": one})
    assert said.startswith("one (13.70) is lower than other (16.40), for endlessly many clips, though of these clips")
    assert "it is 19.20 against 19.00; their 95 % intervals lie apart" in said
    del other["infinite"]
    assert compared({"other": other, "one": one}).startswith("other (19.00) is lower than one (19.20); how sure")


@pytest.mark.parametrize(("count", "width"), [(60, 32), (110, 32)])
def test_too_few_clips_are_not_extrapolated_from(count, width):
    """Of 64 clips of 32 numbers four intervals in ten held the truth, of 100 nine or ten."""
    draw = lambda seed: torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    sides = [Side({"clips": count, "fingerprint": "same"}, draw(seed)) for seed in range(2)]
    result = measure(*sides, adjusted("exact", clips=count), DETECTOR)
    told = f"{count} clips are too few to extrapolate from: {3 * width} or more are needed"
    assert ("infinite" in result) == (count >= 3 * width) == (told not in result["caveats"])


def test_the_generated_clip_of_each_protocol():
    """Latte's own tool, as StyleGAN-V's, takes the first frames: Vchitect/Latte, frechet_video_distance.py."""
    having = lambda field, value: {name for name, protocol in PROTOCOLS.items() if getattr(protocol, field) == value}
    assert having("generated_start", "seed") == {"exact"} and having("real_start", "zero") == {"tf"}
    assert having("order", "seed") == {"exact", "latte", "latte-taichi"}


def test_pictures_of_all_samples_are_no_samples(tmp_path):
    videos = torch.from_numpy(np.stack([make_clip(5, i, size=16).video for i in range(2)]))
    show(videos, ["a", "b"], tmp_path, 8, {})
    assert [clip.name for clip in choose_clips(tmp_path, PROTOCOLS["latte"], "generated", 0).clips] == sorted(
        path.name for path in tmp_path.glob("*.mp4")
    )
    assert len(paired(tmp_path, tmp_path)) == 2


def test_pairs_are_told_apart(tmp_path):
    for name in ("clip.1", "clip.2"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "0.png")
    assert len(paired(tmp_path, tmp_path)) == 2
    for suffix in ("mp4", "mkv"):
        write_video(make_clip(5, 1, size=16).video, tmp_path / f"twice.{suffix}")
    with pytest.raises(ValueError, match="are of one name: which one is meant"):
        paired(tmp_path, tmp_path)


def test_statistics_of_others_are_read(tmp_path):
    features = side(3).features.double().numpy()
    wanted = Moments.of(torch.from_numpy(features))
    np.savez(tmp_path / "a.npz", mean=wanted.mean.numpy(), cov=wanted.cov.numpy(), n=np.array(200))
    np.savez(tmp_path / "b.npz", mu=wanted.mean.numpy(), sigma=wanted.cov.numpy())
    stylegan = {"capture_all": False, "num_items": 200, "all_features": None, "max_items": None, "num_features": 6}
    sums = {"raw_mean": features.sum(0), "raw_cov": features.T @ features}
    for protocol in (2, 4):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps({**stylegan, **sums}, protocol))
    for name, count in {"a.npz": 200, "b.npz": 0, "2.pkl": 200, "4.pkl": 200}.items():
        found, about = read_statistics(tmp_path / name)
        assert found.count == about["clips"] == count and len(about["sha256"]) == 64
        assert torch.allclose(found.mean, wanted.mean) and torch.allclose(found.cov, wanted.cov, atol=1e-9)
    np.savez(tmp_path / "c.npz", video=features)
    (tmp_path / "d.npz").write_bytes(b"PK no")
    (tmp_path / "e.pkl").write_bytes(pickle.dumps([1]))
    np.savez(tmp_path / "f.npz", mean=np.array([{}]), cov=wanted.cov.numpy())
    for name, words in {
        "c.npz": "neither mean nor mu, only video",
        "d.npz": "is damaged",
        "e.pkl": "does not hold a dictionary",
        "f.npz": "not an .npz of plain arrays",
        "g.npz": "no such file",
    }.items():
        with pytest.raises(CheckpointError, match=rf"{name[0]}\.{name[2:]}.*{words}"):
            read_statistics(tmp_path / name)


def test_described_sets_say_what_was_left_out(folder):
    found = choose_clips(folder, PROTOCOLS["exact"], "real", 0).about
    assert (found["videos"], found["clips"], found["too_short"], found["first_too_short"]) == (13, 12, 1, "short.mkv")


@pytest.mark.parametrize(
    "words, line",
    [
        (["--protocol", "latte"], "--protocol does nothing without --real or --reference"),
        (["videos", "--real", "none"], "no folder of videos at none"),
        (["videos", "--real", "none", "--bn-eps", "1e-5"], "--bn-eps does nothing without --i3d"),
        (["videos", "--real", "none", "--i3d", "none.pt"], "none.pt: there is no such file"),
        (["videos", "--real", "none.npz"], "none.npz: there is no such file"),
        (["--compare", "setup.cfg", "setup.cfg"], "setup.cfg is not valid JSON"),
        (["--compare", "none.json", "setup.cfg"], "--compare none.json: there is no such file"),
        (["--compare", "a", "b", "--out", "c.json"], "--out does nothing with --compare"),
        (["tests", "--real", "none", "--cfg-scale", "2"], "--cfg-scale does nothing with tests, a folder of videos"),
        (["tests", "--real", "none", "--samples", "x"], "--samples does nothing with tests, a folder of videos"),
        (["tests", "--reference", "none", "--num-videos", "2"], "--num-videos does nothing with --reference"),
    ],
)
def test_bad_words_get_one_line(words, line, capsys):
    assert main(["eval", *words]) == 2
    assert line in capsys.readouterr().err
