"""Metrics of generated videos, each a function: `from latte.eval import fvd`.

| function | what it measures |
|---|---|
| `fvd` | Fréchet video distance, on I3D features |
| `kvd` | kernel video distance, on I3D features |
| `cd_fvd` | content-debiased FVD: Fréchet distance, on VideoMAE features |
| `jedi` | JEDi: kernel distance, on V-JEPA features |
| `fvd_by_protocol` | FVD under every named protocol, in one table |
| `fvd_over_seeds` | FVD of several sets: mean and standard deviation |
| `shapes_distance` | Fréchet distance on features of the bundled shapes network; needs no published weights |
| `manifold_scores` | precision, recall, density and coverage of features |
| `fid` | Fréchet inception distance of single frames |
| `inception_score` | inception score, by a C3D trained on UCF101 |
| `psnr`, `ssim`, `lpips` | fidelity of videos to their references, pair by pair |
| `compare_reconstructions` | the same for a VAE's reconstructions of videos |
| `flicker` | temporal flickering |

Each is imported on first use, so `import latte.eval` alone does not load torch. No module here has the name of one of
these functions: importing such a module would replace the function in this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latte.eval.fidelity import flicker, lpips, psnr, ssim
    from latte.eval.frechet_inception_distance import fid
    from latte.eval.frechet_video_distance import cd_fvd, fvd, kvd, shapes_distance
    from latte.eval.fvd_result import FVDResult
    from latte.eval.jedi_distance import JEDiResult, jedi
    from latte.eval.manifold import manifold_scores
    from latte.eval.protocol_table import ProtocolTable, fvd_by_protocol
    from latte.eval.seed_spread import SeedSpread, fvd_over_seeds
    from latte.eval.vae_fidelity import compare_reconstructions
    from latte.eval.video_inception_score import inception_score

__all__ = [
    "FVDResult",
    "JEDiResult",
    "ProtocolTable",
    "SeedSpread",
    "cd_fvd",
    "compare_reconstructions",
    "fid",
    "flicker",
    "fvd",
    "fvd_by_protocol",
    "fvd_over_seeds",
    "inception_score",
    "jedi",
    "kvd",
    "lpips",
    "manifold_scores",
    "psnr",
    "shapes_distance",
    "ssim",
]

MODULES = {
    "frechet_video_distance": ("cd_fvd", "fvd", "kvd", "shapes_distance"),
    "fvd_result": ("FVDResult",),
    "jedi_distance": ("JEDiResult", "jedi"),
    "protocol_table": ("ProtocolTable", "fvd_by_protocol"),
    "seed_spread": ("SeedSpread", "fvd_over_seeds"),
    "manifold": ("manifold_scores",),
    "frechet_inception_distance": ("fid",),
    "video_inception_score": ("inception_score",),
    "vae_fidelity": ("compare_reconstructions",),
    "fidelity": ("flicker", "lpips", "psnr", "ssim"),
}


def __getattr__(name: str) -> object:
    """The functions above, imported on first use."""
    for module, exported in MODULES.items():
        if name in exported:
            return getattr(import_module(f"latte.eval.{module}"), name)
    raise AttributeError(f"module 'latte.eval' has no attribute {name!r}")
