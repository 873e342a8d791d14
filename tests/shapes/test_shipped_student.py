"""The shipped students: four evaluations without guidance, and what they show."""

import numpy as np
import torch

from latte import LattePipeline
from latte.eval.exam import judge, questions
from latte.shapes.clip_scores import score_clips
from latte.shapes.draw import MOTIONS


def test_four_evaluations_make_the_right_motions_in_many_colours_and_shapes():
    pipe, seen = LattePipeline.from_pretrained("shapes-four"), []
    pipe.transformer.register_forward_pre_hook(lambda module, given: seen.append(given[1].tolist()))
    labels = list(range(8)) * 4
    videos = pipe(labels, seed=0, output_type="np", progress=False).frames
    assert sorted({t for each in seen for t in each}, reverse=True) == [999, 749, 499, 249]
    assert sum(map(len, seen)) == 4 * len(labels)  # no evaluation is spent on guidance
    clips = torch.from_numpy(np.asarray(videos)).mul(255).round().byte().permute(0, 1, 4, 2, 3)
    scores = score_clips(list(clips.numpy()), [MOTIONS.index(pipe.class_names[label]) for label in labels])
    assert scores["motion_accuracy"] > 0.9 and scores["colour_constancy"] > 0.9 and scores["count_accuracy"] > 0.9
    assert scores["colour_entropy"] > 0.8 and scores["shape_entropy"] > 0.7


def test_four_evaluations_show_what_the_prompts_ask_for():
    pipe, seen = LattePipeline.from_pretrained("shapes-t2v-four"), []
    pipe.transformer.register_forward_pre_hook(lambda module, given: seen.append(given[1].tolist()))
    asked, truths = questions(pipe, 32)
    scores = judge(pipe, pipe(**asked, seed=0, output_type="uint8", progress=False).frames.numpy(), truths)
    assert sorted({t for each in seen for t in each}, reverse=True) == [999, 749, 499, 249]
    assert sum(map(len, seen)) == 4 * len(truths)
    assert scores["all_right"] > 0.8 and scores["colour_constancy"] > 0.9 and scores["shape_constancy"] > 0.9
