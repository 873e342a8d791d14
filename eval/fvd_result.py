"""The result of a video distance: what it holds, how it prints, and when two results may be compared."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latte.eval.clip_sets import lossy_codecs
from latte.eval.extrapolation import Estimate
from latte.eval.frechet_inception_distance import FIDResult
from latte.eval.jedi_distance import JEDiResult
from latte.eval.kernel import Discrepancy
from latte.eval.manifold import MANIFOLD_SCORES
from latte.eval.video_inception_score import InceptionScore

MUST_AGREE = ("metric", "protocol", "detector", "seed")  # between two results that are compared
REQUIRED = {"detector": dict, "real": dict, "generated": dict, "protocol": dict | None, "distance": int | float}
NAMED = {"detector": ("name", "network"), "protocol": ("name",)}  # fields that a result is printed with
# fields that a result may lack: how they are written to JSON, and how they are read
OPTIONAL: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "infinite": (asdict, lambda values: Estimate(**values)),
    "floor": (asdict, lambda values: Estimate(**values)),
    "kernel": (lambda found: found._asdict(), lambda values: Discrepancy(**values)),
    "manifold": (dict, lambda values: {name: values[name] for name in MANIFOLD_SCORES}),
    "flicker": (dict, lambda values: {**values, "generated": values["generated"]}),
    "fid": (FIDResult.to_dict, FIDResult.from_dict),
    "inception_score": (InceptionScore.to_dict, InceptionScore.from_dict),
    "jedi": (JEDiResult.to_dict, JEDiResult.from_dict),
}


@dataclass(frozen=True)
class FVDResult:
    """A distance between real and generated videos, with everything that it depends on.

    `float(result)` is the distance, `print(result)` a table for people, `result.to_dict()` what `latte eval --out`
    writes, and `FVDResult.from_dict` reads it back.

    Attributes:
        value: The distance.
        metric: "fvd", "shapes_distance", or "given" where both sides were given as features or statistics.
        protocol: All fields of the protocol; None where both sides were given.
        detector: The network that computed the features, and its settings.
        device: The device it ran on.
        seed: Seed of the random choices; None if there were none.
        real: The real side: where its clips come from, how many, in which codecs and sizes, a fingerprint.
        generated: Likewise.
        caveats: What a reader of the number must know, one sentence each.
        versions: The versions of latte and torch.
        infinite: The distance extrapolated to infinite N, with its 95 % interval.
        floor: The real-vs-real floor: what a perfect model would score, with its 95 % interval.
        kernel: The kernel distance between the same features (KVD), with its standard error.
        manifold: Precision, recall, density and coverage of the same features.
        flicker: Temporal flickering of each side's clips, by "real" and "generated"; 1: a still picture.
        fid: FID of single frames.
        inception_score: The inception score of the generated videos.
        jedi: JEDi between the same clips.
    """

    value: float
    metric: str
    protocol: dict[str, Any] | None
    detector: dict[str, Any]
    device: str
    seed: int | None
    real: dict[str, Any]
    generated: dict[str, Any]
    caveats: tuple[str, ...]
    versions: dict[str, str]
    infinite: Estimate | None = None
    floor: Estimate | None = None
    kernel: Discrepancy | None = None
    manifold: dict[str, float] | None = None
    flicker: dict[str, float] | None = None
    fid: FIDResult | None = None
    inception_score: InceptionScore | None = None
    jedi: JEDiResult | None = None

    def __float__(self) -> float:
        return self.value

    def to_dict(self) -> dict[str, Any]:
        """The result as values for JSON, without the fields that it lacks."""
        held = {name: getattr(self, name) for name in OPTIONAL}
        optional = {name: OPTIONAL[name][0](found) for name, found in held.items() if found is not None}
        distances = ("infinite", "floor", "kernel")
        return {
            **{name: getattr(self, name) for name in ("metric", "protocol", "detector", "device", "seed")},
            "real": self.real,
            "generated": self.generated,
            "distance": self.value,
            **{name: optional.pop(name) for name in distances if name in optional},
            "caveats": list(self.caveats),
            "versions": self.versions,
            **optional,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FVDResult":
        """The inverse of to_dict, for files that any version of `latte eval --real --out` wrote.

        Raises:
            ValueError: These are not such values. The message names the first that is missing or damaged.
        """
        damaged = "this is not a result of `latte eval --real`: {} is missing or damaged"
        if not isinstance(values, dict):
            raise ValueError(damaged.format("all of it"))
        if "protocols" in values:
            raise ValueError("this holds results under several protocols: measure under one, with --protocol NAME")
        if "sets" in values:
            raise ValueError("this holds results of several sets: measure one, without --sets and --parts")
        for name in (*MUST_AGREE, *REQUIRED):
            whole = name in values and isinstance(values[name], REQUIRED.get(name, object))
            if not whole or (values[name] is not None and any(key not in values[name] for key in NAMED.get(name, ()))):
                raise ValueError(damaged.format(name))
        optional: dict[str, Any] = {}
        for name, (_, read) in OPTIONAL.items():
            try:
                optional[name] = read(values[name]) if name in values else None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(damaged.format(name)) from error
        same = {name: values[name] for name in ("metric", "protocol", "detector", "seed", "real", "generated")}
        about = {"device": values.get("device", ""), "versions": values.get("versions", {})}
        return cls(value=values["distance"], caveats=tuple(values.get("caveats", ())), **same, **about, **optional)

    @property
    def network(self) -> str:
        """The network of the detector, in words."""
        return "unknown network" if self.metric == "given" else str(self.detector["network"])

    def __str__(self) -> str:
        """The result as a table: the numbers, then the caveats."""
        row = lambda name, values: f"  {name:36}{values}"
        interval = lambda of: f"{of.value:10.2f}   95 %: {of.low:.2f} to {of.high:.2f}"
        count = lambda side: side.get("clips") or "an unknown number of"
        sides = f"{count(self.generated)} generated clips, {count(self.real)} real clips"
        lines = [f"{self.detector['name']}: {sides}"]
        lines.append(row("distance", f"{self.value:10.2f}"))
        if self.infinite:
            lines.append(row("extrapolated to infinite N", interval(self.infinite)))
        if self.floor:
            lines.append(row("real-vs-real floor", interval(self.floor)))
        if self.kernel:
            lines.append(row("kernel distance (KVD)", f"{self.kernel.value:10.4g}   +- {self.kernel.error:.2g}"))
        if found := self.manifold:
            lines.append(row("precision, recall", f"{found['precision']:10.3f}   {found['recall']:.3f}"))
            lines.append(row("density, coverage", f"{found['density']:10.3f}   {found['coverage']:.3f}"))
        if self.fid:
            lines.append(row(f"FID of {self.fid.frames['generated']} frames", f"{self.fid.value:10.2f}"))
            lines.append(row("", f"  by Inception, sha256 {self.fid.sha256}"))
        if score := self.inception_score:
            lines.append(row(f"inception score ({score.protocol})", f"{score.mean:10.2f}   +- {score.std:.2f}"))
            lines.append(row("", f"  by C3D, sha256 {score.sha256}, mean clip {score.mean_sha256}"))
        if found_by := self.jedi:
            lines.append(row("JEDi", f"{found_by.value:10.4g}   +- {found_by.error:.2g}"))
            lines.append(row("", f"  by V-JEPA, sha256 {found_by.sha256}, probe {found_by.probe_sha256}"))
        if self.flicker:
            real = f"   real {self.flicker['real']:.4f}" if "real" in self.flicker else ""
            lines.append(row("flicker (1: still)", f"{self.flicker['generated']:10.4f}{real}"))
        how = f"protocol {self.protocol['name']}, " if self.protocol else ""
        how += f"seed {self.seed}, " if self.seed is not None else ""
        lines.append(f"  {how}{self.network}")
        return "\n".join([*lines, *(f"  note: {caveat}" for caveat in self.caveats)])


def difference(a: FVDResult, b: FVDResult) -> str:
    """The first thing, besides the generated videos, in which two results differ, with both values; empty if none."""
    pairs: dict[str, Sequence[Any]] = {name: (getattr(a, name), getattr(b, name)) for name in MUST_AGREE}
    # the name says no more than the other fields do, and codecs are compared below
    aside = {"name": None, "lossless": None}
    pairs["protocol"] = [result.protocol and {**result.protocol, **aside} for result in (a, b)]
    pairs["lossy codecs"] = [lossy_codecs(result.generated.get("codecs", ())) for result in (a, b)]
    pairs["sizes of generated frames"] = [sorted(result.generated.get("sizes", ())) for result in (a, b)]
    pairs["real clips"] = [result.real.get("fingerprint") or result.real.get("sha256") for result in (a, b)]
    pairs["clips"] = [result.generated.get("clips") for result in (a, b)]
    for name, (one, other) in pairs.items():
        if one != other:
            both = isinstance(one, dict) and isinstance(other, dict)
            key = next((key for key in one if one[key] != other.get(key)), None) if both else None
            return f"{name}, {key}, {one[key]} and {other.get(key)}" if key else f"{name}, {one} and {other}"
    return ""


def check_comparable(a: FVDResult, b: FVDResult) -> None:
    """Raise ValueError, which names the difference, if two results differ in more than the generated videos."""
    if what := difference(a, b):
        raise ValueError(f"the results cannot be compared: they differ in {what}")


def compare_results(names: Sequence[str], results: Sequence[FVDResult]) -> str:
    """Say which of two results is lower, and whether their intervals overlap.

    Extrapolated distances are compared if both results have them, because the bias of plain ones depends on the model.

    Args:
        names: The names of the two results.
        results: The two results.

    Returns:
        One line.

    Raises:
        ValueError: The results are not comparable; see check_comparable.
    """
    check_comparable(*results)
    infinite = [result.infinite for result in results if result.infinite]
    sure = len(infinite) == len(results)
    values = [estimate.value for estimate in infinite] if sure else [result.value for result in results]
    low, high = sorted(range(2), key=values.__getitem__)
    if values[low] == values[high]:
        return f"{names[low]} and {names[high]} are equal ({values[low]:.2f})"
    line = f"{names[low]} ({values[low]:.2f}) is lower than {names[high]} ({values[high]:.2f})"
    if not sure:
        return f"{line}; without intervals, it is not known how certain this is"
    line += ", extrapolated to infinite N"
    if results[low].value > results[high].value:
        line += f", although on these clips it is {results[low].value:.2f} against {results[high].value:.2f}"
    apart = infinite[low].high < infinite[high].low
    return f"{line}; their 95 % intervals {'do not overlap' if apart else 'overlap, so neither is shown to be better'}"
