"""`latte prepare`: checks the videos of a data set by decoding them, and lists those that training can use."""

from argparse import Namespace

from latte.folder_lock import exclusive
from latte.train.data.prepare_videos import REPORT, ClipRule, check_output_folder, prepare_data_set
from latte.train.data.video_list import VIDEO_LIST


def main(args: Namespace) -> None:
    """Check and list a data set, and print a summary."""
    rule = ClipRule(args.selection, args.num_frames, args.frame_interval)
    options = (args.quick, args.clips, args.split, args.frame_list, args.damaged)
    check_output_folder(args.out, args.source)
    with exclusive(args.out, replaced=True):
        report = prepare_data_set(args.kind, args.source, args.out, rule, *options)
    print(report.split("\n\n")[0])
    print(f"wrote {args.out / VIDEO_LIST}; see {REPORT} beside it for details")
