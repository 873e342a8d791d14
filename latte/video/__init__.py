"""Videos out of files and into them; `latte.video.read`, `write` and `page` hold the parts."""

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
