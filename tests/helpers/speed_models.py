"""A small text-to-video model for the speed benchmark, and its timings without repetitions."""

import pytest
from awake_models import awake

from latte import LattePipeline
from latte.eval.bench import candidates
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig

SHAPE = dict(num_layers=1, num_attention_heads=2, attention_head_dim=8, caption_channels=24, sample_size=4)


def text_pipeline(**changes: int) -> LattePipeline:
    """A pipeline without a VAE; random weights, none of them zero."""
    pipe = LattePipeline(awake(LatteT2V(LatteT2VConfig(**{"video_length": 3, **SHAPE, **changes}))))
    pipe.transformer.requires_grad_(False)
    return pipe


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time calls once, and small matrices."""
    monkeypatch.setattr(candidates, "SIDES", {"cpu": 32})
    for module in ("candidates", "forward_speed", "vae_speed"):
        monkeypatch.setattr(f"latte.eval.bench.{module}.LEAST", 0.0)
