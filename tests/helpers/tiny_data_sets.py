"""Tiny data sets for the tests of `latte prepare`."""

from PIL import Image

from latte.shapes.draw import make_clip
from latte.train.data.video_list import open_video_list
from latte.video.write import write_video

TAKEN = ["--num-frames", "4", "--frame-interval", "2"]  # options of the command that take videos of 7 frames or more


def put(path, frames=8, size=24):
    return write_video(make_clip(1, 0, frames=frames, size=size).video, path)


def put_frames(folder, numbers, size=16, name="clip_{:05d}.png"):
    folder.mkdir(parents=True)
    for i in numbers:
        Image.new("RGB", (size, size), (i, 0, 0)).save(folder / name.format(i))


def put_ucf101(root):
    """Two classes of two videos, one of them short; a broken video; and videos beside and below the class folders."""
    for name in ("Biking/v_Biking_g01_c01", "Biking/v_Biking_g01_c02", "Archery/v_Archery_g01_c01"):
        put(root / f"{name}.mp4")
    put(root / "Archery/v_Archery_g02_c01.mp4", frames=6)
    put(root / "aside.mp4")
    put(root / "Biking/more/below.mp4")
    (root / "Biking/v_Biking_g09_c09.avi").write_text("no")
    (root / "Biking/v_Biking_g01_c02.txt").write_text("a bicycle\n")
    return root


def paths(out):
    return [video.path for video in open_video_list(out).videos]
