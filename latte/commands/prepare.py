"""`latte prepare`: checks the videos of a data set by decoding them, and lists those that training can use."""

from pathlib import Path
from typing import get_args

from latte.commands.parser import Parser
from latte.folder_lock import exclusive
from latte.train.data.frame_list import ORIGINAL_SIZE
from latte.train.data.layouts import LAYOUTS
from latte.train.data.prepare_videos import DRAWN_BY_DEFAULT, ClipRule, check_output_folder, prepare_data_set
from latte.train.data.video_list import REPORT, VIDEO_LIST
from latte.train.data.windows import SELECTIONS
from latte.video.damage import WhenDamaged


def main(argv: list[str]) -> None:
    """Check and list a data set, and print a summary."""
    parser = Parser(prog="latte prepare", description=__doc__)
    add = parser.add_argument
    kinds = "; ".join(f"{name}: {layout.description}" for name, layout in LAYOUTS.items())
    add("kind", choices=LAYOUTS, help=kinds)
    add("source", nargs="?", type=Path, metavar="SRC", help="folder of the data set; leave it out for shapes")
    add("--out", type=Path, required=True, help="folder to write")
    add("--num-frames", type=int, default=16, help="frames in a clip (default: 16)")
    add("--frame-interval", type=int, default=3, help="distance between a clip's frames in the video (default: 3)")
    add("--selection", choices=SELECTIONS, default="stride", help="how the frames are chosen (default: stride)")
    add("--quick", action="store_true", help="read only headers and first frames")
    words = "damaged videos: leave them out (raise, the default), or take them as FFmpeg conceals the damage"
    add("--damaged", choices=get_args(WhenDamaged), default="raise", help=words)
    add("--clips", type=int, help=f"shapes: number of videos to draw (default: {DRAWN_BY_DEFAULT})")
    add("--split", type=Path, help="ucf101: take only the videos of this list, such as trainlist01.txt")
    frames = f"also write every frame, SIZE pixels square, for the original's joint training (default: {ORIGINAL_SIZE})"
    add("--frame-list", type=int, nargs="?", const=ORIGINAL_SIZE, metavar="SIZE", help=frames)
    args = parser.parse_intermixed_args(argv)
    rule = ClipRule(args.selection, args.num_frames, args.frame_interval)
    options = (args.quick, args.clips, args.split, args.frame_list, args.damaged)
    check_output_folder(args.out, args.source)
    with exclusive(args.out, replaced=True):
        report = prepare_data_set(args.kind, args.source, args.out, rule, *options)
    print(report.split("\n\n")[0])
    print(f"wrote {args.out / VIDEO_LIST}; see {REPORT} beside it for details")
