"""Text-to-video arguments and components are rejected by class-conditional models, and vice versa."""

import numpy as np
import pytest
import torch
from awake_models import awake_pipeline
from published import PROMPTS, QUICK

from latte import LattePipeline


@pytest.fixture(scope="module")
def classes():
    return awake_pipeline(3, ["left", "right", "up"])


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"prompt_embeds": torch.zeros(1, 2, 3)}, "prompt_embeds does nothing for a model of classes"),
        ({"negative_prompt": "dark"}, "negative_prompt is for text-to-video models"),
        ({"text_mask": "strict"}, "text_mask does nothing for a model of classes"),
        ({"enable_temporal_attentions": False}, "enable_temporal_attentions does nothing for a model of classes"),
        ({"class_labels": [1]}, r"prompt \(the first argument\) and class_labels are given"),
    ],
)
def test_class_models_reject_text_arguments(classes, options, say):
    with pytest.raises(ValueError, match=say):
        classes([0], output_type="latent", **options)


def test_class_models_accept_the_defaults_of_text_arguments(classes):
    """Also equal values, not only the default object itself."""
    options = {"text_mask": "".join(["sin", "gle"]), "negative_prompt": None, "num_inference_steps": 1}
    assert classes([0], output_type="latent", progress=False, **options).frames.shape[0] == 1


def test_encoding_prompts_needs_a_text_encoder(classes, parts):
    for pipe in (LattePipeline(), LattePipeline(parts["transformer"])):
        with pytest.raises(ValueError, match=r"no text encoder|neither a text encoder"):
            pipe.encode_prompt("a dog")
    with pytest.raises(ValueError, match="is for classes: it has no prompts to encode"):
        classes.encode_prompt("a dog")
    freed = LattePipeline(text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"])
    freed.offload_text_encoder = "free"
    freed.encode_prompt("a dog")
    with pytest.raises(ValueError, match=r"no text encoder|neither a text encoder"):
        freed.encode_prompt("a dog")


@pytest.mark.parametrize("options", [{"class_labels": [0]}, {"class_labels": np.array([0, 1])}, {"num_videos": 2}])
def test_text_models_reject_class_arguments(pipe, options):
    with pytest.raises(ValueError, match="does nothing for a text-to-video model"):
        pipe(PROMPTS[0], **QUICK, **options)


def test_parts_of_the_other_kind_are_refused(classes, parts):
    with pytest.raises(ValueError, match="text_encoder belongs to a text-to-video model"):
        LattePipeline(classes.transformer, text_encoder=parts["text_encoder"])
    with pytest.raises(ValueError, match="class_names belong to a class-conditional model"):
        LattePipeline(**parts, class_names=["left"])
