"""The sections `ingest` and `teachers` of a pipeline."""

from typing import Literal

from pydantic import Field, field_validator

from stillhouse.core.config import Config
from stillhouse.core.encoders import EncoderConfig, Precision
from stillhouse.storage.codecs import CodecName
from stillhouse.storage.specs import TRAIN

from .sources import SourceConfig


class IngestConfig(Config):
    """Which images, how they are split, how they are cut into blocks."""

    source: SourceConfig
    split: dict[str, float] = Field(default_factory=dict)
    """Shares kept out of training by key hash, e.g. `{test: 0.2}`; the rest is `train`."""
    block_samples: int = Field(default=4096, ge=1, le=65536)
    """Samples of one block: the unit of work, commit and retry."""
    order: Literal["hashed", "source"] = "hashed"
    """`hashed`: every block is a fair draw of the data; `source`: blocks follow the sorted keys."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)

    @field_validator("split")
    @classmethod
    def _shares(cls, split: dict[str, float]) -> dict[str, float]:
        if TRAIN in split:
            raise ValueError("'train' is what the other splits leave; give the shares of the others")
        if any(share <= 0 for share in split.values()) or sum(split.values()) >= 1:
            raise ValueError("shares must be above 0 and add up to less than 1")
        return split


class TeacherConfig(EncoderConfig):
    """One teacher: a model, how it sees pixels, and how its tokens are stored."""

    name: str
    """Its name in the store, e.g. `dinov2-g`."""
    mean: tuple[float, float, float] | None = None
    """Pixel statistics; None: those the model was released with."""
    std: tuple[float, float, float] | None = None
    image_size: int | None = Field(default=None, ge=1)
    """Pixels a side that the teacher sees; None: the size of the views."""
    codec: CodecName = "fp16"
    precision: Precision = "fp32"
    batch: int = Field(default=32, ge=1)
    licence: str = ""
    """Licence of the weights, carried into the store's card."""


class ExtractConfig(Config):
    """How the teacher pass runs. Nothing here changes what is stored."""

    device: str = "auto"
    threads: int = Field(default=2, ge=1)
    """Threads that decode and render images."""
