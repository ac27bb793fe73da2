"""Settings of the segmentation task. A preset fills in whatever the config does not give."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from stillhouse.core.config import Config

from ..base import TaskConfig
from ..encode import Statistics
from .presets import PRESETS, with_preset


class ScenesConfig(Config):
    """Generated scenes (`dense/scenes.py`) as a data set."""

    train: int = Field(64, ge=1)
    val: int = Field(16, ge=1)
    height: int = Field(48, ge=8)
    width: int = Field(64, ge=8)
    num_classes: int = Field(5, ge=3, le=8)
    boards: int = Field(4, ge=0)
    border: bool = True
    noise: int = Field(4, ge=0)
    seed: int = Field(0, ge=0, lt=1 << 64)


class SegmentationConfig(TaskConfig):
    """Train a head on crops of the training images, judge it on the validation images at their own size."""

    kind: Literal["segmentation"] = "segmentation"
    path: str = ""
    """The folder that holds `ADEChallengeData2016`, `VOCdevkit`, or `images` and `masks`; scenes need none."""
    set: Literal["ade20k", "voc2012", "scenes", "folder"]
    num_classes: int | None = Field(None, ge=2, le=255)
    """Of `folder`, whose masks hold 0 .. num_classes - 1 and 255 for what is not judged."""
    scenes: ScenesConfig = ScenesConfig()
    preset: str = "dinov2_linear"
    """dinov2_linear, dinov2_ms, proteus_linear or proteus_upernet; any number of it can be given otherwise."""
    head: Literal["linear", "upernet"] = "linear"
    blocks: Literal["last", "last_four", "proteus"] | Annotated[tuple[int, ...], Field(min_length=1)] = "last"
    """Whose maps the head reads. `proteus`: 3, 5, 7, 11 of 12 blocks and 7, 11, 15, 23 of 24. Numbers count from 0."""
    norm: bool = True
    """The encoder's final norm after each of these blocks."""
    head_norm: bool = True
    """Batch norm before the linear head's classifier; UperNet always has its own."""
    fine_tune: bool = False
    """Train the encoder too, on a copy."""
    crop: int | None = Field(512, ge=8)
    """Side of training crops and of windows, and the shorter side of a resized image. null: the encoder's own size."""
    long_side: float | None = Field(4.0, ge=1)
    """Longest side of a resized image as a multiple of `crop`; null: any."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Training images are resized by a uniform draw between these."""
    stride: float = Field(2 / 3, gt=0, le=1)
    """Between windows, as a share of `crop`, rounded down."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Sizes at which an image is judged; their probabilities are averaged."""
    flip: bool = False
    """Judge the mirrored image too."""
    statistics: Statistics = "imagenet"
    """What pixels are normalised by; `subject`: the encoder's own."""
    iterations: int = Field(40_000, ge=1)
    batch: int = Field(16, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup: int = Field(1500, ge=0)
    """Steps from 1e-6 of the learning rate to all of it."""
    decay_from: Literal["start", "warmup"] = "start"
    """Where the linear decay to 0 begins."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Of the learning rate, from each block of a trained encoder to the one before it."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Of a trained ViT's last block; linearly from 0 at the first one."""
    dropout: float = Field(0.0, ge=0, lt=1)
    aux_weight: float = Field(0.0, ge=0)
    """Of UperNet's auxiliary loss on the third map."""
    seed: int = Field(0, ge=0, lt=1 << 64)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        return with_preset(given) if isinstance(given, Mapping) else given

    @field_validator("preset")
    @classmethod
    def _published(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        return preset

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.set == "folder" and self.num_classes is None:
            raise ValueError("set: folder needs num_classes, one more than the largest label")
        if self.set != "folder" and self.num_classes is not None:
            raise ValueError(f"set: {self.set} has its own number of classes; leave num_classes out")
        if self.set != "scenes" and not self.path:
            raise ValueError(f"set: {self.set} needs path, the folder that it was unpacked into")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio is (least, largest), both above 0")
        if self.batch < 2 and (self.head == "upernet" or self.head_norm):
            raise ValueError("batch norm needs a batch of at least 2")
        return self
