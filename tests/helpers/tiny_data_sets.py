"""Tiny data sets for the tests of `latte prepare`."""

from PIL import Image

from latte.shapes.draw import make_clip
from latte.train.data.video_list import open_video_list
from latte.video.write import write_video

TAKEN = ["--num-frames", "4", "--frame-interval", "2"]  # options of the command: videos of 7 frames or more


def put(path, frames=8, size=24):
    return write_video(make_clip(1, 0, frames=frames, size=size).video, path)


def put_frames(folder, numbers, size=16, name="clip_{:05d}.png"):
    folder.mkdir(parents=True)
    for i in numbers:
        Image.new("RGB", (size, size), (i, 0, 0)).save(folder / name.format(i))


def paths(out):
    return [video.path for video in open_video_list(out).videos]
