"""All frames of a data set as pictures, and their list, as the original's joint image-video training reads them."""

from itertools import chain
from pathlib import Path

from PIL import Image
from torch import Tensor

from latte.files import write_text
from latte.progress import Progress
from latte.train.data.video_list import VideoEntry, VideoList
from latte.video.inspect import BLOCK
from latte.video.pixels import resize_and_crop
from latte.video.read import read_blocks

FRAMES, FRAME_LIST = "frames", "train_list.txt"
ORIGINAL_SIZE = 256  # side of the frames in the original's joint training, which does not resize them


def write_frames(video_list: VideoList, out: Path, size: int) -> None:
    """Write every frame as out/frames/VIDEO/NUMBER.jpg, and the list of them as out/train_list.txt.

    The original reads a frame's UCF101 class from its line, between the first two "_", so VIDEO is then v_Class_...

    Args:
        video_list: The videos.
        out: The folder to write to.
        size: Side of the square frames, in pixels.

    Raises:
        OSError: The files cannot be written.
        ValueError: Two videos would get the same name, or the name of a video or a class cannot be written to the list.
    """
    folders: dict[str, VideoEntry] = {}
    for video in video_list.videos:
        name = folder_name(video_list, video)
        if not name.isprintable():
            raise ValueError(f"the name {video.path!r} cannot be printed in a list: rename it")
        if name in folders:
            raise ValueError(f"frames of {video.path} and {folders[name].path} would both be in {FRAMES}/{name}")
        folders[name] = video
    lines = []
    for name, video in Progress(folders.items(), desc="writing frames", unit="video", leave=False):
        (out / FRAMES / name).mkdir(parents=True)
        blocks = (
            resize_and_crop(frames, size) for frames in read_blocks(video_list.path(video), BLOCK, video.when_damaged)
        )
        for number, frame in enumerate(chain.from_iterable(blocks)):
            lines.append(f"{name}/{number:06d}.jpg")
            save_jpeg(frame, out / FRAMES / lines[-1])
    write_text(out / FRAME_LIST, "\n".join(lines) + "\n")


def folder_name(video_list: VideoList, video: VideoEntry) -> str:
    """The folder of a video's frames, relative to FRAMES."""
    path = Path(video.path)
    if not path.name:  # the folder itself, which holds pictures
        path = Path(video_list.root.absolute().name)
    if video_list.kind != "ucf101":
        return path.with_suffix("").as_posix()
    name = video_list.classes[video.label]
    if "_" in name:
        raise ValueError(f"class {name!r} has a '_', where the original cuts its name off: rename its folder")
    return "_".join(["v", name, *path.stem.split("_")[2:]])


def save_jpeg(frame: Tensor, path: Path) -> None:
    """Write a frame (3, h, w) uint8 with hardly any loss."""
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path, quality=95, subsampling=0)
