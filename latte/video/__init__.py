"""Read and write videos.

`read` and `write` are the two ends; `streams` and `array_files` decode one kind of file each; `formats` lists the
supported files; `picture_modes` and `array_layout` convert pictures and arrays of all kinds to RGB bytes; `pixels`
converts between bytes and network inputs; `page` lays videos out for the eye.
"""

from latte.video.pixels import from_uint8, to_uint8
from latte.video.read import count_frames, list_videos, read_blocks, read_video
from latte.video.write import export_to_gif, export_to_video, write_video

__all__ = [
    "count_frames",
    "export_to_gif",
    "export_to_video",
    "from_uint8",
    "list_videos",
    "read_blocks",
    "read_video",
    "to_uint8",
    "write_video",
]
