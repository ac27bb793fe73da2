"""What a store says about itself: its spec, its plan of blocks, its teachers."""

import hashlib
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stillhouse.core.config import Config

from .commit import canonical_json
from .layout import FORMAT_VERSION

TRAIN = "train"
"""The split whose blocks have views and features."""


class StoreSpec(Config):
    """What a store is made of. Two stores of equal spec and source have equal content."""

    format_version: int = Field(default=FORMAT_VERSION, ge=1)
    ingest: dict[str, Any]
    """Source, splits, block size and seed, as the config gave them."""
    views: dict[str, Any]
    """The view policy: `num` views of `size` pixels, and whatever the policy draws from."""

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

    split: str
    num_rows: int = Field(ge=1)
    keys_sha256: str
    """Of the block's keys in row order, each followed by a newline."""


class StorePlan(Config):
    """Which samples are in which block. Decided once, before the first image is read."""

    block_samples: int = Field(ge=1)
    blocks: tuple[BlockPlan, ...]

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

    num_tokens: int = Field(ge=1)
    dim: int = Field(ge=1)
    grid: tuple[int, int] | None = None
    """Rows and columns of patch tokens; None for cls."""


class Preprocessing(Config):
    """How pixels become what the teacher sees: uint8 / 255, then (x - mean) / std, at `size` pixels a side."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int = Field(ge=1)


class TeacherSpec(Config):
    """A teacher's identity: another hash of weights or preprocessing is another teacher."""

    name: str
    model: str
    weights_sha256: str
    preprocessing: Preprocessing
    levels: dict[str, LevelSpec]
    codec: str
    precision: str
    licence: str = ""


def spec_differences(stored: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Each leaf at which two JSON trees differ, as 'path: stored X, asked for Y'."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            yield from spec_differences(stored.get(key), asked.get(key), f"{path}.{key}" if path else key)
    elif stored != asked:
        yield f"{path}: stored {stored!r}, asked for {asked!r}"
