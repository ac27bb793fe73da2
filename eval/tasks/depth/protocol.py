"""Every number of a depth protocol, and what it means for one encoder.

The published protocols are the tables of `presets.py`.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError

from ..dense.features import quarters
from ..encode import Statistics

BlockRule = Literal["last", "dinov2", "proteus"]
Positive = Annotated[int, Field(ge=1)]
BLOCKS: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "dinov2": {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)},
    "proteus": {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)},
}
"""By how many blocks an encoder has, counted from 0. Another depth: the last block of each quarter (`quarters`)."""


class Protocol(Config):
    """How heads are trained and judged. Sizes in pixels are for images whose shorter side is `side`."""

    head: Literal["linear", "dpt", "dpt-norm"]
    """`dpt`: DINOv2's, `dpt-norm`: Proteus', with batch normalisation and no output activation."""
    blocks: BlockRule | tuple[Annotated[int, Field(ge=0)], ...]
    final_norm: bool
    """The encoder's final norm after each block; no published depth protocol has it."""
    statistics: Statistics
    """Of pixels; `half` is (x - 127.5) / 127.5."""
    min_depth: float = Field(0.001, gt=0)
    max_depth: float = Field(10.0, gt=0)
    """Metres: the range of the bins, and of the truth that is judged."""
    bins: int = Field(256, ge=2)

    loss: Literal["sig", "silog"]
    gradient: Literal["none", "as-written", "as-intended"]
    """The gradient term: `as-written` is 0 for a `group` of up to two images."""
    gradient_weight: float = Field(0.5, ge=0)

    iterations: int = Field(ge=1)
    batch: int = Field(ge=1)
    group: int = Field(ge=1)
    """Images that the loss is computed of at once and averaged over the batch: what a GPU of the published run had."""
    lr: float = Field(gt=0)
    lr_wide: float = Field(gt=0)
    """The learning rate for encoders of more than 384 dimensions."""
    backbone_lr: float = Field(ge=0)
    """Share of the learning rate that the encoder is trained by; 0: it is frozen."""
    drop_path: float = Field(ge=0, lt=1)
    """Of the last block while the encoder is trained, growing to it from 0 at the first."""
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "linear"]
    warmup: int = Field(ge=0)
    warmup_from: float = Field(gt=0, le=1)
    clip: float | None = Field(gt=0)

    side: Positive
    """Shorter side of a test image as the encoder sees it."""
    train_side: Positive
    """Shorter side of a training image, times a draw from `ratio`."""
    ratio: tuple[float, float]
    crop: tuple[Positive, Positive]
    """Rows and columns of a training image; what is smaller is padded with unknown depth."""
    border: bool
    """Cut the white border of NYU's frames away in training."""
    mix: float = Field(ge=0, le=1)
    """How often a strip of an image is replaced by its depth map."""
    rotate: float = Field(ge=0)
    """Degrees up to which half of the images are turned."""
    colour: Literal["none", "toolbox", "albu"]
    window: int | None = Field(ge=1)
    """Sliding windows over test images; null: the whole image at once."""
    stride: int | None = Field(ge=1)
    clamp: bool
    """Keep predictions within min_depth .. max_depth at test time."""


def at_side(protocol: Protocol, side: int) -> Protocol:
    """The protocol for images whose shorter side is `side`: every size in pixels by the same factor."""
    factor = Fraction(side, protocol.side)

    def scaled(pixels: int) -> int:
        return max(1, round(pixels * factor))

    sizes: dict[str, Any] = {
        "side": side,
        "train_side": scaled(protocol.train_side),
        "crop": (scaled(protocol.crop[0]), scaled(protocol.crop[1])),
        "window": None if protocol.window is None else scaled(protocol.window),
        "stride": None if protocol.stride is None else scaled(protocol.stride),
    }
    return protocol.model_copy(update=sizes)


def resolve_blocks(rule: BlockRule | tuple[int, ...], num: int) -> tuple[int | Literal["last"], ...]:
    """The blocks that a head reads of an encoder of `num` blocks.

    Raises:
        UsageError: a block is named that the encoder does not have.
    """
    if rule == "last":
        return ("last",)
    if isinstance(rule, str):
        return BLOCKS[rule].get(num) or quarters(num)
    if any(block >= num for block in rule) or not rule:
        raise UsageError(f"blocks {list(rule)} of an encoder of {num} blocks", hint=f"count from 0 to {num - 1}")
    return rule
