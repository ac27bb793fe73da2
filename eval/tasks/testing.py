"""What tasks are tried on: small encoders of random weights."""

from functools import cache
from typing import Any

import torch

from stillhouse.core.encoders import Encoder, create_timm, weights_sha256
from stillhouse.core.events import Reporter
from stillhouse.storage.specs import Preprocessing

from ..subjects import Subject
from .base import Context

HALF = (0.5, 0.5, 0.5)


def quiet_context() -> Context:
    """The CPU, and nothing said."""
    return Context(reporter=Reporter(quiet=True), device="cpu", threads=2, batch=16)


@cache
def tiny_vit() -> Subject:
    """Four blocks of width 48, 16 patches of 8 x 8 at 32 pixels. Shared: do not write to it."""
    args = {"embed_dim": 48, "depth": 4, "num_heads": 3, "patch_size": 8, "img_size": 32}
    return _subject("vit_tiny_patch16_224", **args)


@cache
def tiny_cnn() -> Subject:
    """Any size; its preprocessing says 32 pixels. Shared: do not write to it."""
    return _subject("test_resnet")


def _subject(model: str, **args: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = create_timm(model, num_classes=0, **args)
    encoder = Encoder(made, model).eval().requires_grad_(False)
    return Subject("tiny", encoder, Preprocessing(mean=HALF, std=HALF, size=32), weights_sha256(encoder))
