"""A distance of generated from real videos, and with it how it was made, how sure it is, and how real data would score.

By I3D it is the Fréchet video distance (Unterthiner et al. 2018, arXiv 1812.01717). By another network it is that
network's own distance, and is called so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from latte import __version__
from latte.eval.clip_sets import LOSSLESS
from latte.eval.extrapolation import LEAST, LEAST_REAL, at_infinity, floor
from latte.eval.features import Detector
from latte.eval.frechet import Moments, distance
from latte.eval.kernel import mmd2
from latte.eval.protocol import Protocol
from latte.eval.statistics import read_statistics

ENOUGH = 3  # clips for each number of the features, from which on a distance falls as 1 / clips does
MUST_AGREE = ("metric", "protocol", "detector", "seed")  # what two results must share to be compared
LOSSY = "the generated videos are stored in {}, which loses some of what is measured: write them without loss"


@dataclass(frozen=True)
class Side:
    """Features (n, d) of one side, or only their moments; `about` says of what."""

    about: dict
    features: Tensor | Moments

    @property
    def count(self) -> int:
        """Clips; 0: not known."""
        return self.features.count if isinstance(self.features, Moments) else len(self.features)

    def moments(self, unbiased: bool) -> Moments:
        """Of the features, or as they were given."""
        return self.features if isinstance(self.features, Moments) else Moments.of(self.features, unbiased)


def given(path: Path) -> Side:
    """Statistics that others computed."""
    moments, about = read_statistics(path)
    return Side(about, moments)


def measure(real: Side, generated: Side, protocol: Protocol | None, detector: Detector, seed: int | None = 0) -> dict:
    """The whole result, ready to be written: "distance", "infinite", "floor", their origin, and "caveats".

    protocol, seed: None where both sides are statistics, which do not say how they were made. ValueError: features of
    different widths, or fewer than two clips.
    """
    unbiased = protocol is not None and protocol.unbiased
    a, b = (side.moments(unbiased) for side in (real, generated))
    value = distance(a, b)
    result = {
        "metric": detector.record["metric"],
        "protocol": protocol and asdict(protocol) | {key: detector.record.get(key) for key in ("resize", "eps")},
        "detector": detector.record,
        "device": detector.device,
        "seed": seed,
        "real": real.about,
        "generated": generated.about,
        "distance": value,
    }
    counted = [side.count for side in (real, generated) if isinstance(side.features, Tensor)]
    options = {"unbiased": unbiased, "seed": seed}
    if counted and min(counted) >= max(LEAST, ENOUGH * len(a.mean)):
        result["infinite"] = asdict(at_infinity(real.features, generated.features, **options))
    if isinstance(real.features, Tensor) and real.count >= LEAST_REAL and generated.count > 1:
        result["floor"] = asdict(floor(real.features, generated.count, **options))
    if all(isinstance(side.features, Tensor) for side in (real, generated)) and min(counted) > 2:
        result["kernel"] = mmd2(generated.features, real.features)._asdict()
    versions = {"latte": __version__, "torch": torch.__version__}
    return {**result, "caveats": caveats(real, generated, protocol, detector, len(a.mean)), "versions": versions}


def caveats(real: Side, generated: Side, protocol: Protocol | None, detector: Detector, width: int) -> list[str]:
    """What a reader of the number must know, one sentence each."""
    found = list(detector.record.get("caveats", ()))
    counts = {"real": real.count, "generated": generated.count}
    for name, count in counts.items():
        if 0 < count <= width:
            found.append(
                f"{count} {name} clips are too few for features of {width} numbers: the distance is mostly their bias"
            )
        elif protocol and 0 < count < protocol.clips:
            found.append(f"{count} {name} clips, where protocol {protocol.name} has up to {protocol.clips}")
    counted = [len(side.features) for side in (real, generated) if isinstance(side.features, Tensor)]
    if counted and min(counted) < (needed := max(LEAST, ENOUGH * width)):
        found.append(f"{min(counted)} clips are too few to extrapolate from: {needed} or more are needed")
    known = [count for count in counts.values() if count]
    if len(set(known)) > 1:
        found.append(f"{counts['real']} real against {counts['generated']} generated clips: compare only with the same")
    for name, side in (("real", real), ("generated", generated)):
        if isinstance(side.features, Moments):
            bias = ", and the bias of their number of clips stays in what is extrapolated" if counted else ""
            said = f"the {name} statistics are taken as given: network, protocol and data are not in their file"
            found.append(said + bias)
    if isinstance(real.features, Moments):
        found.append("what other real clips would score is not known from statistics")
    elif real.count < LEAST_REAL:
        found.append(f"{real.count} real clips are too few to say what other real ones would score")
    elif real.count < 2 * generated.count:
        half = real.count // 2
        found.append(f"real from other real is of {half} against {half} clips, scaled to the numbers compared")
    found += [
        f"{side.about['too_short']} {name} videos are too short and left out, such as {side.about['first_too_short']}"
        for name, side in (("real", real), ("generated", generated))
        if side.about.get("too_short")
    ]
    found += [LOSSY.format(codec) for codec in lossy_codecs(generated.about)]
    sizes = [sorted(side.about.get("sizes", ())) for side in (real, generated)]
    if all(sizes) and sizes[0] != sizes[1]:
        found.append(f"frames differ in size: real {', '.join(sizes[0][:3])}, generated {', '.join(sizes[1][:3])}")
    return found


def lossy_codecs(about: dict) -> list[str]:
    """Those that videos are stored in, by what a result holds of them."""
    return sorted(set(about.get("codecs", ())) - set(LOSSLESS))


def check_comparable(a: dict, b: dict) -> None:
    """ValueError: two results differ in more than the videos that they judge, or are none."""
    for result in (a, b):
        kinds = {"detector": dict, "real": dict, "generated": dict, "protocol": dict | None, "distance": int | float}
        kinds |= {"infinite": dict} if "infinite" in result else {}
        for name in (*MUST_AGREE, *kinds):
            if name not in result or not isinstance(result[name], kinds.get(name, object)):
                raise ValueError(f"these are not two results of `latte eval`: {name} is missing or damaged")
    pairs = {name: (a[name], b[name]) for name in MUST_AGREE}
    aside = {"name": None, "lossless": None}  # a name tells no more than the fields, and codecs are compared below
    pairs["protocol"] = [result["protocol"] and {**result["protocol"], **aside} for result in (a, b)]
    pairs["codecs that lose something"] = [lossy_codecs(side["generated"]) for side in (a, b)]
    pairs["sizes of generated frames"] = [sorted(side["generated"].get("sizes", ())) for side in (a, b)]
    pairs["real clips"] = [side["real"].get("fingerprint") or side["real"].get("sha256") for side in (a, b)]
    pairs["clips"] = [side["generated"].get("clips") for side in (a, b)]
    for name, (one, other) in pairs.items():
        if one != other:
            both = isinstance(one, dict) and isinstance(other, dict)
            key = next((key for key in one if one[key] != other.get(key)), None) if both else None
            what = f"{name}, {key}, {one[key]} and {other.get(key)}" if key else f"{name}, {one} and {other}"
            raise ValueError(f"the results cannot be compared: they differ in {what}")


def compared(names: Sequence[str], results: Sequence[dict]) -> str:
    """One line: which of two results, of these names, is the lower, and whether their intervals say so.

    By what they are for endlessly many clips, where both say it: the bias of plain distances depends on the model.
    ValueError: not comparable.
    """
    check_comparable(*results)
    sure = all("infinite" in result for result in results)
    value = lambda result: result["infinite"]["value"] if sure else result["distance"]
    (low, a), (high, b) = sorted(zip(names, results), key=lambda pair: value(pair[1]))
    if value(a) == value(b):
        return f"{low} and {high} are equal ({value(a):.2f})"
    line = f"{low} ({value(a):.2f}) is lower than {high} ({value(b):.2f})"
    if not sure:
        return f"{line}; how sure that is is not known"
    line += ", for endlessly many clips"
    if a["distance"] > b["distance"]:
        line += f", though of these clips it is {a['distance']:.2f} against {b['distance']:.2f}"
    apart = a["infinite"]["high"] < b["infinite"]["low"]
    return f"{line}; their 95 % intervals {'lie apart' if apart else 'overlap: which one is better is not shown'}"
