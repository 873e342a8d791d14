"""The caveats of a video distance, which a reader of the number must know."""

from collections.abc import Sequence

from torch import Tensor

from latte.arguments import counted
from latte.eval.clip_sets import lossy_codecs
from latte.eval.extrapolation import LEAST_REAL, clips_needed
from latte.eval.features import Detector
from latte.eval.frechet import Moments
from latte.eval.protocol import Protocol, differences
from latte.eval.statistics import FeatureSet
from latte.files import one_line

LOSSY = "the generated videos are stored in {}, a lossy codec, which changes what is measured: write them losslessly"


def list_caveats(real: FeatureSet, generated: FeatureSet, protocol: Protocol | None, detector: Detector) -> list[str]:
    """The caveats of a distance between two sides, one sentence each."""
    sides = {"real": real, "generated": generated}
    found = [*detector.record.get("caveats", ()), *count_caveats(sides, protocol)]
    changed = differences(protocol) if protocol else ()
    found += [f"{how}: compare only with results with the same value" for how in changed]
    sampled = any(isinstance(side.features, Tensor) for side in sides.values())
    for name, side in sides.items():
        is_moments = isinstance(side.features, Moments)
        if is_moments or side.given:
            kind = "statistics" if is_moments else "features"
            bias = ", and the bias from their number of clips remains in the extrapolation"
            said = f"the {name} {kind} are taken as given: network, protocol and data are not in their file"
            found.append(said + bias * (is_moments and sampled))
    if isinstance(real.features, Moments):
        found.append("the real-vs-real floor cannot be computed from statistics")
    elif real.count < LEAST_REAL:
        found.append(f"{real.count} real clips are too few for a real-vs-real floor")
    elif real.count < 2 * generated.count:
        half = real.count // 2
        found.append(f"the real-vs-real floor is measured on {half} against {half} clips and scaled to all")
    found += [
        f"{counted(side.about['too_short'], f'{name} video is', f'{name} videos are')} too short and left out, such as "
        f"{one_line(side.about['first_too_short'])}"
        for name, side in sides.items()
        if side.about.get("too_short")
    ]
    for name, side in sides.items():
        if unreadable := side.about.get("unreadable"):
            of_all = f"of {side.about['videos']} cannot be read and"
            count = counted(len(unreadable), f"{name} video {of_all} is", f"{name} videos {of_all} are")
            found.append(f"{count} left out, such as {one_line(min(unreadable))}")
    for name, side in sides.items():
        if count := side.about.get("damaged"):
            which = counted(count, f"{name} video is", f"{name} videos are")
            found.append(f"{which} damaged, and read with FFmpeg's error concealment")
    found += [LOSSY.format(codec) for codec in lossy_codecs(generated.about.get("codecs", ()))]
    sizes = [sorted(side.about.get("sizes", ())) for side in (real, generated)]
    if all(sizes) and sizes[0] != sizes[1]:
        said = f"frames differ in size: real {', '.join(sizes[0][:3])}, generated {', '.join(sizes[1][:3])}"
        found.append(said + crop_advice(*sizes))
    return found


def crop_advice(real: Sequence[str], generated: Sequence[str]) -> str:
    """What to do if real frames are squashed otherwise than generated ones, which are square; sizes are "64x48"."""
    shapes = [{tuple(map(int, size.split("x"))) for size in sizes} for sizes in (real, generated)]
    if len(generated) > 1 or any(width != height for width, height in shapes[1]):
        return ""
    if all(width == height for width, height in shapes[0]):
        return ""
    side = generated[0].partition("x")[0]
    advice = f"--real-crop {side} (in Python: real_crop={side}) crops the real ones"
    return f", and squashing distorts the real ones alone: {advice} to a square instead"


def count_caveats(sides: dict[str, FeatureSet], protocol: Protocol | None) -> list[str]:
    """Caveats on the numbers of clips, where they are known."""
    found, width = [], sides["real"].width
    counts = {name: side.count for name, side in sides.items()}
    for name, count in counts.items():
        if 0 < count <= width:
            found.append(
                f"{count} {name} clips are too few for features of {width} numbers: the distance is mostly bias"
            )
        asked = protocol is not None and f"clips {protocol.clips}" in protocol.name  # by --num-videos
        if protocol and 0 < count < protocol.clips and (count > width or asked):
            found.append(f"{count} {name} clips, where protocol {protocol.name} uses up to {protocol.clips}")
    used = [side.count for side in sides.values() if isinstance(side.features, Tensor)]
    if used and min(used) < (needed := clips_needed(width)):
        found.append(f"{min(used)} clips are too few to extrapolate from: {needed} or more are needed")
    known = {count for count in counts.values() if count}
    if len(known) > 1:
        numbers = f"{counts['real']} real against {counts['generated']} generated clips"
        found.append(f"{numbers}: compare only with results for the same numbers")
    return found
