"""`latte eval`: how good generated videos are.

Of a model of the built-in shapes, what the examiner says; of a model or a folder of videos beside real ones (--real),
how far they are from these, and how sure that is.
"""

import time
from pathlib import Path

from latte.eval.exam import evaluate, origin, table
from latte.eval.fvd import compared
from latte.eval.inception_score import PROTOCOLS as INCEPTION_SCORES
from latte.eval.pairs import compare_pairs
from latte.eval.protocol import PROTOCOLS
from latte.eval.videos import compare_videos
from latte.files import read_json, writable, write_json
from latte.parser import Parser
from latte.sampling_options import add_sampling_options, opened

OF_VIDEOS = (
    "protocol",
    "i3d",
    "bn_eps",
    "inception",
    "c3d",
    "c3d_mean",
    "is_protocol",
    "features",
    "samples",
    "prompts",
)


def parser() -> Parser:
    """The words of `latte eval`."""
    parser = Parser(prog="latte eval", description=__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a model, or a folder of generated videos (default: shapes)")
    add("--num-videos", type=int, help="clips of each kind (default: 256; with --real what the protocol says)")
    add("--out", type=Path, help="a .json file for the numbers and all that they depend on")
    add("--real", type=Path, help="a folder of real videos, or statistics of them (.npz, StyleGAN's .pkl)")
    add("--protocol", choices=PROTOCOLS, help="which clips, how resized (default: exact); see docs/evaluation.md")
    add("--i3d", type=Path, help="I3D's weights, for FVD: i3d_torchscript.pt or i3d_pretrained_400.pt")
    add("--bn-eps", type=float, help="of I3D's batch norms (default: 1e-3; 1e-5 as VideoGPT, TATS and cd-fvd have it)")
    add("--inception", type=Path, help="weights-inception-2015-12-05-6726825d.pth, for the FID of frames")
    add("--c3d", type=Path, help="conv3d_deepnetA_ucf.npz, for the inception score of UCF101")
    add("--c3d-mean", type=Path, help="mean2.npz, which belongs to it")
    add("--is-protocol", choices=INCEPTION_SCORES, help="how many clips, in how many groups (default: stylegan-v)")
    add("--samples", type=Path, help="a folder for a model's videos, lossless; without it none is kept")
    add("--prompts", type=Path, metavar="FILE", help="what a text-to-video model is to show, a line each")
    add("--features", type=Path, help="a folder where features are kept, and found again")
    add("--exact", type=Path, help="a folder of the videos that those of the same name stand in for: PSNR, SSIM, LPIPS")
    add("--alexnet", type=Path, help="alexnet-owt-7be5be79.pth, for LPIPS")
    add("--compare", type=Path, nargs=2, metavar="RESULT", help="two .json files: which is better, if that can be said")
    add_sampling_options(parser)
    return parser


def main(argv: list[str]) -> None:
    """Print the numbers and, if asked, write them with everything that they depend on."""
    args = parser().parse_args(argv)
    if args.compare:
        print(compared(*map(read_json, args.compare)))
        return
    if args.out and (args.out.is_dir() or not writable(args.out.parent)):
        raise ValueError(f"--out {args.out} is not a file that can be written: name one, such as scores.json")
    idle = [] if args.real else [name for name in OF_VIDEOS if getattr(args, name)]
    if idle:
        raise ValueError(f"--{idle[0].replace('_', '-')} does nothing without --real: name what to compare with")
    if args.real and args.exact:
        raise ValueError("--real compares with real videos, --exact with those that a pair stands in for: give one")
    if args.alexnet and not args.exact:
        raise ValueError("--alexnet does nothing without --exact")
    work = compare_videos if args.real else compare_pairs if args.exact else examine_model
    result = work(args)
    if args.out and result:
        write_json(args.out, result)
        print(f"wrote {args.out}")


def examine_model(args) -> dict:
    """The examiner's scores of a model, printed and returned with their settings."""
    pipe, settings, files = opened(args)
    start = time.perf_counter()
    scores = evaluate(pipe, 256 if args.num_videos is None else args.num_videos, **settings)
    about = origin(pipe, settings, files, args)
    print(table(scores))
    print(f"{time.perf_counter() - start:.0f} s on {about['device']}")
    return {**about, "scores": scores}
