"""Read and write videos.

`find`, `read` and `write` are the entry points, and `inspect` says what a file holds. `frame_folders` orders pictures.
For video streams, `stream_frames` reads the frames: `streams` decodes them, `frame_index` and `packets` say which are
shown, `geometry` turns them, and `damage` and `matroska` find errors. `array_files` finds videos in the arrays that
`array_storage` reads, and `array_ranges` says which value is black. `picture_modes` and `array_layout` convert pictures
and arrays of all kinds to RGB bytes. `formats` lists the supported files, `limits` bounds their size, `pixels` converts
between bytes and network inputs, and `page` lays out videos for viewing.
"""

from latte.video.find import list_videos
from latte.video.formats import DamagedVideoError
from latte.video.inspect import VideoFacts, inspect_video
from latte.video.pixels import from_uint8, to_uint8
from latte.video.read import count_frames, read_blocks, read_video
from latte.video.write import export_to_gif, export_to_video, write_video

__all__ = [
    "DamagedVideoError",
    "VideoFacts",
    "count_frames",
    "export_to_gif",
    "export_to_video",
    "from_uint8",
    "inspect_video",
    "list_videos",
    "read_blocks",
    "read_video",
    "to_uint8",
    "write_video",
]
