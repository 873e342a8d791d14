"""How much videos change from one frame to the next."""

from torch import Tensor

from latte.eval.pixels import expect_videos


def flicker(videos: Tensor) -> float:
    """VBench's temporal flickering (Huang et al., arXiv 2311.17982) of uint8 videos (b, f, 3, h, w); 1: frozen.

    One less the mean difference of consecutive frames as a share of 255. Motion lowers it as well as flicker, and a
    still picture scores best: VBench takes it of videos that ought to be static; of others, compare it with that of
    real or exact ones. ValueError: other videos than that, or of a single frame.
    """
    expect_videos(videos)
    if videos.shape[1] < 2:
        raise ValueError("flicker is of videos of two frames or more")
    each = [(video[1:].short() - video[:-1].short()).abs().double().mean() for video in videos]
    return 1 - (sum(each) / len(each)).item() / 255
