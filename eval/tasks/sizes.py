"""An encoder at another image size than it was built for."""

from dataclasses import replace

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError

from ..subjects import Subject
from .base import Context
from .dense.features import at_size, resampling


def resized(subject: Subject, size: int, context: Context) -> Subject:
    """The subject for images of `size` x `size`; that a ViT's positions are resampled is told of.

    Raises:
        UsageError: the model cannot be brought to this size.
    """
    if nearest_size(subject.encoder, size) != size:  # timm would leave the last pixels out and say nothing
        message = f"{subject.encoder.name} cannot be brought to {size} pixels: they are no whole number of patches"
        raise UsageError(message, hint=f"set `size` to {nearest_size(subject.encoder, size)}")
    if positions := resampling(subject.encoder, (size, size)):
        context.reporter.say(f"eval {subject.name}: at {size} pixels, {positions}")
    return replace(subject, encoder=at_size(subject.encoder, (size, size)))


def nearest_size(encoder: Encoder, size: float) -> int:
    """`size` as the nearest whole number of patches, at least one; of a model without patches the nearest number."""
    patch = getattr(getattr(encoder.model, "patch_embed", None), "patch_size", (1, 1))[0]
    return max(1, round(size / patch)) * int(patch)
