"""`latte prepare`: check a data set's videos by decoding them, and list them for training."""

from pathlib import Path

from latte.commands.parser import Parser
from latte.train.data.layouts import LAYOUTS, some
from latte.train.data.survey import ORIGINAL_SIZE, REPORT, Rule, prepare
from latte.train.data.video_list import VIDEO_LIST
from latte.train.data.windows import SELECTIONS

OF_KIND = {"clips": ("shapes",), "split": ("ucf101",), "frame_list": ("ffs", "ucf101", "folder", "shapes")}


def main(argv: list[str]) -> None:
    """Check and list a data set, and say what was found."""
    parser = Parser(prog="latte prepare", description=__doc__.split(":", 1)[1].strip())
    kinds = "; ".join(f"{name}: {layout.about}" for name, layout in LAYOUTS.items())
    parser.add_argument("kind", choices=LAYOUTS, help=kinds)
    parser.add_argument("source", nargs="?", type=Path, metavar="SRC", help="the data set's folder; shapes has none")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--num-frames", type=int, default=16, help="frames in a clip (default: 16)")
    parser.add_argument("--frame-interval", type=int, default=3, help="of a video's frames, every so many (default: 3)")
    parser.add_argument("--selection", choices=SELECTIONS, default="stride", help="how they are chosen")
    parser.add_argument("--quick", action="store_true", help="read headers and first frames only")
    parser.add_argument("--clips", type=int, help="shapes: how many (default: 256)")
    parser.add_argument("--split", type=Path, help="ucf101: take the videos of this list, such as trainlist01.txt")
    parser.add_argument(
        "--frame-list",
        type=int,
        nargs="?",
        const=ORIGINAL_SIZE,
        metavar="SIZE",
        help=f"also write every frame for the original's joint training, SIZE pixels square (default: {ORIGINAL_SIZE})",
    )
    args = parser.parse_intermixed_args(argv)
    for name, kinds in OF_KIND.items():
        if getattr(args, name) is not None and args.kind not in kinds:
            raise ValueError(f"--{name.replace('_', '-')} is for {some(list(kinds))}, not for {args.kind}")
    rule = Rule(args.selection, args.num_frames, args.frame_interval)
    options = {name: value for name in OF_KIND if (value := getattr(args, name)) is not None}
    text = prepare(args.kind, args.source, args.out, rule, args.quick, **options)
    print(text.split("\n\n")[0])
    print(f"{args.out / VIDEO_LIST} written; {REPORT} beside it has more")
