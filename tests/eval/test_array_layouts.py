"""Videos and features in memory, in any memory layout and dtype."""

import warnings

import numpy as np
import pytest
import torch

from latte.eval import fid, flicker, fvd, psnr
from latte.eval.array_clips import choose_array_clips
from latte.eval.clip_sets import choose_clips
from latte.eval.inputs import Reading
from latte.eval.protocol import adjusted
from latte.video.write import as_rgb_array

FOUR = adjusted("stylegan-v", frames=4)
VIDEOS = np.random.default_rng(0).integers(0, 256, (4, 4, 8, 8, 3), dtype=np.uint8)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "backwards": lambda a: a[::-1].copy()[::-1],
    "frames backwards": lambda a: a[:, ::-1].copy()[:, ::-1],
    "from BGR": lambda a: a[..., ::-1].copy()[..., ::-1],
    "Fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "read-only": read_only,
    "unmasked": np.ma.masked_array,
    "big-endian": lambda a: (a / 255).astype(">f4"),
    "big-endian integers": lambda a: a.astype(">i8"),
    "float16": lambda a: (a / 255).astype(np.float16),
    "long double": lambda a: (a / 255).astype(np.longdouble),
    "ragged": lambda a: np.fromiter(iter(a), object, len(a)),
    "tensor": lambda a: torch.from_numpy(a).flip(0).flip(0),
    "tensor with gradients": lambda a: torch.from_numpy(a / 255).requires_grad_(),
    "bfloat16 of bytes": lambda a: torch.from_numpy(a).bfloat16(),
}
REFUSED = {
    "some values are masked": np.ma.masked_less(VIDEOS, 9),
    "the tensor is meta": torch.zeros(VIDEOS.shape, dtype=torch.uint8, device="meta"),
    "the tensor is sparse_coo": torch.from_numpy(VIDEOS).to_sparse(),
    "the values are object": VIDEOS.astype(object),
    "the values are <U3": VIDEOS.astype(str),
    "the values are bool": VIDEOS > 9,
    "the values are complex64": VIDEOS.astype(np.complex64),
    "the values are int8 from 0 to 127": (VIDEOS // 2).astype(np.int8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_change_the_result(layout):
    stored = LAYOUTS[layout](VIDEOS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (stored, list(stored)):
            clips = Reading(FOUR).open(given, "real")
            found = torch.stack(list(clips.stream(clips.clips))).permute(0, 1, 3, 4, 2).numpy()
            assert np.array_equal(found, VIDEOS)
        if stored.dtype in (np.uint8, torch.uint8):
            assert psnr(stored, VIDEOS) == 100 and flicker(stored) == pytest.approx(flicker(VIDEOS))
        if "bytes" not in layout and "integers" not in layout:
            assert np.array_equal(as_rgb_array(stored[0]), VIDEOS[0])


@pytest.mark.parametrize("say", REFUSED)
def test_arrays_that_are_not_videos_are_rejected(say):
    bad = REFUSED[say]
    for given in (bad, list(bad) if isinstance(bad, np.ndarray) else [bad[0]]):
        with pytest.raises(ValueError, match=f"^(the real videos|real video 0).*: {say}") as error:
            choose_array_clips(given, FOUR, "real", 0)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"{say}|expected uint8 videos"):
        psnr(bad, bad)


def test_features_in_any_layout_are_taken():
    features = np.random.default_rng(0).normal(size=(9, 5)).astype("f4")
    for stored in (
        features[::-1].copy()[::-1],
        features.astype(">f4"),
        read_only(features),
        np.asfortranarray(features),
    ):
        assert fid(features, stored).value == pytest.approx(0, abs=1e-4)
    for bad in (np.ma.masked_less(features, 0), features.astype(object), features.astype(np.longdouble)):
        with pytest.raises(ValueError, match=r"the generated features: (some values are masked|the values are \w+)"):
            fvd(features, bad)


def test_a_lone_file_is_named_and_not_its_folder(tmp_path):
    np.save(tmp_path / "short.npy", np.zeros((2, 3, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"short\.npy holds no video of 16 frames"):
        choose_clips(tmp_path / "short.npy", adjusted("exact"), "generated", 0)
    np.save(tmp_path / "grey.npy", np.zeros((2, 16, 8, 8), np.uint8))
    said = r"grey\.npy: 1 of 1 video cannot be read.*a channel axis even if grey: \(n, f, h, w, 1\)"
    with pytest.raises(ValueError, match=said), pytest.warns(UserWarning):
        choose_clips(tmp_path / "grey.npy", adjusted("exact"), "generated", 0)
