"""An encoder at another image size than it was built for."""

import copy
from dataclasses import replace
from typing import Any

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError, one_line

from ..subjects import Subject
from .base import Context


def resized(subject: Subject, size: int, context: Context) -> Subject:
    """The subject for images of `size` x `size`; that a ViT's positions are resampled is told of.

    Raises:
        UsageError: the model cannot be brought to this size.
    """
    if nearest_size(subject.encoder, size) != size:  # timm would leave the last pixels out and say nothing
        message = f"{subject.encoder.name} cannot be brought to {size} pixels: they are no whole number of patches"
        raise UsageError(message, hint=f"set `size` to {nearest_size(subject.encoder, size)}")
    encoder = at_size(subject.encoder, (size, size))
    if encoder is not subject.encoder:
        context.reporter.say(f"eval {subject.name}: position embeddings resampled to {size} pixels a side")
    return replace(subject, encoder=encoder)


def at_size(encoder: Encoder, size: tuple[int, int]) -> Encoder:
    """The encoder for images of `size` (rows, columns).

    A ViT that is built for one size is copied; the copy shares every weight but its positions, which timm resamples. A
    model that takes any size is returned as it is.

    Raises:
        UsageError: the model cannot be brought to this size.
    """
    model = encoder.model
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if not hasattr(model, "set_input_size") or built is None or tuple(built) == size:
        return encoder
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(encoder, shared)
    try:
        made.model.set_input_size(img_size=size)
    except (AssertionError, RuntimeError, ValueError) as error:
        message = f"{encoder.name} cannot be brought to {size[0]} x {size[1]} pixels: {one_line(error)}"
        raise UsageError(message, hint="set `size` to one that it takes, or to null: its own") from error
    return made


def nearest_size(encoder: Encoder, size: float) -> int:
    """`size` as the nearest whole number of patches, at least one; of a model without patches the nearest number."""
    patch = getattr(getattr(encoder.model, "patch_embed", None), "patch_size", (1, 1))[0]
    return max(1, round(size / patch)) * int(patch)
