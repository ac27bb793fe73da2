"""What a store says about itself: its spec, its plan of blocks, its teachers."""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from stillhouse.core.config import Config

from .foreign import MAX_BLOCK_ROWS, MAX_DIM, MAX_INNER_CHUNK_BYTES, MAX_LEVELS, MAX_TEXT, MAX_TOKENS
from .layout import FORMAT_VERSION, NAME
from .signed_json import canonical_json

TRAIN = "train"
"""The split whose blocks have views and features."""
MAX_VIEWS = 1000
MAX_VIEW_SIZE = 4096
MAX_BLOCKS = 999_999

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Notice = Annotated[str, Field(max_length=1 << 16)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class StoreSpec(Config):
    """What a store is made of. Two stores of equal spec and source have equal content."""

    format_version: int = Field(default=FORMAT_VERSION, strict=True, ge=1)
    ingest: dict[str, Any]
    """Source, splits, block size and seed, as the config gave them."""
    views: dict[str, Any]
    """The view policy: `num` views of `size` pixels, and whatever the policy draws from."""

    @model_validator(mode="after")
    def _views_are_bounded(self) -> Self:
        for name, most in (("num", MAX_VIEWS), ("size", MAX_VIEW_SIZE)):
            if type(self.views.get(name)) is not int or not 1 <= self.views[name] <= most:
                raise ValueError(f"views.{name} must be a whole number from 1 to {most}")
        return self

    @property
    def num_views(self) -> int:
        return int(self.views["num"])

    @property
    def view_size(self) -> int:
        return int(self.views["size"])

    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


class BlockPlan(Config):
    """One block: rows [block * block_samples, block * block_samples + num_rows) of one split."""

    split: Text
    num_rows: int = Field(strict=True, ge=1, le=MAX_BLOCK_ROWS)
    keys_sha256: Sha256
    """Of the block's keys in row order, each followed by a newline."""


class StorePlan(Config):
    """Which samples are in which block. Decided once, before the first image is read."""

    block_samples: int = Field(strict=True, ge=1, le=MAX_BLOCK_ROWS)
    blocks: tuple[BlockPlan, ...] = Field(max_length=MAX_BLOCKS)

    @model_validator(mode="after")
    def _rows_fit_their_block(self) -> Self:
        for number, block in enumerate(self.blocks):
            if block.num_rows > self.block_samples:
                raise ValueError(f"block {number} has {block.num_rows} rows; a block has at most {self.block_samples}")
        return self

    @property
    def num_samples(self) -> int:
        return sum(block.num_rows for block in self.blocks)

    @property
    def num_rows(self) -> int:
        """N of the arrays: every block has room for `block_samples` rows."""
        return len(self.blocks) * self.block_samples

    def num_samples_of(self) -> dict[str, int]:
        """Samples by split, quarantined ones included."""
        found: dict[str, int] = {}
        for block in self.blocks:
            found[block.split] = found.get(block.split, 0) + block.num_rows
        return found

    def blocks_of(self, split: str) -> list[int]:
        return [number for number, block in enumerate(self.blocks) if block.split == split]


class LevelSpec(Config):
    """One token kind of a teacher."""

    num_tokens: int = Field(strict=True, ge=1, le=MAX_TOKENS)
    dim: int = Field(strict=True, ge=1, le=MAX_DIM)
    grid: tuple[int, int] | None = None
    """Rows and columns of patch tokens; None for cls."""

    @model_validator(mode="after")
    def _fits_a_row(self) -> Self:
        if self.num_tokens * self.dim * 4 > MAX_INNER_CHUNK_BYTES:
            raise ValueError(f"{self.num_tokens} tokens of {self.dim} dimensions are more than a row may hold")
        if self.grid is not None and (min(self.grid) < 1 or self.grid[0] * self.grid[1] != self.num_tokens):
            raise ValueError(f"a grid of {self.grid[0]} x {self.grid[1]} is not one of {self.num_tokens} tokens")
        return self


class Preprocessing(Config):
    """How pixels become what the teacher sees: uint8 / 255, then (x - mean) / std, at `size` pixels a side."""

    mean: tuple[Finite, Finite, Finite]
    std: tuple[Finite, Finite, Finite]
    size: int = Field(strict=True, ge=1, le=MAX_VIEW_SIZE)


class TeacherSpec(Config):
    """A teacher's identity: another hash of weights or preprocessing is another teacher."""

    name: Name
    model: Text
    weights_sha256: Sha256
    preprocessing: Preprocessing
    levels: dict[Name, LevelSpec] = Field(max_length=MAX_LEVELS)
    codec: Text
    precision: Text
    licence: Text = ""
    notice: Notice = ""
    """What the licence asks to go with whatever is made from the teacher."""

    def sha256(self) -> str:
        """The same however many optional fields a later version adds."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude_defaults=True))).hexdigest()

    def entry(self) -> dict[str, Any]:
        """What a store writes down: without a notice it is as it was before there were any."""
        return self.model_dump(mode="json", exclude=None if self.notice else {"notice"})

    def deciding(self) -> dict[str, Any]:
        """What another teacher of that name may not differ in; a notice changes no feature."""
        return self.model_dump(mode="json", exclude={"notice"})


def spec_differences(stored: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Each leaf at which two JSON trees differ, as 'path: stored X, asked for Y'."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            yield from spec_differences(stored.get(key), asked.get(key), f"{path}.{key}" if path else key)
    elif stored != asked:
        yield f"{path}: stored {stored!r}, asked for {asked!r}"
